"""Batches for training and evaluation, with Grain.

The training batch of step s is a pure function of (seed, s): elements are
shuffled by an index permutation seeded per epoch, each draws its augmentation
from a generator seeded by (seed, position in the endless stream), and each
process takes its rows of every global batch. So to resume is to start at a
step, and the number of processes, threads or workers changes nothing.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import ml_collections
import numpy as np
from absl import flags

from deeplab_jax.data import datasets, preprocess
from deeplab_jax.data.preprocess import IGNORE, Size
from deeplab_jax.data.source import SegmentationSource

Batch = dict[str, Any]
Example = dict[str, Any]
Color = tuple[float, float, float]

_THREADS = 4  # of each reading process; decoding and resizing release the GIL
_BATCHES_AHEAD = 2  # per thread or worker process
_EPOCHS = 2**32  # endless; Grain's own "for ever" overflows at batches of one


def train_batches(
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
    data_config: `config.data`.
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
  rows = _rows(batch_size, process_count)
  source = _open(data_config, "train_split")
  augment = functools.partial(
    _augment, config=data_config, padding_value=padding_value
  )
  batches = (
    grain.MapDataset.source(_Standard(source, data_config))
    .seed(seed)
    .shuffle()
    .repeat(_EPOCHS)
    .random_map(augment)
    .batch(rows, batch_fn=_stack)
  )
  first = start_step * process_count + process_index
  return _read(batches[first::process_count], data_config.workers)


def eval_batches(
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
    data_config: `config.data`.
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
  rows = _rows(batch_size, process_count)
  source = _open(data_config, "eval_split")
  size = _eval_size(data_config, source)
  count = min(limit or len(source), len(source))
  padded = _PaddedToBatches(
    _Standard(source, data_config),
    count=count,
    length=-(-count // batch_size) * batch_size,
    size=size,
    padding_value=padding_value,
  )
  batches = grain.MapDataset.source(padded).batch(rows, batch_fn=_stack)
  return _read(batches[process_index::process_count], data_config.workers)


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


class _PaddedToBatches:
  """Examples padded to one size, then blank ones up to whole batches."""

  def __init__(
    self,
    source: _Standard,
    *,
    count: int,
    length: int,
    size: Size,
    padding_value: Color,
  ):
    self._source = source
    self._count = count
    self._length = length
    self._size = size
    self._padding_value = padding_value

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    if index >= self._count:
      image, label = preprocess.blank(self._size, self._padding_value)
      name, size = "", (0, 0)
    else:
      example = self._source[index]
      name, size = example["name"], example["label"].shape
      _check_fits(name, size, self._size)
      image, label = preprocess.pad(
        example["image"], example["label"], self._size, self._padding_value
      )
    return {
      "image": image,
      "label": label,
      "name": name,
      "size": np.array(size, np.int32),
      "valid": np.array(index < self._count),
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
  image, label = preprocess.take_crop(
    example["image"], example["label"], crop, config.crop_size, padding_value
  )
  return {"image": image, "label": label, "name": example["name"]}


def _open(config: ml_collections.ConfigDict, field: str) -> SegmentationSource:
  """The split that `config[field]` names; "" is the data set's own choice."""
  default = getattr(datasets.dataset_info(config), field)
  return datasets.open_source(config, config[field] or default)


def _rows(batch_size: int, process_count: int) -> int:
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"batch_size must be a multiple of the {process_count} processes, got "
      f"{batch_size}"
    )
  return batch_size // process_count


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


def _stack(examples: Sequence[Example]) -> Batch:
  """Arrays stacked along a new first axis, names as a list."""
  batch = {key: [example[key] for example in examples] for key in examples[0]}
  return {
    key: values if key == "name" else np.stack(values)
    for key, values in batch.items()
  }


def _read(batches: grain.MapDataset, workers: int) -> Iterator[Batch]:
  """Reads ahead: `workers` processes, or with 0 threads of this one."""
  cv2.setNumThreads(1)  # parallel over batches; more would only contend
  if not workers:
    ahead = _THREADS * _BATCHES_AHEAD
    return iter(batches.to_iter_dataset(grain.ReadOptions(_THREADS, ahead)))
  if not flags.FLAGS.is_parsed():  # as in a notebook; Grain reads its flags
    flags.FLAGS.mark_as_parsed()
  return iter(
    batches.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
      grain.MultiprocessingOptions(workers, _BATCHES_AHEAD),
      worker_init_fn=_start_worker,
    )
  )


def _start_worker(index: int, count: int) -> None:
  del index, count
  cv2.setNumThreads(1)
