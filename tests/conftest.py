"""Fixtures shared by all tests."""

import functools
import gc
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata

import pytest

from tests.exactness import Exactness

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_EXACTNESS = pytest.StashKey[Exactness]()
_SESSION = "DEEPLAB_TESTS_FOLDER"  # in the environment
# Most of the time of the tests is that in which programs are compiled, which
# the tests then run a few times. So LLVM is told not to optimise, here and in
# the processes that tests start, but for slow tests and those of exactness;
# they compile as users do.
_QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# Beside that, `make test` takes XLA's older way to write loops, in half the
# time: 12 and 6 CPU seconds for a training step of ResNet-50.
_OLD_LOOPS = "xla_cpu_use_fusion_emitters"

_LARGE = 2 << 30  # bytes of a worker's memory

# The files that `make check` leaves to `make test`, by what takes long in them.
# A file that is not named is in both, and `make check` tells if it should not.
_COMPILES = {
  "compile networks": """
    channels checkpoints checkpoints_damage cuda encoders encoders_reference
    encoders_vit encoders_vit_reference evaluate export_command export_networks
    export_onnx export_primitives export_serving export_stablehlo export_tflite
    export_web geo geo_hidden geo_training half_pixel hostile_names
    import_weights import_weights_averages import_weights_deeplabs
    import_weights_reference import_weights_sigmoids import_weights_torch
    inference_fusion inference_network inference_onednn inference_segmenter
    late_crops
    losses_defined losses_sigmoids models_atrous models_deeplab
    models_depthwise models_golden models_layers models_loops multilabel
    official_weights one_answer remote train_auxiliary train_folded_norms
    train_step train_step_golden train_unreached_taps zoo
    """,
  "trace networks of full depth": "config docs_results plan summary tables",
  "start processes that train, predict or build": """
    benchmarks chain configs_run data_hostile data_published data_segmentation
    data_staging doctor doctor_sound extending import_weights_command launch
    launch_local main notebooks open_once peers predict prepare readme sharding
    shared_pictures train_continuing train_initialize train_lock train_run
    """,
}


