"""ADE20K from a zip file built of the sample; 0 is ignored in batches."""

import numpy as np
import PIL.Image
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build, segmentation
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset, open_dataset
from tests.archives import pack


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  root = tmp_path_factory.mktemp("ade20k")
  pack(shared / "data/ade20k-sample", root / "manual/ADEChallengeData2016.zip")
  build.build(
    "ade20k", data_dir=str(root), manual_dir=str(root / "manual"), partial=True
  )
  return str(root)


def _masks(shared):
  root = shared / "data/ade20k-sample/ADEChallengeData2016/annotations"
  return {
    path.stem: np.array(PIL.Image.open(path))
    for path in (root / "validation").glob("*.png")
  }


def test_archive_reads_back_equal_to_the_source(data_dir, shared):
  folder = build.directory("ade20k", data_dir)
  source = Dataset(folder, DATASETS["ade20k"]).source("val")
  masks = _masks(shared)
  assert [source[i]["name"] for i in range(len(source))] == sorted(masks)
  images = shared / "data/ade20k-sample/ADEChallengeData2016/images/validation"
  for i, name in enumerate(sorted(masks)):
    image = np.array(PIL.Image.open(images / f"{name}.jpg"))
    # OpenCV and Pillow may carry different JPEG decoders.
    assert np.abs(source[i]["image"] - image.astype(int)).max() <= 3
    np.testing.assert_array_equal(source[i]["label"], masks[name])


def test_unlabelled_pixels_are_ignored_in_batches(data_dir, shared):
  config = base_config().data
  config.update(name="ade20k", data_dir=data_dir)
  dataset = open_dataset(config)
  sizes = segmentation.eval_sizes(dataset, config)
  views = [segmentation.whole(i, size) for i, size in enumerate(sizes)]
  canvas = tuple(map(max, zip(*sizes)))
  (batch,) = segmentation.eval_batches(
    dataset,
    config,
    [segmentation.Views(canvas, tuple(views))],
  )
  masks = _masks(shared)
  for label, name, (height, width) in zip(
    batch["label"], batch["name"], batch["size"]
  ):
    expected = np.where(masks[name] == 0, 255, masks[name])
    np.testing.assert_array_equal(label[:height, :width], expected)
  assert (batch["label"] != 0).all()


def test_classes_and_colours():
  info = DATASETS["ade20k"]
  assert info.num_classes == len(info.colors) == 151
  assert info.class_names[1] == "wall" and info.class_names[150] == "flag"
  assert info.colors[0] == (0, 0, 0) and info.colors[1] == (120, 120, 120)
  assert info.colors[150] == (92, 0, 255)
