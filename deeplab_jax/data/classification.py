"""Batches of whole-image classification, to pretrain backbones on ImageNet.

Training takes a random part of the image (Szegedy et al., Going Deeper with
Convolutions, section 6: 8 % to 100 % of the area, sides 3:4 to 4:3), resized
and mirrored; evaluation the middle 87.5 % of the short side. A JPEG is decoded
at the smallest of full, 1/2, 1/4, 1/8 size that still has the pixels needed.
"""

import functools
import io
import math
from collections.abc import Iterator

import cv2
import ml_collections
import numpy as np
import PIL.Image

from deeplab_jax.data import loading
from deeplab_jax.data.loading import Batch, Example
from deeplab_jax.data.preprocess import Size
from deeplab_jax.data.source import Dataset, Source

Box = tuple[int, int, int, int]  # top, left, height, width

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_MIDDLE = 0.875
_REDUCED = {
  8: cv2.IMREAD_REDUCED_COLOR_8,
  4: cv2.IMREAD_REDUCED_COLOR_4,
  2: cv2.IMREAD_REDUCED_COLOR_2,
}


def train_batches(
  dataset: Dataset,
  data_config: ml_collections.ConfigDict,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Endless augmented batches of the training split.

  Args: as those of `segmentation.train_batches`.

  Returns:
    iterator of {"image": uint8 (b, *crop_size, 3), "label": int32 (b,), "name":
    list of b str}, b = batch_size / process_count.
  """
  augment = functools.partial(
    _augment, size=tuple(data_config.crop_size), flip=data_config.flip
  )
  return loading.endless_batches(
    dataset.train,
    augment,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
    workers=data_config.workers,
  )


def eval_batches(
  dataset: Dataset,
  data_config: ml_collections.ConfigDict,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  limit: int = 0,
) -> Iterator[Batch]:
  """The middle of every image of the evaluation split, each exactly once.

  Args: as those of `segmentation.eval_batches`.

  Returns:
    iterator of as many batches on every process: {"image": uint8 (b,
    *crop_size, 3), "label": int32 (b,), "name": list of b str, "valid": bool
    (b,)}. The last batch is filled up with black images of label -1.
  """
  size = tuple(data_config.crop_size)
  examples = loading.FilledUp(
    _Middles(dataset.eval, size),
    functools.partial(_blank, size),
    batch_size=batch_size,
    limit=limit,
  )
  return loading.once_through(
    examples,
    batch_size=batch_size,
    process_index=process_index,
    process_count=process_count,
    workers=data_config.workers,
  )


class _Middles:
  """The middle of each image of a source of encoded images."""

  def __init__(self, source: Source, size: Size):
    self._source = source
    self._size = size

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    example = self._source[index]
    height, width = image_size(example["image"])
    box = middle_box((height, width), self._size)
    return _example(example, decode_box(example["image"], box, self._size))


def draw_box(rng: np.random.Generator, size: Size) -> Box:
  """A random part of an image of `size`; its middle where none fits."""
  height, width = size
  for _ in range(_TRIES):
    area = rng.uniform(*_AREA) * height * width
    aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
    box_height = round(math.sqrt(area / aspect))
    box_width = round(math.sqrt(area * aspect))
    if 0 < box_height <= height and 0 < box_width <= width:
      top = int(rng.integers(height - box_height + 1))
      left = int(rng.integers(width - box_width + 1))
      return top, left, box_height, box_width
  return _centered(size, min(height, width), min(height, width))


def middle_box(size: Size, out: Size) -> Box:
  """The middle of an image of `size`, 87.5 % of it, of the shape of `out`."""
  unit = _MIDDLE * min(size[0] / out[0], size[1] / out[1])
  return _centered(size, round(out[0] * unit), round(out[1] * unit))


def _centered(size: Size, height: int, width: int) -> Box:
  return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def decode_box(encoded: bytes, box: Box, size: Size) -> np.ndarray:
  """The part `box` of an encoded image, resized: uint8 (*size, 3) RGB."""
  top, left, height, width = box
  reduction = min(height // size[0], width // size[1])
  factor = next((f for f in _REDUCED if f <= reduction), 1)
  flags = _REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
  image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  rows = slice(top // factor, -(-(top + height) // factor))
  columns = slice(left // factor, -(-(left + width) // factor))
  part = image[rows, columns]
  shrinks = part.shape[0] > size[0] and part.shape[1] > size[1]
  interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  resized = cv2.resize(part, size[::-1], interpolation=interpolation)
  return cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)


def image_size(encoded: bytes) -> Size:
  """Height and width, from the header alone."""
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    return image.height, image.width


def _augment(
  example: Example, rng: np.random.Generator, *, size: Size, flip: bool
) -> Example:
  """A random part, mirrored half of the time."""
  encoded = example["image"]
  image = decode_box(encoded, draw_box(rng, image_size(encoded)), size)
  if flip and rng.random() < 0.5:
    image = cv2.flip(image, 1)
  return _example(example, image)


def _example(example: Example, image: np.ndarray) -> Example:
  label = np.array(example["label"], np.int32)
  return {"image": image, "label": label, "name": example["name"]}


def _blank(size: Size) -> Example:
  image = np.zeros((*size, 3), np.uint8)
  return {"image": image, "label": np.array(-1, np.int32), "name": ""}
