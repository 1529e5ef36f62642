"""A whole split through the network into counts.

Confusion matrices are counted on the devices and summed over them; what looks
at whole images (trimap, Boundary IoU) is counted on the host of the process
that read them, while the devices work on the next batch.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import rich.progress
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import metrics, sharding
from deeplab_jax.data import segmentation
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.source import Dataset, open_dataset
from deeplab_jax.evaluate.results import Detail, Evaluation, Example
from deeplab_jax.inference import predict_fn
from deeplab_jax.models import DeepLab, padding_value

_EXTREMES = 6  # worst and best images kept
_LOW_BITS = 30


def evaluate(
  model: DeepLab,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset | None = None,
  mesh: Mesh | None = None,
  should_stop: Callable[[], bool] = lambda: False,
  detailed: bool = False,
  show_progress: bool = False,
) -> Evaluation | None:
  """Evaluates `model` on the evaluation split of a data set.

  Every process of a run calls this; all get the same figures.

  Args:
    model: the network; `config.eval.output_stride` may replace its own.
    variables: `{"params", "batch_stats"}`, replicated over `mesh`.
    config: `data` and `eval` are read.
    dataset: opened from `config.data` by default; one who evaluates several
      times opens it once.
    mesh: all devices of all processes by default.
    should_stop: asked before each batch.
    detailed: whether to count what `Detail` holds, too.
    show_progress: whether to draw a progress bar.

  Returns:
    what was found, None if told to stop.

  Raises:
    ValueError: the model has not the data set's classes, or a field of
      `config.data` is wrong.
  """
  began = time.monotonic()
  mesh = mesh or sharding.make_mesh()
  dataset = dataset or open_dataset(config.data)
  info = dataset.info
  if model.num_classes != info.num_classes:
    raise ValueError(
      f"data.name {info.name!r} has {info.num_classes} classes, the "
      f"model {model.num_classes}: evaluate it on what it was trained on"
    )
  if config.eval.output_stride:
    model = model.clone(output_stride=config.eval.output_stride)
  scales, flip = tuple(config.eval.scales), config.eval.flip
  step = _make_step(model, scales, flip, mesh, detailed)
  count = len(dataset.eval)
  count = min(count, config.data.eval_limit or count)
  # The first process, which draws them, has so many images at least.
  own = -(-count // jax.process_count())
  shown = _spread(own, config.eval.pictures)
  tally = _Tally(info.num_classes, shown, detailed)
  batches = _batches(dataset, config, model, mesh, count, show_progress)
  for batch in batches:
    if _any_process(should_stop()):
      return None
    arrays = {name: batch[name] for name in ("image", "label", "size")}
    arrays = sharding.global_batch(arrays, mesh)
    # The step runs on while the host counts the batch before.
    tally.add(batch, *step(variables, **arrays))
  settings = _settings(dataset.eval_split, model, config, tally.crop)
  return tally.result(info, settings, began)


def _batches(
  dataset: Dataset,
  config: ConfigDict,
  model: DeepLab,
  mesh: Mesh,
  count: int,
  show_progress: bool,
) -> Iterator[dict[str, Any]]:
  """This process's rows of all batches, their number raised to the devices."""
  devices = mesh.devices.size
  batch_size = -(-config.eval.batch_size // devices) * devices
  batches = segmentation.eval_batches(
    dataset,
    config.data,
    batch_size=batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    padding_value=padding_value(model.backbone),
    limit=config.data.eval_limit,
  )
  return rich.progress.track(
    batches,
    "evaluating",
    total=-(-count // batch_size),
    disable=not show_progress,
  )


def _spread(count: int, number: int) -> frozenset[int]:
  """At most `number` indices below `count`, evenly spaced: neighbours in a
  split may be neighbouring frames of a film."""
  return frozenset(i * count // number for i in range(number if count else 0))


@functools.lru_cache(maxsize=8)
def _make_step(
  model: DeepLab,
  scales: tuple[float, ...],
  flip: bool,
  mesh: Mesh,
  detailed: bool,
) -> Callable:
  """The compiled step, kept from one evaluation of a run to the next."""
  predict = predict_fn(model, scales, flip)

  def step(variables, image, label, size):
    labels, probabilities = predict(variables, image, size)
    classes = model.num_classes
    counts = {"confusion": metrics.confusion_matrix(label, labels, classes)}
    if detailed:
      counts["calibration"] = metrics.calibration_counts(
        probabilities.max(-1), labels, label, classes
      )
    return counts, labels

  placements = sharding.replicated(mesh), sharding.divided(mesh)
  return jax.jit(step, out_shardings=placements)


class _Tally:
  """Adds up the counts of the batches, one behind the device.

  Attributes:
    crop: height and width that the images are padded to.
  """

  def __init__(self, num_classes: int, shown: frozenset[int], detailed: bool):
    """`shown` are the indices, in this process's images, of the examples."""
    self._num_classes = num_classes
    self._shown = shown
    self._detailed = detailed
    self.crop: tuple[int, int] | None = None
    self._pending: tuple | None = None
    self._totals: dict[str, np.ndarray] = {}
    self._examples: list[Example] = []
    self._scored: list[Example] = []
    self._mious: dict[str, float | None] = {}
    self._num_images = 0

  def add(self, batch: dict, counts: dict, labels: jax.Array) -> None:
    """Takes a batch just begun and counts the one before."""
    self._count_pending()
    self._pending = batch, counts, labels
    self.crop = batch["label"].shape[1:]

  def _count_pending(self) -> None:
    if self._pending is None:
      return
    batch, counts, labels = self._pending
    self._pending = None
    for name, value in counts.items():
      self._increase(name, np.asarray(value).astype(np.int64))
    end = self._num_images + int(batch["valid"].sum())
    indices = range(self._num_images, end)
    self._num_images = end
    if self._detailed or not self._shown.isdisjoint(indices):
      examples = _examples(batch, _local_rows(labels), self._num_classes)
      for index, example in zip(indices, examples):
        self._look_at(index, example)

  def _increase(self, name, value):
    self._totals[name] = self._totals.get(name, 0) + value

  def _look_at(self, index: int, example: Example) -> None:
    """Counts and keeps what needs the whole image."""
    if index in self._shown:
      self._examples.append(example)
    if not self._detailed:
      return
    maps = example.labels, example.predictions, self._num_classes
    self._increase("trimap", metrics.trimap_counts(*maps))
    borders = metrics.trimap_counts(*maps, bands=metrics.border_bands)
    self._increase("borders", borders)
    self._increase("boundary", metrics.boundary_counts(*maps))
    scored = not np.isnan(example.miou)
    self._mious[example.name] = example.miou if scored else None
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
        trimap=_sum_over_processes(self._totals["trimap"]),
        borders=_sum_over_processes(self._totals["borders"]),
        boundary=_sum_over_processes(self._totals["boundary"]),
        calibration=self._totals["calibration"],
        image_mious=self._mious,
        worst=self._scored[:_EXTREMES],
        best=self._scored[::-1][:_EXTREMES],
      )
    return Evaluation(
      dataset=info,
      settings=settings,
      confusion=self._totals["confusion"],
      num_images=int(_sum_over_processes(np.array(self._num_images))),
      seconds=time.monotonic() - began,
      examples=self._examples,
      detail=detail,
    )


def _examples(
  batch: dict, predictions: np.ndarray, num_classes: int
) -> Iterator[Example]:
  """The true images of a batch, cut to their sizes."""
  for row in np.flatnonzero(batch["valid"]):
    height, width = batch["size"][row]
    labels = batch["label"][row, :height, :width]
    predicted = predictions[row, :height, :width]
    confusion = metrics.confusion_matrix_numpy(labels, predicted, num_classes)
    yield Example(
      name=batch["name"][row],
      image=batch["image"][row, :height, :width],
      labels=labels,
      predictions=predicted,
      miou=metrics.mean_iou(confusion),
    )


def _local_rows(array: jax.Array) -> np.ndarray:
  """The rows that this process's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def _any_process(flag: bool) -> bool:
  """Whether `flag` is set on any process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def _sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Sum of int64 counts; sent in halves, as devices have 32-bit integers."""
  if jax.process_count() == 1:
    return counts
  mask = (1 << _LOW_BITS) - 1
  halves = np.stack([counts >> _LOW_BITS, counts & mask]).astype(np.int32)
  gathered = multihost_utils.process_allgather(halves).astype(np.int64)
  high, low = gathered.sum(0)
  return (high << _LOW_BITS) + low


def _settings(
  split: str, model: DeepLab, config: ConfigDict, crop: tuple[int, int]
) -> dict[str, Any]:
  """What a reader of the figures must know."""
  return {
    "split": split,
    "backbone": model.backbone,
    "output_stride": model.output_stride,
    "crop_size": list(crop),
    "scales": list(config.eval.scales),
    "flip": config.eval.flip,
    "devices": jax.device_count(),
    "device": jax.devices()[0].device_kind,
  }
