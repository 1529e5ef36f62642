"""The shipped model loads, segments, and is as good as docs/results.md says."""

import pathlib

import numpy as np
import pytest

import deeplab_jax
from configs import camvid
from deeplab_jax import evaluate
from deeplab_jax.checkpoints import load_variables
from deeplab_jax.data import build, datasets

_ZOO = pathlib.Path(__file__).parent.parent / "zoo" / "camvid_mobilenet_v2"


def test_it_is_small_and_sees_the_sky_above_the_road():
  files = [path for path in _ZOO.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 6e6
  segmenter = deeplab_jax.load(_ZOO)
  image = np.full((257, 257, 3), 90, np.uint8)  # asphalt
  image[:128] = 250, 250, 255
  labels = segmenter(image)
  names = np.array(segmenter.class_names)
  assert (names[labels[:64]] == "Sky").mean() > 0.9
  assert (names[labels[-64:]] != "Sky").mean() > 0.9


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
  assert found.miou == pytest.approx(0.6024, abs=5e-4)