def pytest_addoption(parser: pytest.Parser) -> None:
  """Adds the options that `make exactness` and `make check` give."""
  parser.addoption("--exactness", type=pathlib.Path, help="write errors here")
  parser.addoption(
    "--longest", type=float, help="CPU seconds after which a test fails"
  )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Marks the tests of the files of `_COMPILES`, and begins with those.

  So no worker is left alone with a long file in the end.
  """
  names = [f"test_{name}" for name in " ".join(_COMPILES.values()).split()]
  order = {name: place for place, name in enumerate(names)}
  files = {
    path.stem for path in pathlib.Path(__file__).parent.glob("test_*.py")
  }
  if missing := order.keys() - files:
    raise pytest.UsageError(f"_COMPILES names no file: {sorted(missing)}")
  for item in items:
    if item.path.stem in order:
      item.add_marker(pytest.mark.compiles)
  items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
  """Fails a test that takes more CPU time than `--longest` allows."""
  began = sum(os.times()[:4])
  result = yield
  limit, taken = item.config.getoption("--longest"), sum(os.times()[:4]) - began
  if limit and taken > limit:
    pytest.fail(
      f"took {taken:.1f} s of CPU time, above {limit:g}: make it quicker, or "
      "name its file in _COMPILES of tests/conftest.py"
    )
  return result


def pytest_runtest_teardown(
  item: pytest.Item, nextitem: pytest.Item | None
) -> None:
  """Forgets the programs of a file if they have become many.

  A worker would hold some seven gigabytes in the end.
  """
  if nextitem is None or nextitem.path == item.path:
    return
  jax, memory = sys.modules.get("jax"), pathlib.Path("/proc/self/statm")
  if jax is None or not memory.exists():
    return
  pages = int(memory.read_text().split()[1])
  if pages * os.sysconf("SC_PAGE_SIZE") > _LARGE:
    jax.clear_caches()
    gc.collect()


def pytest_configure(config: pytest.Config) -> None:
  """Begins to collect errors, and makes what all workers share."""
  # Traces are millions of objects, which Python would look through again and
  # again: a quarter of the time of tests that trace networks.
  gc.set_threshold(100_000, 50, 100)
  config.stash[_EXACTNESS] = Exactness()
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell's "&" leaves it; processes started here would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
  slow = "slow" in config.option.markexpr.replace("not slow", "")
  if not slow and not config.option.exactness:
    os.environ.setdefault(_QUICKLY, "1")
    # Workers have what was found.
    if "not compiles" not in config.option.markexpr and _is_first():
      _write_old_loops()
  if _is_first():
    folder = tempfile.mkdtemp(prefix="deeplab_jax_tests_")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(lambda: os.environ.pop(_SESSION))
    os.environ[_SESSION] = folder
    # Equal programs are compiled once for all tests, their workers and the
    # processes that they start. jax reads this when it is imported, later.
    programs = os.path.join(folder, "programs")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


def _is_first() -> bool:
  """Whether this is no worker, which finds the folder of another process."""
  return _SESSION not in os.environ


def _write_old_loops() -> None:
  """Sets the flag if jaxlib has it: it ends the process at an unknown one."""
  flags = os.environ.get("XLA_FLAGS", "")
  if _OLD_LOOPS in flags:
    return
  flags = f"{flags} --{_OLD_LOOPS}=false".strip()
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  start = [sys.executable, "-c", "import jax; jax.devices()"]
  tried = subprocess.run(start, env=environment, capture_output=True)
  if not tried.returncode:
    os.environ["XLA_FLAGS"] = flags


def pytest_terminal_summary(terminalreporter) -> None:
  """Says what the tests ran with."""
  names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
  versions = [f"{name} {metadata.version(name)}" for name in names]
  python = f"Python {platform.python_version()}"
  terminalreporter.write_line(", ".join([python, *versions]))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
  """Writes the collected errors if all tests passed."""
  path = session.config.getoption("--exactness")
  if path and exitstatus == pytest.ExitCode.OK:
    session.config.stash[_EXACTNESS].write(path)


@pytest.fixture
def optimized() -> Iterator[None]:
  """LLVM optimises, for a test that computes for longer than it compiles."""
  import jax  # not before `pytest_configure`

  name = _QUICKLY.lower()
  jax.config.update(name, False)
  yield
  jax.config.update(name, os.environ.get(_QUICKLY) == "1")


@pytest.fixture
def users_jit(optimized) -> Callable:
  """`jax.jit` that compiles as it does for users, to the bit."""
  import jax

  loops = _OLD_LOOPS in os.environ.get("XLA_FLAGS", "")
  options = {_OLD_LOOPS: True} if loops else None
  return functools.partial(jax.jit, compiler_options=options)


@pytest.fixture
def shallow_backbones(monkeypatch) -> Iterator[None]:
  """Leaves deep backbones every kind of unit, and few of each."""
  from deeplab_jax.models import convnext, efficient, resnet, vit, xception
  from tests.random_variables import abstract_variables

  for name in resnet.UNITS:
    monkeypatch.setitem(resnet.UNITS, name, (2, 2, 2, 3))
  for name, blocks in xception.BLOCKS.items():
    few = tuple(b._replace(units=min(b.units, 2)) for b in blocks)
    monkeypatch.setitem(xception.BLOCKS, name, few)
  for name, variant in convnext.VARIANTS.items():
    few = variant._replace(depths=(1, 1, 2, 1))
    monkeypatch.setitem(convnext.VARIANTS, name, few)
  for name, variant in efficient.VARIANTS.items():
    few = tuple(stage[:1] + stage[1:][-1:] for stage in variant.stages)
    monkeypatch.setitem(efficient.VARIANTS, name, variant._replace(stages=few))
  for name, variant in vit.VARIANTS.items():
    monkeypatch.setitem(vit.VARIANTS, name, variant._replace(depth=4))
  abstract_variables.cache_clear()  # these networks are equal to deep ones
  yield
  abstract_variables.cache_clear()


@pytest.fixture(scope="module")
def tiny_backbone() -> Iterator[None]:
  """Registers the backbone "tiny"."""
  from deeplab_jax.models import BACKBONES
  from tests.tiny_backbone import TINY

  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(BACKBONES, "tiny", TINY)
    yield


@pytest.fixture(scope="session")
def exactness(pytestconfig: pytest.Config) -> Exactness:
  """Where tests on golden files report and check their errors."""
  return pytestconfig.stash[_EXACTNESS]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference facts, real images and weights (not public).

  `$DEEPLAB_SHARED`, else `../shared` beside the checkout. Tests that use it
  skip without it, or fail if `$DEEPLAB_REQUIRE_SHARED` is set (`.ci/run`).
  """
  default = _REPOSITORY.parent / "shared"
  folder = pathlib.Path(os.environ.get("DEEPLAB_SHARED", default))
  if (folder / "reference").is_dir():
    return folder
  message = f"SKIPPED FOR LACK OF DATA: no reference folder at {folder}"
  if os.environ.get("DEEPLAB_REQUIRE_SHARED"):
    pytest.fail(message)
  pytest.skip(message)


@pytest.fixture(scope="session")
def shapes_dir() -> str:
  """A data directory with `shapes`, built once for all workers: to read."""
  # Not above: it imports TFDS, for which single tests need not wait.
  from deeplab_jax.data import build

  folder = os.path.join(os.environ[_SESSION], "data")
  build.build("shapes", data_dir=folder)
  return folder
