"""The facts about data sets, and what importing the data room pulls in."""

import subprocess
import sys

import pytest

from deeplab_jax.data.classes import bit_colors
from deeplab_jax.data.datasets import DATASETS

_READ = """
import sys
from ml_collections import ConfigDict
from deeplab_jax.data import segmentation
from deeplab_jax.data.source import open_dataset
config = ConfigDict({
  "name": "shapes", "data_dir": sys.argv[1], "path": "", "train_split": "",
  "eval_split": "", "crop_size": (33, 33), "min_scale": 1.0, "max_scale": 1.0,
  "scale_step": 0.0,
  "flip": True, "color_jitter": (0.0, 0.0, 0.0), "resize_min": 0,
  "resize_max": 0, "resize_factor": 0, "workers": 0,
})
next(segmentation.train_batches(open_dataset(config), config,
  batch_size=2, seed=0, padding_value=(127.5,) * 3))
print(*sys.modules)
"""


def _modules(*command):
  """Top-level modules that a fresh interpreter has loaded at its end."""
  result = subprocess.run(
    [sys.executable, "-c", *command], capture_output=True, text=True, check=True
  )
  loaded = result.stdout.splitlines()[-1].split()
  return {module.split(".")[0] for module in loaded}


@pytest.mark.parametrize("name", DATASETS)
def test_facts_are_consistent(name):
  info = DATASETS[name]
  assert info.name == name
  assert len(set(info.class_names)) == info.num_classes < 256 or not info.colors
  assert len(info.colors) in (0, info.num_classes)
  assert all(0 <= value < 256 for color in info.colors for value in color)
  assert {info.train_split, info.eval_split} <= {*info.splits, *info.unions}
  assert info.test_split in {"", *info.splits}
  for parts in info.unions.values():
    assert set(parts.split("+")) <= info.splits.keys()
  assert info.license and info.citation


@pytest.mark.parametrize(
  "name, split, count",
  [
    ("voc2012", "trainval", 2913),
    ("voc2012", "train_aug", 10582),
    ("cityscapes", "trainval_fine", 3475),
    ("cityscapes", "trainval_coarse", 23473),
  ],
)
def test_joined_splits_have_the_official_sizes(name, split, count):
  info = DATASETS[name]
  assert sum(info.splits[p] for p in info.unions[split].split("+")) == count


def test_voc_palette_by_its_definition():
  """The definition in words: bits of the index, from colours' bit 7 down."""
  for index, color in enumerate(bit_colors(256)):
    expected = [0, 0, 0]
    rest, bit = index, 7
    while rest:
      for channel in range(3):
        expected[channel] |= ((rest >> channel) & 1) << bit
      rest, bit = rest >> 3, bit - 1
    assert color == tuple(expected)


def test_facts_alone_import_neither_tfds_nor_jax():
  modules = _modules(
    "import sys, deeplab_jax.data.datasets; print(*sys.modules)"
  )
  assert not modules & {"tensorflow_datasets", "tensorflow", "jax", "grain"}


def test_reading_batches_imports_no_tensorflow(shapes_dir):
  modules = _modules(_READ, shapes_dir)
  assert "grain" in modules
  assert not modules & {"tensorflow", "torch", "flax"}
