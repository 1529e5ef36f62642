"""One program on any number of devices and processes, with real ones."""

import json
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest

from deeplab_jax import runtime, sharding
from tests import processes

_PROGRAMS = pathlib.Path(__file__).parent / "programs"


def _start(first, last, folder, devices=1, height=1, **environment):
  """Starts `programs/train_tiny.py` with that many forced CPU devices."""
  return processes.start(
    *(_PROGRAMS / "train_tiny.py", first, last, folder, height),
    devices=devices,
    DEEPLAB_CACHE=str(folder.parent / "cache"),
    **environment,
  )


def _losses(process: subprocess.Popen) -> list[float]:
  return json.loads(processes.finish(process).splitlines()[-1])


def _start_two(first, last, folder, **settings) -> list[subprocess.Popen]:
  """Two processes of four devices each, joined over loopback."""
  return [
    _start(first, last, folder, devices=4, **settings, **environment)
    for environment in processes.joined()
  ]


@pytest.fixture(scope="module")
def on_one(tmp_path_factory) -> list[float]:
  """The losses of 20 steps on one device."""
  folder = tmp_path_factory.mktemp("one") / "run"
  return _losses(_start(0, 20, folder))


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory) -> tuple[list[float], pathlib.Path]:
  """The losses of 10 steps on eight devices, and the checkpoint of them."""
  folder = tmp_path_factory.mktemp("eight") / "run"
  return _losses(_start(0, 10, folder, devices=8)), folder


def test_training_learns_so_that_agreement_means_something(on_one):
  assert on_one[-1] < 0.7 * on_one[0]


def test_eight_devices_agree_with_one(on_one, on_eight):
  np.testing.assert_allclose(on_eight[0], on_one[:10], rtol=1e-5)


def test_a_checkpoint_of_eight_devices_continues_on_one(
  on_one, on_eight, tmp_path
):
  folder = shutil.copytree(on_eight[1], tmp_path / "run")
  losses = _losses(_start(10, 20, folder))
  np.testing.assert_allclose(losses, on_one[10:], rtol=1e-5)


def test_a_checkpoint_of_eight_devices_continues_in_two_processes(
  on_one, on_eight, tmp_path
):
  folder = shutil.copytree(on_eight[1], tmp_path / "run")
  first, second = _start_two(10, 20, folder)
  losses = _losses(first)
  second.communicate(timeout=60)
  assert second.returncode == 0
  np.testing.assert_allclose(losses, on_one[10:], rtol=1e-5)


