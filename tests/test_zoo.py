"""The shipped model loads, segments, and is as good as docs/results.md says."""

import pathlib

import cv2
import numpy as np
import pytest

import deeplab_jax
from configs import camvid
from deeplab_jax import evaluate, metrics
from deeplab_jax.checkpoints import load_variables
from deeplab_jax.data import build, datasets
from deeplab_jax.data.source import open_dataset

_ZOO = pathlib.Path(__file__).parent.parent / "zoo" / "camvid_mobilenet_v2"


def test_it_is_small():
  files = [path for path in _ZOO.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 6e6


def test_the_first_lines_of_the_readme_see_the_sky(tmp_path, monkeypatch):
  # What a fresh clone holds: the model, and a street that was drawn.
  root = _ZOO.parent.parent
  for name in ("zoo", "notebooks"):
    (tmp_path / name).symlink_to(root / name)
  monkeypatch.chdir(tmp_path)
  readme = (root / "README.md").read_text()
  lines = readme.split("```python\n", 1)[1].split("```")[0]
  found = {}
  exec(compile(lines, "README.md", "exec"), found)
  names = np.array(found["segmenter"].class_names)
  assert (names[found["labels"][:64, 160:320]] == "Sky").mean() > 0.9
  assert (names[found["labels"][-64:, 160:320]] == "Road").mean() > 0.9
  probabilities = found["probabilities"]
  np.testing.assert_array_equal(probabilities.argmax(-1), found["labels"])
  np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
  assert cv2.imread("overlay.png").shape == found["image"].shape


@pytest.mark.slow
def test_its_test_miou_is_the_one_stated(shared, tmp_path):
  source = str(shared / "data" / "camvid")
  build.build("camvid", data_dir=str(tmp_path), manual_dir=source)
  config = camvid.get_config()
  config.data.update(data_dir=str(tmp_path))
  config.data.eval_split = datasets.DATASETS["camvid"].test_split
  model, variables, _ = load_variables(_ZOO)
  found = evaluate.evaluate(model, variables, config)
  assert found.num_images == 233
  assert found.miou == pytest.approx(0.6638, abs=5e-4)
  # What is scored is what is served.
  segmenter = deeplab_jax.load(_ZOO)
  counts = np.zeros((11, 11), int)
  for example in open_dataset(config.data).eval:
    labels = segmenter(example["image"])
    counts += metrics.confusion_matrix_numpy(example["label"], labels, 11)
  assert metrics.mean_iou(counts) == pytest.approx(found.miou, abs=1e-4)
