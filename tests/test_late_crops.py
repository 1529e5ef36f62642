"""Crops of another size from a step on, wherever a run starts."""

import itertools
import json
import shutil

import numpy as np
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import tasks, train
from deeplab_jax.data.source import open_dataset
from tests.programs.tiny_config import get_config

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture
def config(shapes_dir):
  config = get_config()
  config.update(batch_size=2, steps=6, checkpoint_every=2, eval_every=0)
  config.eval_first = False
  config.data.update(data_dir=shapes_dir, eval_limit=2)
  config.data.update(late_crop_step=3, late_crop_size=(65, 33))
  return config


def test_a_batch_is_of_its_step_on_both_sides_of_the_change(config):
  dataset = open_dataset(config.data)

  def batches(start, count):
    found = tasks.SEGMENTATION.train_batches(dataset, config, start)
    return list(itertools.islice(found, count))

  whole = batches(0, 6)
  shapes = [batch["label"].shape for batch in whole]
  assert shapes == [(2, 33, 33)] * 3 + [(2, 65, 33)] * 3
  for start in (1, 3, 5):
    for batch, expected in zip(batches(start, 6 - start), whole[start:]):
      assert batch["name"] == expected["name"]
      for key in ("image", "label"):
        np.testing.assert_array_equal(batch[key], expected[key])
  config.data.update(late_crop_step=0, late_crop_size=(0, 0))
  for batch, expected in zip(batches(0, 3), whole):
    np.testing.assert_array_equal(batch["image"], expected["image"])
  assert [b["name"] for b in batches(3, 3)] == [b["name"] for b in whole[3:]]


@pytest.mark.slow
def test_a_run_goes_on_over_the_change_bit_for_bit(config, tmp_path):
  train.train_and_evaluate(config, tmp_path / "run")

  def losses():
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return [row["train/loss"] for row in rows if "train/loss" in row]

  expected = losses()
  assert len(expected) == 6
  for step in (4, 6):
    shutil.rmtree(tmp_path / "run/checkpoints" / str(step))
  shutil.rmtree(tmp_path / "run/best")
  train.train_and_evaluate(config, tmp_path / "run")
  assert losses() == expected


def test_plans_are_of_the_largest_crop(config):
  made = config_lib.with_largest_crop(config)
  assert made.data.crop_size == (65, 33)
  assert config.data.crop_size == (33, 33)
  config.data.late_crop_size = (33, 1)
  assert config_lib.with_largest_crop(config) is config


_WRONG = {
  r"late_crop_step must be from 0 to less than the 6 steps, got 6": (
    6,
    (65, 65),
  ),
  r"late_crop_size must be \(height, width\), got \(0, 0\)": (3, (0, 0)),
  r"must be \(0, 0\) where late_crop_step is 0, got \(65, 65\)": (0, (65, 65)),
  r"late_crop_size must be k \* output_stride \+ 1 = k \* 32": (3, (64, 65)),
}


@pytest.mark.parametrize("said", _WRONG)
def test_a_change_that_cannot_be_is_refused(config, said):
  step, size = _WRONG[said]
  config.data.update(late_crop_step=step, late_crop_size=size)
  with pytest.raises(ValueError, match=said):
    config_lib.check(config)
