"""Adds up what batches of an evaluation give, puts pictures together."""

import collections
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from deeplab_jax import metrics, visualize
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.segmentation import View, Views
from deeplab_jax.evaluate.processes import (
  Picture,
  lists_of_all,
  pictures_of_all,
  sum_over_processes,
)
from deeplab_jax.evaluate.results import Detail, Evaluation, ScoredPicture
from deeplab_jax.models.backbones import ValueRange

_EXTREMES = 6  # worst and best images kept
_NO_PICTURE = np.full((1, 1), IGNORE, np.uint8), np.zeros((1, 1), np.uint8)


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
    """For a split of `sizes`, of which this process does `work`; `pictures` are
    kept, for the eye, `value_range` being 0..255."""
    self._value_range = value_range
    self._num_classes = num_classes
    self._sizes = sizes
    self._missing = collections.Counter(
      view.index for views, _ in work for view in views.rows if view
    )
    self._shown = _spread(len(sizes), pictures)
    self._detailed = detailed
    self._pending: tuple | None = None
    self._totals: dict[str, np.ndarray] = {}
    self._parts: dict[int, Picture] = {}
    self._examples: dict[int, Picture] = {}
    self._extremes: list[tuple[float, int, Picture]] = []
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
      self._parts[view.index] = Picture(
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

  def _look_at(self, index: int, whole: Picture) -> None:
    """Counts and keeps what needs the whole image."""
    self._keep(index, whole)
    if self._detailed:
      self._count_borders(whole.labels, whole.predictions)

  def _count_borders(self, labels: np.ndarray, predictions: np.ndarray) -> None:
    maps = labels, predictions, self._num_classes
    self._increase("trimap", metrics.trimap_counts(*maps))
    borders = metrics.trimap_counts(*maps, bands=metrics.border_bands)
    self._increase("borders", borders)
    self._increase("boundary", metrics.boundary_counts(*maps))

  def _keep(self, index: int, whole: Picture) -> None:
    if index in self._shown:
      self._examples[index] = whole
    if not self._detailed:
      return
    miou = self._score(whole).miou
    is_scored = not np.isnan(miou)
    self._mious[index] = whole.name, miou if is_scored else None
    if is_scored:
      self._extremes = sorted(
        [*self._extremes, (miou, index, whole)], key=lambda e: e[:2]
      )
      del self._extremes[_EXTREMES:-_EXTREMES]

  def _score(self, whole: Picture) -> ScoredPicture:
    confusion = metrics.confusion_matrix_numpy(
      whole.labels, whole.predictions, self._num_classes
    )
    return ScoredPicture(**whole._asdict(), miou=metrics.mean_iou(confusion))

  def _of_all(self) -> "_OfAll":
    """Scores and pictures of all processes."""
    mious = lists_of_all([[i, *scored] for i, scored in self._mious.items()])
    ranked = sorted((miou, i) for i, _, miou in mious if miou is not None)
    worst, best = ranked[:_EXTREMES], ranked[::-1][:_EXTREMES]
    own = self._examples | {i: whole for _, i, whole in self._extremes}
    chosen = [
      sorted(self._shown),
      *([i for _, i in found] for found in (worst, best)),
    ]
    pictures = pictures_of_all(own, {i for each in chosen for i in each})
    scored = {i: self._score(whole) for i, whole in pictures.items()}
    return _OfAll(
      {name: miou for _, name, miou in mious},
      *([scored[i] for i in each] for each in chosen),
    )

  def result(
    self, info: DatasetInfo, settings: dict[str, Any], began: float
  ) -> Evaluation:
    """The evaluation since `began`, summed over all processes."""
    self._count_pending()
    mious, examples, worst, best = self._of_all()
    detail = None
    if self._detailed:
      self._count_borders(*_NO_PICTURE)  # all that some processes had
      detail = Detail(
        trimap=sum_over_processes(self._totals["trimap"]),
        borders=sum_over_processes(self._totals["borders"]),
        boundary=sum_over_processes(self._totals["boundary"]),
        calibration=self._totals["calibration"],
        image_mious=mious,
        worst=worst,
        best=best,
      )
    return Evaluation(
      dataset=info,
      settings=settings,
      confusion=self._totals["confusion"],
      num_images=int(sum_over_processes(np.array(self._num_images))),
      seconds=time.monotonic() - began,
      examples=examples,
      detail=detail,
    )


class _OfAll(NamedTuple):
  """By name and in order, see `Detail` and `Evaluation`."""

  image_mious: dict[str, float | None]
  examples: list[ScoredPicture]
  worst: list[ScoredPicture]
  best: list[ScoredPicture]


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
