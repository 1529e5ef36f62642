"""Batches for classification, on the ImageNet sample."""

import cv2
import numpy as np
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build, classification, segmentation
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import open_dataset


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("imagenet"))
  sample = str(shared / "data/imagenet-sample")
  build.build("imagenet2012", data_dir=folder, manual_dir=sample, partial=True)
  return folder


@pytest.fixture
def config(data_dir):
  config = base_config().data
  config.update(
    name="imagenet2012",
    data_dir=data_dir,
    train_split="val",
    crop_size=(96, 96),
  )
  return config


@pytest.fixture(scope="module")
def jpeg():
  """A smooth picture of 400 x 600 and its encoding."""
  y, x = np.mgrid[:400, :600]
  image = np.stack([y * 255 / 399, x * 255 / 599, (x + y) * 255 / 998], -1)
  image = image.astype(np.uint8)
  _, encoded = cv2.imencode(
    ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98]
  )
  return image, encoded.tobytes()


def test_data_set_without_masks_is_refused_for_segmentation(config):
  dataset = open_dataset(config)
  with pytest.raises(ValueError, match=r"with masks, got imagenet2012"):
    segmentation.eval_sizes(dataset, config)


def test_labels_are_those_of_the_folder(config):
  names = DATASETS["imagenet2012"].class_names
  batches = classification.train_batches(
    open_dataset(config), config, batch_size=8, seed=0
  )
  batch = next(batches)
  assert batch["image"].shape == (8, 96, 96, 3)
  assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
  assert [names[i] for i in batch["label"]] == [
    name.split("/")[0] for name in batch["name"]
  ]


def test_batch_depends_on_seed_and_step_not_on_processes(config):
  batches = classification.train_batches(
    open_dataset(config), config, batch_size=4, seed=3
  )
  third = [next(batches) for _ in range(3)][2]
  parts = [
    next(
      classification.train_batches(
        open_dataset(config),
        config,
        batch_size=4,
        seed=3,
        start_step=2,
        process_index=i,
        process_count=2,
      )
    )
    for i in range(2)
  ]
  for key in ("image", "label"):
    np.testing.assert_array_equal(
      np.concatenate([part[key] for part in parts]), third[key]
    )


def test_evaluation_sees_every_image_once(config):
  batches = list(
    classification.eval_batches(open_dataset(config), config, batch_size=64)
  )
  names = [name for batch in batches for name in batch["name"]]
  valid = np.concatenate([batch["valid"] for batch in batches])
  labels = np.concatenate([batch["label"] for batch in batches])
  assert len(set(names[:199])) == 199 and names[199:] == [""] * 57
  np.testing.assert_array_equal(valid, np.arange(256) < 199)
  assert (labels[199:] == -1).all() and (labels[:199] >= 0).all()


@pytest.mark.parametrize(
  "box", [(0, 0, 400, 600), (13, 57, 381, 500), (100, 200, 90, 110)]
)
@pytest.mark.parametrize("size", [(40, 60), (90, 110), (224, 224)])
def test_part_is_cut_and_resized(jpeg, box, size):
  """Against the mean colour of the box's pixels, at every reduced decoding."""
  image, encoded = jpeg
  top, left, height, width = box
  got = classification.decode_box(encoded, box, size)
  assert got.shape == (*size, 3)
  part = image[top : top + height, left : left + width].astype(float)
  # A linear ramp: the corners and the mean tell shift, scale and channel order.
  np.testing.assert_allclose(got.mean((0, 1)), part.mean((0, 1)), atol=2.5)
  corner = part[: -(-height // size[0]), : -(-width // size[1])].mean((0, 1))
  np.testing.assert_allclose(got[0, 0], corner, atol=6)


def test_parts_follow_area_and_aspect():
  rng = np.random.default_rng(0)
  boxes = np.array(
    [classification.draw_box(rng, (300, 400)) for _ in range(3000)]
  )
  top, left, height, width = boxes.T
  assert (top >= 0).all() and (top + height <= 300).all()
  assert (left >= 0).all() and (left + width <= 400).all()
  area = height * width / 120000
  assert 0.075 < area.min() < 0.1 and 0.9 < area.max() <= 1
  aspect = width / height
  assert 0.72 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.38


def test_parts_of_a_strip_are_its_middle():
  rng = np.random.default_rng(0)
  assert classification.draw_box(rng, (3, 900)) == (0, 448, 3, 3)


def test_middle_is_that_of_resize_256_crop_224():
  assert classification.middle_box((256, 400), (224, 224)) == (16, 88, 224, 224)
