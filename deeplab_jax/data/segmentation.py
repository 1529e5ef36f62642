"""Batches of images and labels for training and evaluating segmentation.

See `loading` for what makes them reproducible, `preprocess` for what is done to
an image.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from deeplab_jax.data import augmentation, loading, preprocess
from deeplab_jax.data.augmentation import Augmentation
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.loading import Batch, Example
from deeplab_jax.data.preprocess import IGNORE, Size, ValueRange
from deeplab_jax.data.source import Dataset, SegmentationSource, Source

Color = tuple[float, ...]  # of each channel


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
    iterator of {"image": (b, *crop_size, channels) of the data set's dtype,
    "label": uint8 (b, *crop_size), "name": list of b str}, b = batch_size /
    process_count; "label" is 255 where ignored. Where classes overlap, "label"
    is (b, *crop_size, classes) of 0, 1 and 255.
  """
  source = _Standard(_with_masks(dataset.train), data_config)
  augment = functools.partial(
    _augment,
    config=data_config,
    padding_value=padding_value,
    value_range=dataset.info.value_range,
  )
  if asked := augmentation.from_config(data_config):
    others = _Others(source, asked)
    augment = functools.partial(
      _augment_more, cut=augment.keywords, asked=asked, others=others
    )
  return loading.endless_batches(
    source,
    augment,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
    workers=data_config.workers,
  )


class View(NamedTuple):
  """What one row of an evaluation batch shows: a picture, or a part of one.

  Attributes:
    index: of the picture in its split.
    rows: first and end of the rows shown.
    columns: the same across.
    decided_rows: first and end, counted from the first row shown, of those
      whose labels count.
    decided_columns: the same across.
    crop: height and width that it is evaluated at, in the top left corner.
  """

  index: int
  rows: tuple[int, int]
  columns: tuple[int, int]
  decided_rows: tuple[int, int]
  decided_columns: tuple[int, int]
  crop: Size


def whole(index: int, size: Size, crop: Size | None = None) -> View:
  """The view of all of a picture of `size`, at `crop` or as it is."""
  rows, columns = ((0, side) for side in size)
  return View(index, rows, columns, rows, columns, crop or size)


class Views(NamedTuple):
  """The rows of one evaluation batch.

  Attributes:
    canvas: height and width of its arrays.
    rows: what each row shows; None fills the batch up.
  """

  canvas: Size
  rows: tuple[View | None, ...]


def eval_sizes(
  dataset: Dataset, data_config: ml_collections.ConfigDict
) -> list[Size]:
  """Heights and widths of the pictures that are evaluated, in their order."""
  source = _with_masks(dataset.eval)
  sizes = source.sizes(data_config.eval_limit or len(source))
  if not data_config.resize_min:
    return sizes
  return [preprocess.range_size(size, *_range(data_config)) for size in sizes]


def eval_batches(
  dataset: Dataset,
  data_config: ml_collections.ConfigDict,
  batches: Sequence[Views],
) -> Iterator[Batch]:
  """Pictures of the evaluation split, and parts of them.

  Right of and below them images are black: `inference.predict_fn`, which is
  given their sizes, paints what the network sees there.

  Args:
    dataset: one with masks.
    data_config: `config.data`, which says how its images are read.
    batches: what they show.

  Returns:
    iterator of {"image": (b, h, w, channels) of the data set's dtype, "label":
    uint8 (b, h, w), 255 where it does not count, with classes behind where they
    overlap, "name": list of b str, "size": int32 (b, 2) height and width of
    what is shown, (0, 0) in rows that fill up, "crop": int32 (b, 2)}.
  """
  source = _Standard(_with_masks(dataset.eval), data_config)
  shown = _Shown(source, batches)
  return loading.read(shown, data_config.workers)


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
    self._range = _range(config)
    info = source.info
    self.planes = (info.num_classes,) if info.multilabel else ()

  @property
  def info(self) -> DatasetInfo:
    return self._source.info

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

  def with_classes(self, classes: Sequence[int]) -> list[int]:
    """Indices of the examples that have labels of these classes.

    Raises:
      ValueError: none has.
    """
    ignored = self._source.info.ignore_label
    found = self._source.with_labels(set(classes) - {ignored})
    if not found:
      raise ValueError(
        f"data.copy_paste_classes must be classes that {self._source.split} "
        f"has pixels of, got {tuple(classes)}"
      )
    return found


