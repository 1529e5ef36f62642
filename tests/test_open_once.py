"""A data set is opened once at each door: a folder may change behind it."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from deeplab_jax import config as config_lib
from deeplab_jax import doctor, evaluate, plan, prepare, train
from deeplab_jax.data import segmentation
from deeplab_jax.data.builders import trees
from deeplab_jax.data.changes import Changes
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import overfit
from deeplab_jax.train import continuing, records
from deeplab_jax.train import run as run_lib
from deeplab_jax.train.progress import Progress
from deeplab_jax.train.state import initializer
from tests import processes
from tests.cheap_step import make_cheap_step

_CONFIG = Path(__file__).parent / "programs/tiny_config.py"


def _write_pair(root, name, seed=0):
  """An image of blobs and a mask of the classes 0, 1 and 2."""
  rng = np.random.default_rng(seed)
  mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((10, 10), int))
  image = 80 * mask[..., None] + rng.integers(0, 60, (40, 40, 3))
  for kind, pixels in (("images", image), ("masks", mask)):
    (root / kind).mkdir(parents=True, exist_ok=True)
    file = root / kind / f"{name}.png"
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(file)


def _list(root, split, names):
  (root / f"{split}.txt").write_text("\n".join(names))


def _folder(root) -> Path:
  for index, name in enumerate("abcdefgh"):
    _write_pair(root, name, seed=index)
  _list(root, "train", "abcdef")
  _list(root, "val", "gh")
  (root / "classes.txt").write_text("sky\nroad\ncar\n")
  return root


def _config_of(root, **fields):
  config = config_lib.load(str(_CONFIG))
  config.update(steps=3, eval_first=False, checkpoint_every=3, **fields)
  config.data.update(
    name="folder", path=str(root), data_dir=str(root.parent / "data")
  )
  return config


def _change(root) -> None:
  """Adds, removes and alters files of both splits."""
  _write_pair(root, "new", seed=20)
  _list(root, "train", [*"abcdef", "new"])
  _list(root, "val", ["h", "new"])
  _write_pair(root, "a", seed=30)
  for kind in ("images", "masks"):
    (root / f"{kind}/g.png").unlink()


class _Counts:
  """How often a folder was walked, and a prepared data set opened."""

  def __init__(self, monkeypatch):
    self.walks = self.openings = 0
    walk, opened = trees.files_below, tfds.builder_from_directory

    def files_below(root):
      self.walks += 1
      return walk(root)

    def builder_from_directory(folder):
      self.openings += 1
      return opened(folder)

    monkeypatch.setattr(trees, "files_below", files_below)
    monkeypatch.setattr(tfds, "builder_from_directory", builder_from_directory)


@pytest.fixture
def counts(monkeypatch):
  return _Counts(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
  """Compiles what evaluates, once, and nothing else: the data is tested."""
  creates = []

  def initializer_once(*arguments):
    creates.extend([] if creates else [initializer(*arguments)])
    return creates[0]

  with pytest.MonkeyPatch.context() as monkeypatch:
    for module in (run_lib, overfit):
      monkeypatch.setattr(module, "make_train_step", make_cheap_step)
    monkeypatch.setattr(run_lib, "initializer", initializer_once)
    monkeypatch.setattr(
      overfit, "init_state", lambda *a: initializer_once(*a)()
    )
    monkeypatch.setattr(plan, "compile_step", lambda *_: None)
    yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
  """A folder that is built, and is not to be changed."""
  root = _folder(tmp_path_factory.mktemp("once") / "mine")
  open_dataset(_config_of(root).data)
  return root


@pytest.fixture(scope="module")
def run(root, uncompiled) -> Path:
  """The workdir of a run on that folder."""
  workdir = root.parent / "run"
  with pytest.MonkeyPatch.context() as monkeypatch:
    counts = _Counts(monkeypatch)
    train.train_and_evaluate(_config_of(root), workdir)
  assert (counts.walks, counts.openings) == (1, 1)
  return workdir


def _prepare(root, run):
  data = _config_of(root).data
  flags = ["--manual_dir", data.path, "--data_dir", data.data_dir]
  assert prepare.main(["folder", *flags]) == 0


_DOORS = {  # beside that of training, which the fixture counts
  "eval": lambda root, run: evaluate.report(run, _config_of(root)),
  "doctor": lambda root, run: doctor.examine(_config_of(root), overfit_steps=1),
  "plan": lambda root, run: plan.make_plan(
    _config_of(root), plan.local_machine()
  ),
  "prepare": _prepare,
}


@pytest.mark.parametrize("door", _DOORS)
def test_a_door_walks_and_opens_once(root, run, counts, door):
  _DOORS[door](root, run)
  assert (counts.walks, counts.openings) == (1, 1)


def test_a_build_walks_twice_more(tmp_path, counts):
  """To read the files, and to see that they are still what was read."""
  open_dataset(_config_of(_folder(tmp_path / "mine")).data)
  assert (counts.walks, counts.openings) == (3, 1)


def test_files_that_change_while_they_are_read_are_refused(
  tmp_path, monkeypatch
):
  root = _folder(tmp_path / "mine")
  walk, walks = trees.files_below, []

  def files_below(folder):
    walks.append(folder)
    if len(walks) == 3:
      _change(root)
    return walk(folder)

  with monkeypatch.context() as patched:
    patched.setattr(trees, "files_below", files_below)
    with pytest.raises(ValueError, match="changed while they were read"):
      open_dataset(_config_of(root).data)
  names = open_dataset(_config_of(root).data).digests("val")
  assert list(names) == ["h", "new"]


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_need_neither_the_folder_nor_another_opening(tmp_path, workers):
  root = _folder(tmp_path / "mine")
  config = _config_of(root).data
  config.workers = workers
  dataset = open_dataset(config)
  shutil.rmtree(root)
  (dataset.directory / "dataset_info.json").unlink()
  sizes = segmentation.eval_sizes(dataset, config)
  rows = tuple(segmentation.whole(i, size) for i, size in enumerate(sizes))
  grey = (127.5,) * 3
  (batch,) = segmentation.eval_batches(
    dataset, config, [segmentation.Views((40, 40), rows)]
  )
  assert batch["name"] == ["g", "h"]
  batches = segmentation.train_batches(
    dataset, config, batch_size=2, seed=0, padding_value=grey
  )
  assert set(next(batches)["name"]) <= set("abcdef")


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory, uncompiled) -> tuple[Path, Path]:
  """A like folder that changed after the first step of a run, and the run."""
  root = _folder(tmp_path_factory.mktemp("disturbed") / "mine")
  advance = Progress.advance

  def change_and_advance(self, step):
    if step == 1:
      _change(root)
    advance(self, step)

  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(Progress, "advance", change_and_advance)
    train.train_and_evaluate(_config_of(root), root.parent / "run")
  return root, root.parent / "run"


def _rows(workdir) -> list[dict]:
  """The figures of a run, less what depends on the clock."""
  return [
    {name: x for name, x in row.items() if "per_second" not in name}
    for row in records.read(workdir / "metrics.jsonl")
  ]


def test_a_folder_that_changes_does_not_change_the_run(run, disturbed):
  _, workdir = disturbed
  assert "eval/miou" in _rows(run)[-1]
  assert _rows(workdir) == _rows(run)


def test_changes_are_told_before_the_next_step(disturbed, capsys):
  root, workdir = disturbed
  before = (workdir / "data.json").read_bytes()
  train.train_and_evaluate(_config_of(root), workdir)
  assert (
    "changed since this run was begun:\n"
    "  train images: 6 -> 7 images; 1 added (new); 1 altered (a)\n"
    "  eval images: 1 added (new); 1 removed (g)\n"
  ) in capsys.readouterr().out
  assert (workdir / "data.json").read_bytes() == before  # nothing was trained


def test_data_in_another_order_is_stored_anew(tmp_path):
  data = {"train": {"examples": {"a": "1", "b": "2"}}}
  continuing.write_data(tmp_path, data)
  data["train"]["examples"] = {"b": "2", "a": "1"}
  continuing.write_data(tmp_path, data)
  stored = json.loads((tmp_path / "data.json").read_text())
  assert list(stored["train"]["examples"]) == ["b", "a"]


def test_other_classes_are_refused_unless_allowed(disturbed, capsys):
  root, workdir = disturbed
  (root / "classes.txt").write_text("road\nsky\ncar\n")
  config = _config_of(root)
  with pytest.raises(
    ValueError, match="0 sky -> road, 1 road -> sky"
  ) as caught:
    train.train_and_evaluate(config, workdir)
  assert "--allow_changes" in str(caught.value)
  config.steps = 4
  train.train_and_evaluate(
    config, workdir, evaluating=False, allow_changes=True
  )
  assert "0 sky -> road, 1 road -> sky" in capsys.readouterr().out
  stored = json.loads((workdir / "data.json").read_text())
  assert stored["class_names"] == ["road", "sky", "car"]
  assert continuing.data_changes(workdir, stored, False) == Changes([], [])


def test_an_evaluation_of_permuted_classes_is_refused(run, tmp_path):
  root = _folder(tmp_path / "mine")
  (root / "classes.txt").write_text("road\nsky\ncar\n")
  with pytest.raises(ValueError, match="trained with, sky, road, car; got roa"):
    evaluate.report(run, _config_of(root))


@pytest.mark.slow
def test_processes_that_see_other_data_are_refused(tmp_path):
  roots = [_folder(tmp_path / str(index) / "mine") for index in range(2)]
  _write_pair(roots[1], "a", seed=30)
  command = "-m", "deeplab_jax.main", "--config", _CONFIG
  flags = "--workdir", tmp_path / "run", "--config.data.name=folder"
  data = f"--config.data.data_dir={tmp_path / 'data'}"
  both = [
    processes.start(
      *(*command, *flags, data, f"--config.data.path={root}"),
      merged=True,
      **environment,
    )
    for root, environment in zip(roots, processes.joined(), strict=True)
  ]
  for process in both:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "must be the same on all 2 processes" in output
