"""Adds up what batches of an evaluation give, puts pictures together."""

import collections
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from deeplab_jax import metrics, visualize
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.segmentation import View, Views
from deeplab_jax.evaluate.results import Detail, Evaluation, ScoredPicture
from deeplab_jax.models.backbones import ValueRange

_EXTREMES = 6  # worst and best images kept
_LOW_BITS = 30


class Tally:
  """Adds up the counts of the batches, one behind the device."""

  def __init__(
    self,
    num_classes: int,
    sizes: list[tuple[int, int]],
    work: list[tuple[Views, bool]],
    pictures: int,
    detailed: bool,
    value_range: ValueRange,
  ):
    """For pictures of `sizes`; `pictures` of this process's are kept, for the
    eye, `value_range` being 0..255."""
    self._value_range = value_range
    self._num_classes = num_classes
    self._sizes = sizes
    self._missing = collections.Counter(
      view.index for views, _ in work for view in views.rows if view
    )
    own = sorted(self._missing)
    self._shown = {own[i] for i in _spread(len(own), pictures)}
    self._detailed = detailed
    self._pending: tuple | None = None
    self._totals: dict[str, np.ndarray] = {}
    self._parts: dict[int, _Whole] = {}
    self._examples: dict[int, ScoredPicture] = {}
    self._scored: list[ScoredPicture] = []
    self._mious: dict[int, tuple[str, float | None]] = {}
    self._num_images = 0

  def add(
    self, views: Views, batch: dict, counts: dict, labels: jax.Array
  ) -> None:
    """Takes a batch just begun and counts the one before."""
    self._count_pending()
    self._pending = views, batch, counts, labels

  def _count_pending(self) -> None:
    if self._pending is None:
      return
    views, batch, counts, labels = self._pending
    self._pending = None
    for name, value in counts.items():
      self._increase(name, np.asarray(value).astype(np.int64))
    shown = {view.index for view in views.rows if view} & self._shown
    predictions = None
    if self._detailed or shown:
      predictions = _local_rows(labels)
    for row, view in enumerate(views.rows):
      if view is None:
        continue
      if self._detailed or view.index in self._shown:
        self._put(view, batch, row, predictions[row])
      self._missing[view.index] -= 1
      if not self._missing[view.index]:
        self._num_images += 1
        if whole := self._parts.pop(view.index, None):
          self._look_at(view.index, whole)

  def _put(self, view: View, batch: dict, row: int, predicted) -> None:
    """Puts what a row decides where it belongs in its picture."""
    if view.index not in self._parts:
      size = self._sizes[view.index]
      self._parts[view.index] = _Whole(
        name=batch["name"][row],
        image=np.empty((*size, 3), np.uint8),
        labels=np.empty((*size, *batch["label"].shape[3:]), np.uint8),
        predictions=np.empty((*size, *predicted.shape[2:]), predicted.dtype),
      )
    whole = self._parts[view.index]
    here = slice(*view.decided_rows), slice(*view.decided_columns)
    there = tuple(
      slice(first + part.start, first + part.stop)
      for (first, _), part in zip((view.rows, view.columns), here)
    )
    shown = batch["image"][row][here]
    whole.image[there] = visualize.viewable(shown, self._value_range)
    whole.labels[there] = batch["label"][row][here]
    whole.predictions[there] = predicted[here]

  def _increase(self, name, value):
    self._totals[name] = self._totals.get(name, 0) + value

  def _look_at(self, index: int, whole: "_Whole") -> None:
    """Counts and keeps what needs the whole image."""
    maps = whole.labels, whole.predictions, self._num_classes
    confusion = metrics.confusion_matrix_numpy(*maps)
    example = ScoredPicture(**whole._asdict(), miou=metrics.mean_iou(confusion))
    if index in self._shown:
      self._examples[index] = example
    if not self._detailed:
      return
    self._increase("trimap", metrics.trimap_counts(*maps))
    borders = metrics.trimap_counts(*maps, bands=metrics.border_bands)
    self._increase("borders", borders)
    self._increase("boundary", metrics.boundary_counts(*maps))
    scored = not np.isnan(example.miou)
    self._mious[index] = example.name, example.miou if scored else None
    if scored:
      self._scored = sorted([*self._scored, example], key=lambda e: e.miou)
      del self._scored[_EXTREMES:-_EXTREMES]

  def result(
    self, info: DatasetInfo, settings: dict[str, Any], began: float
  ) -> Evaluation:
    """The evaluation since `began`, summed over all processes."""
    self._count_pending()
    detail = None
    if self._detailed:
      detail = Detail(
        trimap=sum_over_processes(self._totals["trimap"]),
        borders=sum_over_processes(self._totals["borders"]),
        boundary=sum_over_processes(self._totals["boundary"]),
        calibration=self._totals["calibration"],
        image_mious=dict(v for _, v in sorted(self._mious.items())),
        worst=self._scored[:_EXTREMES],
        best=self._scored[::-1][:_EXTREMES],
      )
    return Evaluation(
      dataset=info,
      settings=settings,
      confusion=self._totals["confusion"],
      num_images=int(sum_over_processes(np.array(self._num_images))),
      seconds=time.monotonic() - began,
      examples=[v for _, v in sorted(self._examples.items())],
      detail=detail,
    )


class _Whole(NamedTuple):
  """A picture that is put together: see `ScoredPicture`."""

  name: str
  image: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray


def _spread(count: int, number: int) -> frozenset[int]:
  """At most `number` indices below `count`, evenly spaced: neighbours in a
  split may be neighbouring frames of a film."""
  return frozenset(i * count // number for i in range(number if count else 0))


def _local_rows(array: jax.Array) -> np.ndarray:
  """The rows that this process's devices hold, in order."""
  # Devices that share pictures hold equal ones.
  shards = [s for s in array.addressable_shards if s.replica_id == 0]
  shards.sort(key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Sum of int64 counts; sent in halves, as devices have 32-bit integers."""
  if jax.process_count() == 1:
    return counts
  mask = (1 << _LOW_BITS) - 1
  halves = np.stack([counts >> _LOW_BITS, counts & mask]).astype(np.int32)
  gathered = multihost_utils.process_allgather(halves).astype(np.int64)
  high, low = gathered.sum(0)
  return (high << _LOW_BITS) + low
