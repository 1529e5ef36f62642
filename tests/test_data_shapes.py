"""The generated quickstart data set."""

import numpy as np
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build
from deeplab_jax.data.builders import scenes
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset, open_dataset


@pytest.fixture(scope="module")
def first_use(tmp_path_factory):
  """Opened where it was not built before."""
  config = base_config().data
  data_dir = tmp_path_factory.mktemp("shapes")
  config.update(name="shapes", data_dir=str(data_dir))
  return config, open_dataset(config)


@pytest.fixture(scope="module")
def folders(shapes_dir, first_use):
  """Two builds of the same data set, on demand and on first use."""
  roots = (shapes_dir, first_use[0].data_dir)
  return [build.directory("shapes", root) for root in roots]


def test_two_builds_hold_the_same(folders):
  """Records are compared by their fields: protobuf orders them at random."""
  first, second = (
    {
      path.name: path.read_bytes()
      for path in folder.iterdir()
      if "array_record" not in path.name
    }
    for folder in folders
  )
  assert first == second
  info = DATASETS["shapes"]
  for split, count in info.splits.items():
    first, second = (Dataset(f, info).source(split) for f in folders)
    for i in range(count):
      assert first.encoded(i) == second.encoded(i)


def test_splits_have_the_stated_sizes_and_share_no_image(folders):
  info = DATASETS["shapes"]
  seen = set()
  for split, count in info.splits.items():
    source = Dataset(folders[0], info).source(split)
    assert len(source) == count
    seen |= {source[i]["image"].tobytes() for i in range(count)}
  assert len(seen) == sum(info.splits.values())


def test_every_class_has_a_fair_share_of_the_pixels(folders):
  info = DATASETS["shapes"]
  source = Dataset(folders[0], info).source("val")
  labels = np.concatenate([source[i]["label"].ravel() for i in range(100)])
  share = np.bincount(labels, minlength=256) / labels.size
  assert 0.5 < share[0] < 0.75
  assert (share[1 : info.num_classes] > 0.02).all()
  assert 0.05 < share[255] < 0.15
  np.testing.assert_allclose(share[: info.num_classes].sum() + share[255], 1)


def test_sizes_vary_within_the_stated_range(folders):
  source = Dataset(folders[0], DATASETS["shapes"]).source("train")
  sizes = np.array([source[i]["label"].shape for i in range(100)])
  assert sizes.min() >= 96 and sizes.max() <= 128
  assert len(np.unique(sizes, axis=0)) > 50
  assert source[0]["image"].shape == (*sizes[0], 3)


def test_different_labels_never_touch():
  for seed in range(20):
    _, mask = scenes.draw(np.random.default_rng(seed))
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
      assert ((a == b) | (a == 255) | (b == 255)).all()


def test_objects_show_in_the_image():
  """Where the label changes, so does the picture: the two are aligned."""
  steps, flat = [], []
  for seed in range(20):
    image, mask = scenes.draw(np.random.default_rng(seed))
    change = np.abs(np.diff(image.astype(float), axis=1)).max(-1)
    border = (mask[:, 1:] == 255) & (mask[:, :-1] == 255)
    inside = (mask[:, 1:] == 0) & (mask[:, :-1] == 0)
    steps.append(change[border].mean())
    flat.append(change[inside].mean())
  assert np.mean(steps) > 1.8 * np.mean(flat)


def test_opening_builds_it_on_first_use(first_use):
  assert len(first_use[1].source("val")) == 100