def test_a_checkpoint_continues_where_devices_share_pictures(
  on_one, on_eight, tmp_path
):
  folder = shutil.copytree(on_eight[1], tmp_path / "run")
  losses = _losses(_start(10, 20, folder, devices=8, height=4))
  np.testing.assert_allclose(losses, on_one[10:], rtol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_of_shared_pictures_continues_in_two_processes(
  on_one, tmp_path
):
  """Each picture is shared by all devices, then by those of a process."""
  losses = _losses(_start(0, 10, tmp_path / "run", devices=8, height=8))
  first, second = _start_two(10, 20, tmp_path / "run", height=4)
  losses += _losses(first)
  second.communicate(timeout=60)
  assert second.returncode == 0
  np.testing.assert_allclose(losses, on_one, rtol=1e-5)


# What the paper has not, all of it.
_RECIPE = ";".join(
  (
    *("optimizer='adamw'", "lr=0.01", "lr_policy='cosine'", "layer_decay=0.8"),
    *("clip_norm=0.5", "freeze=('aspp',)", "thaw_step=5", "ema_decay=0.9"),
  )
)
_SUM = "task='multilabel';loss='cross_entropy+dice';train_batch_norm=False"
_SUM_OF_PARTS = f"accumulate_steps=2;{_SUM}"
_CASES = (
  "batch_norm_groups=1",  # of all devices
  "batch_norm_groups=4",  # of two devices each
  "batch_norm_groups=8",  # a device each
  "accumulate_steps=2",
  "train_batch_norm=False",
  "accumulate_steps=2;train_batch_norm=False",
  _RECIPE,
  _SUM,
  _SUM_OF_PARTS,
)
# Each picture of 17 rows is shared by so many devices.
_SHARED = (
  "mesh_height=8",
  "mesh_height=4;accumulate_steps=2;batch_norm_groups=2;hard=0.3;remat=True",
  "mesh_height=2",
)


@pytest.fixture(scope="module")
def divided() -> dict[str, list[dict]]:
  """By case, twenty steps on one device and on eight."""
  words = _PROGRAMS / "divide_tiny.py", *_CASES, *_SHARED
  return json.loads(processes.finish(processes.start(*words, devices=8)))


def _assert_same_training(found: dict, expected: dict) -> None:
  """Losses, weights and statistics; found: 1.3e-6 of losses, 4e-7."""
  np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
  for one, other in zip(found["variables"], expected["variables"]):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", _CASES)
def test_groups_and_parts_of_a_batch_are_the_same_on_any_devices(divided, case):
  on_one, on_eight = divided[case]
  _assert_same_training(on_eight, on_one)


@pytest.mark.parametrize("case", _SHARED)
def test_pictures_that_devices_share_train_as_on_one(divided, case):
  on_one, on_eight = divided[case]
  _assert_same_training(on_eight, on_one)


def test_devices_that_share_pictures_send_rows_and_gather_logits_only(divided):
  """Logits, of 9 rows, 2 for each of 8 devices, before they are resized."""
  found = divided["mesh_height=8"][1]["collectives"]
  assert found["collective-permute"]["count"] > 0
  logits = 4 * 16 * (8 * 2) * 9 * 3  # bytes of (b, h, w, classes)
  assert found["all-gather"] == {"count": 1, "bytes": logits}


def test_parts_on_eight_devices_are_the_whole_batch_on_one(divided):
  """Where batch norm is frozen; trained, each part has its own statistics."""
  whole, _ = divided["train_batch_norm=False"]
  _, parts = divided["accumulate_steps=2;train_batch_norm=False"]
  _assert_same_training(parts, whole)
  _assert_same_training(divided[_SUM_OF_PARTS][1], divided[_SUM][0])


def test_groups_within_devices_exchange_no_batch_statistics(divided):
  """What is left is what frozen batch norm reduces, and the moving means."""
  counts = {
    case: on_eight["collectives"]["all-reduce"]["count"]
    for case, (_, on_eight) in divided.items()
  }
  assert counts["batch_norm_groups=8"] == counts["train_batch_norm=False"]
  assert counts["batch_norm_groups=4"] > counts["batch_norm_groups=8"]
  assert all(on_one["collectives"] == {} for on_one, _ in divided.values())


@pytest.mark.slow
@pytest.mark.parametrize(
  "encoder",
  (
    "convnext_atto",
    "mobilenetv4_conv_small",
    "tf_efficientnetv2_b0",
    "vit_small_patch14_dinov2",
  ),
)
def test_encoders_train_alike_on_any_devices_and_continue(encoder, tmp_path):
  words = _PROGRAMS / "divide_encoders.py", tmp_path, encoder
  printed = processes.finish(processes.start(*words, devices=8))
  whole, divided = json.loads(printed.splitlines()[-1])[encoder]
  np.testing.assert_allclose(divided, whole, rtol=1e-5)


_LATE = """
import time
import jax
from jax.experimental import multihost_utils
from deeplab_jax import runtime
runtime.start_runtime()
if jax.process_index() == 1:
  time.sleep(35)  # as if it compiled what the other had in its cache
print(multihost_utils.process_allgather(jax.numpy.ones(1)).sum())
"""


@pytest.mark.slow
def test_a_process_waits_for_one_that_compiles_longer(tmp_path):
  """Beyond the 30 s after which Gloo, which joins CPUs, would give up."""
  cache = {"DEEPLAB_CACHE": str(tmp_path)}
  both = [
    processes.start("-c", _LATE, **cache, **environment)
    for environment in processes.joined()
  ]
  for process in both:  # the last line comes after what Gloo tells
    assert processes.finish(process).splitlines()[-1] == "2.0"


def test_a_process_without_its_number_is_refused(monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
  with pytest.raises(ValueError, match="JAX_PROCESS_ID must be set"):
    runtime.start_runtime()


def test_global_batch_keeps_rows_in_order():
  rows = np.arange(6, dtype=np.uint8).reshape(3, 2)
  placed = sharding.global_batch({"label": rows}, sharding.make_mesh())
  np.testing.assert_array_equal(placed["label"], rows)


def test_the_compilation_cache_is_left_alone_where_jax_has_one(
  monkeypatch, tmp_path
):
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", "/mine")
    runtime.start_runtime()
    assert jax.config.jax_compilation_cache_dir == "/mine"
    jax.config.update("jax_compilation_cache_dir", None)
    runtime.start_runtime()
    found = jax.config.jax_compilation_cache_dir
    assert found == str(tmp_path / "compiled")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