def _range(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
  return config.resize_min, config.resize_max, config.resize_factor


class _Shown:
  """The batches of an evaluation, each made when it is asked for."""

  def __init__(self, source: "_Standard", batches: Sequence[Views]):
    self._source = source
    self._batches = batches
    self._latest: tuple[int, Example | None] = (-1, None)

  def __len__(self) -> int:
    return len(self._batches)

  def __getitem__(self, index: int) -> Batch:
    canvas, views = self._batches[index]
    return loading.stack(
      [
        self._blank(canvas)
        if view is None
        else _part(self._read(view.index), view, canvas)
        for view in views
      ]
    )

  def _blank(self, canvas: Size) -> Example:
    """What fills up a batch."""
    info = self._source.info
    black = (0.0,) * info.channels
    planes = self._source.planes
    image, label = preprocess.blank(canvas, black, info.image_dtype, planes)
    return {
      "image": image,
      "label": label,
      "name": "",
      "size": np.zeros(2, np.int32),
      "crop": np.array(canvas, np.int32),
    }

  def _read(self, index: int) -> Example:
    """An example; the latest is kept, as windows of one follow one another."""
    latest, example = self._latest
    if latest != index:
      example = self._source[index]
      self._latest = index, example
    return example


def _part(example: Example, view: View, canvas: Size) -> Example:
  """What `view` shows of an example."""
  part = slice(*view.rows), slice(*view.columns)
  image, whole = example["image"][part], example["label"][part]
  label = np.full_like(whole, IGNORE)
  decided = slice(*view.decided_rows), slice(*view.decided_columns)
  label[decided] = whole[decided]
  size = label.shape[:2]
  black = (0.0,) * image.shape[2]
  image, label = preprocess.pad(image, label, canvas, black)
  return {
    "image": image,
    "label": label,
    "name": example["name"],
    "size": np.array(size, np.int32),
    "crop": np.array(view.crop, np.int32),
  }


def _augment(
  example: Example,
  rng: np.random.Generator,
  *,
  config: ml_collections.ConfigDict,
  padding_value: Color,
  value_range: ValueRange = (),
  asked: Augmentation | None = None,
) -> Example:
  """Draws and takes one crop of `config.crop_size`, changed as is `asked`."""
  drawn = preprocess.draw_crop(
    rng,
    example["label"].shape[:2],
    config.crop_size,
    min_scale=config.min_scale,
    max_scale=config.max_scale,
    scale_step=config.scale_step,
    flip=config.flip,
  )
  image = preprocess.filled(example["image"], padding_value)
  image = preprocess.jitter_colors(rng, image, config.color_jitter, value_range)
  how = drawn, config.crop_size, padding_value
  if asked is None:
    image, label = preprocess.take_crop(image, example["label"], *how)
  else:
    image, label = augmentation.crop(rng, image, example["label"], *how, asked)
  return {"image": image, "label": label, "name": example["name"]}


class _Others:
  """Draws the examples that parts are pasted from."""

  def __init__(self, source: _Standard, asked: Augmentation):
    """Looks for those with `copy_paste_classes` in all masks of the split."""
    self._source = source
    self._rare: list[int] = []
    if asked.copy_paste:
      self._rare = source.with_classes(asked.copy_paste_classes)

  def draw(self, rng: np.random.Generator, rare: bool) -> Example:
    """Any example, or one of the `rare` ones."""
    if rare:
      return self._source[self._rare[rng.integers(len(self._rare))]]
    return self._source[int(rng.integers(len(self._source)))]


def _augment_more(
  example: Example,
  rng: np.random.Generator,
  *,
  cut: dict,
  asked: Augmentation,
  others: _Others,
) -> Example:
  """`_augment`, which `cut` is for, and then what is asked beyond a crop."""

  def other(rare: bool) -> augmentation.Pair:
    found = _augment(others.draw(rng, rare), rng, asked=asked, **cut)
    return found["image"], found["label"]

  made = _augment(example, rng, asked=asked, **cut)
  pair = augmentation.mix(rng, made["image"], made["label"], other, asked)
  how = cut["padding_value"], asked, cut["value_range"]
  image, label = augmentation.disturb(rng, *pair, *how)
  return {"image": image, "label": label, "name": example["name"]}
