"""Batches of images and labels for training and evaluating segmentation.

See `loading` for what makes them reproducible, `preprocess` for what is done to
an image.
"""

import functools
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from deeplab_jax.data import loading, preprocess
from deeplab_jax.data.loading import Batch, Example
from deeplab_jax.data.preprocess import IGNORE, Size
from deeplab_jax.data.source import Dataset, SegmentationSource, Source

Color = tuple[float, float, float]


def train_batches(
  dataset: Dataset,
  data_config: ml_collections.ConfigDict,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  padding_value: Color,
) -> Iterator[Batch]:
  """Endless augmented batches of the training split.

  Args:
    dataset: one with masks.
    data_config: `config.data`, which says how its images are read.
    batch_size: rows of the global batch, over all processes.
    seed: 0 to 2**32 - 1.
    start_step: step whose batch comes first.
    process_index: which rows of each global batch are ours; global batches are
      the concatenation of the processes' rows.
    process_count: how many processes there are; divides `batch_size`.
    padding_value: colour that fills a crop beyond the image, see
      `models.padding_value`.

  Returns:
    iterator of {"image": uint8 (b, *crop_size, 3), "label": uint8
    (b, *crop_size), "name": list of b str}, b = batch_size / process_count;
    "label" is 255 where ignored.
  """
  return loading.endless_batches(
    _Standard(_with_masks(dataset.train), data_config),
    functools.partial(
      _augment, config=data_config, padding_value=padding_value
    ),
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
  padding_value: Color,
  limit: int = 0,
) -> Iterator[Batch]:
  """Whole images of the evaluation split, each exactly once.

  Images are padded to one size: `data_config.eval_size`, or, if that is (0, 0),
  the size that holds the split's largest image, rounded up to k * 16 + 1.

  Args:
    dataset: one with masks.
    data_config: `config.data`, which says how its images are read.
    batch_size: rows of the global batch, over all processes.
    process_index: which rows of each global batch are ours.
    process_count: how many processes there are; divides `batch_size`.
    padding_value: colour right of and below each image.
    limit: only so many images; 0 = all.

  Returns:
    iterator of as many batches on every process: {"image": uint8
    (b, h, w, 3), "label": uint8 (b, h, w), "name": list of b str, "size": int32
    (b, 2) true height and width, "valid": bool (b,)}. The last batch is filled
    up with rows that are not valid, size (0, 0), all ignored.
  """
  source = _with_masks(dataset.eval)
  size = _eval_size(data_config, source)
  examples = loading.FilledUp(
    _Padded(_Standard(source, data_config), size, padding_value),
    functools.partial(_blank, size, padding_value),
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


def evaluation_size(
  dataset: Dataset, data_config: ml_collections.ConfigDict
) -> Size:
  """Height and width that `eval_batches` pads images to."""
  return _eval_size(data_config, _with_masks(dataset.eval))


def _with_masks(source: Source) -> SegmentationSource:
  """`source`, refused if it has no masks."""
  if not isinstance(source, SegmentationSource):
    raise ValueError(
      f"data.name must be a data set with masks, got {source.info.name}, which "
      "is for classification"
    )
  return source


class _Standard:
  """A source with ignored labels as `IGNORE`, resized to the config's range."""

  def __init__(
    self, source: SegmentationSource, config: ml_collections.ConfigDict
  ):
    self._source = source
    self._range = config.resize_min, config.resize_max, config.resize_factor

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    example = self._source[index]
    label = example["label"]
    if self._source.info.ignore_label not in (None, IGNORE):
      label[label == self._source.info.ignore_label] = IGNORE
    image, label = preprocess.resize_to_range(
      example["image"], label, *self._range
    )
    return {"image": image, "label": label, "name": example["name"]}


class _Padded:
  """Examples padded to one size, with their true "size"."""

  def __init__(
    self, source: Sequence[Example], size: Size, padding_value: Color
  ):
    self._source = source
    self._size = size
    self._padding_value = padding_value

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    example = self._source[index]
    size = example["label"].shape
    _check_fits(example["name"], size, self._size)
    image, label = preprocess.pad(
      example["image"], example["label"], self._size, self._padding_value
    )
    return {
      "image": image,
      "label": label,
      "name": example["name"],
      "size": np.array(size, np.int32),
    }


def _blank(size: Size, padding_value: Color) -> Example:
  image, label = preprocess.blank(size, padding_value)
  return {
    "image": image,
    "label": label,
    "name": "",
    "size": np.zeros(2, np.int32),
  }


def _augment(
  example: Example,
  rng: np.random.Generator,
  *,
  config: ml_collections.ConfigDict,
  padding_value: Color,
) -> Example:
  """Draws and takes one crop of `config.crop_size`."""
  crop = preprocess.draw_crop(
    rng,
    example["label"].shape,
    config.crop_size,
    min_scale=config.min_scale,
    max_scale=config.max_scale,
    scale_step=config.scale_step,
    flip=config.flip,
  )
  image = preprocess.jitter_colors(rng, example["image"], config.color_jitter)
  image, label = preprocess.take_crop(
    image, example["label"], crop, config.crop_size, padding_value
  )
  return {"image": image, "label": label, "name": example["name"]}


def _eval_size(
  config: ml_collections.ConfigDict, source: SegmentationSource
) -> Size:
  """The size that every image of the split is padded to."""
  if tuple(config.eval_size) != (0, 0):
    if not config.resize_min:
      _check_fits(source.split, source.largest, config.eval_size)
    return tuple(config.eval_size)
  if config.resize_min:
    raise ValueError(
      "data.eval_size must be given where data.resize_min is, got (0, 0); it "
      "is the largest size after resizing"
    )
  height, width = (-(-(side - 1) // 16) * 16 + 1 for side in source.largest)
  return height, width


def _check_fits(name: str, size: Size, eval_size: Size) -> None:
  if size[0] > eval_size[0] or size[1] > eval_size[1]:
    raise ValueError(
      f"data.eval_size must hold the images, got {tuple(eval_size)} and an "
      f"image of {tuple(size)} in {name}; raise it, or set (0, 0)"
    )
