"""Every config of a real data set, three steps on a sample through `main`."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax import checkpoints, config, optimizer, tasks
from deeplab_jax.checkpoints import items
from deeplab_jax.data import build, classification
from deeplab_jax.data.source import open_dataset
from deeplab_jax.models import preprocess
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.train.initialize import initialize_from
from deeplab_jax.train.state import create_state

_REPOSITORY = pathlib.Path(__file__).parent.parent
# Config: (data set, its sample).
_SAMPLES = {
  "voc": ("voc2012", "voc2012-sample"),
  "coco": ("coco_voc", "coco-sample"),
  "cityscapes": ("cityscapes", "cityscapes-sample"),
  "ade20k": ("ade20k", "ade20k-sample"),
  "camvid": ("camvid", "camvid"),
  "imagenet": ("imagenet2012", "imagenet-sample"),
}
_SCORES = {"imagenet": "eval/top1"}
# As VOC's but for how the data are laid out, which tests of the builders know.
_SLOW = ("coco", "camvid")

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def _build(shared, tmp_path_factory, configs) -> str:
  """A folder with the data sets of these, built from their samples."""
  folder = str(tmp_path_factory.mktemp("data"))
  for name, sample in map(_SAMPLES.get, configs):
    manual_dir = shared / "data" / sample
    if name == "camvid":  # that is there whole
      manual_dir = _few_pictures(manual_dir, tmp_path_factory.mktemp("camvid"))
    build.build(name, data_dir=folder, manual_dir=str(manual_dir), partial=True)
  return folder


def _few_pictures(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """A data set in VOC layout with eight pictures a split of another."""
  lists = "ImageSets/Segmentation"
  (folder / lists).mkdir(parents=True)
  for path in (source / lists).iterdir():
    names = path.read_text().splitlines(keepends=True)
    (folder / lists / path.name).write_text("".join(names[:8]))
  for name in ("JPEGImages", "SegmentationClass"):
    (folder / name).symlink_to(source / name)
  return folder


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory) -> str:
  return _build(shared, tmp_path_factory, _SAMPLES.keys() - set(_SLOW))


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory) -> pathlib.Path:
  """The workdirs of all configs but `_SLOW`, by name."""
  names = [name for name in _SAMPLES if name not in _SLOW]
  return _train(data_dir, tmp_path_factory, names)


@pytest.fixture(scope="module")
def slow_runs(shared, tmp_path_factory) -> pathlib.Path:
  """Those of `_SLOW`."""
  data_dir = _build(shared, tmp_path_factory, _SLOW)
  return _train(data_dir, tmp_path_factory, _SLOW)


def _train(data_dir, tmp_path_factory, names) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("runs")
  program = str(_REPOSITORY / "tests/programs/run_configs.py")
  finished = subprocess.run(
    [sys.executable, program, data_dir, str(folder), *names],
    env={
      **os.environ,
      "PYTHONPATH": str(_REPOSITORY),
      "JAX_PLATFORMS": "cpu",
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert finished.returncode == 0, finished.stdout + finished.stderr
  return folder


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW))
    for name in _SAMPLES
  ],
)
def test_runlocal_trains_and_evaluates_on_the_sample(request, name):
  runs = request.getfixturevalue("slow_runs" if name in _SLOW else "runs")
  workdir = runs / name
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  steps = [row["step"] for row in rows if "train/loss" in row]
  assert steps == [1, 2, 3]
  score = _SCORES.get(name, "eval/miou")
  (evaluation,) = [row for row in rows if score in row]
  assert evaluation["step"] == 3 and 0 <= evaluation[score] <= 1
  content = json.loads((workdir / "model.json").read_text())
  assert content["dataset"]["name"] == _SAMPLES[name][0]
  kind = "classifier" if name == "imagenet" else "segmenter"
  assert content["kind"] == kind
  assert content["model"]["backbone"] == "tiny"
  assert (workdir / "checkpoints/3").is_dir()


def test_a_classifier_gives_its_backbone_to_a_segmenter(runs):
  settings = config.load(str(_REPOSITORY / "configs/voc.py") + ":runlocal")
  settings.model.update(backbone="tiny", width_multiplier=1.0)
  model = config.make_model(settings, num_classes=21)
  rule = optimizer.make_optimizer(settings)
  shapes = shapes_of(lambda: create_state(model, rule, (33, 33), 0))
  fresh = jax.tree.map(lambda x: jnp.full(x.shape, 7, x.dtype), shapes)
  found, report = initialize_from(fresh, runs / "imagenet", "backbone")
  source = items.restore(runs / "imagenet/checkpoints/3/variables")
  for kind in ("params", "batch_stats"):
    old, new = source[kind]["backbone"], getattr(found, kind)["backbone"]
    jax.tree.map(np.testing.assert_array_equal, new, old)
  assert (found.params["logits"]["kernel"] == 7).all()
  assert "logits/kernel" in report.skipped


def test_a_classifier_is_loaded_as_such_alone(runs):
  with pytest.raises(ValueError, match="must hold a segmenter, got a classif"):
    checkpoints.load_variables(runs / "imagenet")
  model, variables, _ = checkpoints.load_variables(
    runs / "imagenet/best", kind="classifier"
  )
  assert (model.num_classes, model.backbone) == (1000, "tiny")
  assert variables["params"]["logits"]["kernel"].shape[-1] == 1000


def test_a_stored_classifier_is_evaluated_as_numpy_counts(
  runs, data_dir, tmp_path
):
  settings = config.load(str(_REPOSITORY / "configs/imagenet.py") + ":runlocal")
  settings.data.update(data_dir=data_dir, eval_limit=10, crop_size=(33, 33))
  settings.eval.batch_size = 4  # so that the last batch is filled up
  figures = tasks.find_task(settings).report(
    runs / "imagenet", settings, tmp_path
  )
  model, variables, _ = checkpoints.load_variables(
    runs / "imagenet", kind="classifier"
  )
  batch = next(
    classification.eval_batches(
      open_dataset(settings.data), settings.data, batch_size=10
    )
  )
  images = preprocess(batch["image"], model.backbone)
  logits = np.asarray(jax.jit(model.apply)(variables, images))
  ranks = (-logits).argsort(1, kind="stable").argsort(1)
  ranks = ranks[np.arange(10), batch["label"]]
  assert figures["eval/top1"] == (ranks < 1).mean()
  assert figures["eval/top5"] == (ranks < 5).mean()
  stored = json.loads((tmp_path / "evaluation/results.json").read_text())
  assert stored == figures
