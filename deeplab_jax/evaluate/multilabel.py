"""A split through a network whose classes overlap: thresholds and figures.

Every class has its own threshold. While training they are chosen, on the
held-out split, and stored with the model; a stored model is scored by those.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import atomic, metrics, remote, sharding, visualize
from deeplab_jax.checkpoints import load_variables
from deeplab_jax.data.source import Dataset
from deeplab_jax.evaluate import multilabel_page
from deeplab_jax.evaluate.loop import make_protocol, tally_split
from deeplab_jax.evaluate.multilabel_results import (
  MultilabelEvaluation,
  threshold_key,
)
from deeplab_jax.evaluate.processes import Picture, sum_over_processes
from deeplab_jax.evaluate.report import peak_memory, report_on
from deeplab_jax.evaluate.results import ScoredPicture
from deeplab_jax.evaluate.tally import Tally
from deeplab_jax.inference import predict_fn
from deeplab_jax.inference.protocol import checked_thresholds, stored_thresholds
from deeplab_jax.models import DeepLab
from deeplab_jax.models.divided import by_rows

__all__ = ["evaluate", "report", "threshold_key"]


def evaluate(
  model: DeepLab,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset,
  thresholds: Sequence[float] | None = None,
  least_crop: tuple[int, int] | None = None,
  mesh: Mesh | None = None,
  should_stop: Callable[[], bool] = lambda: False,
  show_progress: bool = False,
) -> MultilabelEvaluation | None:
  """Evaluates `model` on the evaluation split of a data set.

  Every process of a run calls this; all get the same figures.

  Args:
    model: the network.
    variables: `{"params", "batch_stats"}`, replicated over `mesh`.
    config: `data` and `eval` are read.
    dataset: one whose classes overlap.
    thresholds: the probability of each class from which on it is there; None
      takes those of the best IoU on this split.
    least_crop: as a stored model has it; None takes `config.data.eval_size`.
    mesh: all devices of all processes by default, of which
      `config.mesh_height` share each picture.
    should_stop: asked before each batch.
    show_progress: whether to draw a progress bar.

  Returns:
    what was found, None if told to stop.

  Raises:
    ValueError: the model has not the data set's classes, or a field of
      `config.data` is wrong.
  """
  began = time.monotonic()
  mesh = mesh or sharding.make_mesh(config.mesh_height)
  protocol = make_protocol(config, least_crop)
  thresholds = checked_thresholds(thresholds, dataset.info.num_classes)
  how = protocol.scales, protocol.flip, mesh, thresholds
  tallied = tally_split(
    model,
    variables,
    config,
    dataset=dataset,
    protocol=protocol,
    mesh=mesh,
    make_step=lambda model: _make_step(model, *how),
    make_tally=lambda sizes, work: _Tally(
      sizes, work, config.eval.pictures, thresholds, model.value_range
    ),
    should_stop=should_stop,
    show_progress=show_progress,
  )
  if tallied is None:
    return None
  tally, settings = tallied
  return tally.found(dataset.info, settings, began)


@functools.lru_cache(maxsize=8)
def _make_step(
  model: DeepLab,
  scales: tuple[float, ...],
  flip: bool,
  mesh: Mesh,
  thresholds: tuple[float, ...] | None,
) -> Callable:
  """The compiled step, kept from one evaluation of a run to the next."""
  wanted = thresholds or (0.5,) * model.num_classes
  predict = predict_fn(model, scales, flip, wanted)

  def step(variables, image, label, size, crop=None):
    labels, probabilities = predict(variables, image, size, crop)
    counts = {"levels": metrics.level_counts(label, probabilities)}
    counts["outcomes"] = metrics.outcome_counts(label, labels, jnp)
    return counts, probabilities

  step = by_rows(step, mesh, sharding.HEIGHT_AXIS)
  placements = sharding.replicated(mesh), sharding.divided(mesh)
  return jax.jit(step, out_shardings=placements)


class _Tally(Tally):
  """The same of overlapping classes; what is put together are probabilities."""

  def __init__(self, sizes, work, pictures, thresholds, value_range):
    """With thresholds, every picture is looked at and the extremes are kept."""
    detailed = thresholds is not None
    super().__init__(0, sizes, work, pictures, detailed, value_range)
    self._thresholds = thresholds

  def _look_at(self, index, whole):
    if self._thresholds is not None:  # a quarter of the probabilities' bytes
      whole = _with_classes(whole, self._thresholds)
    self._keep(index, whole)

  def _score(self, whole):
    outcomes = metrics.outcome_counts(whole.labels, whole.predictions)
    miou = metrics.mean_of_known(metrics.outcome_iou(outcomes))
    return ScoredPicture(**whole._asdict(), miou=miou)

  def found(self, info, settings, began) -> MultilabelEvaluation:
    """The evaluation since `began`, summed over all processes."""
    self._count_pending()
    levels, outcomes = self._totals["levels"], self._totals["outcomes"]
    thresholds = self._thresholds
    if thresholds is None:
      thresholds = metrics.best_thresholds(levels)
      outcomes = metrics.outcomes_at(levels, thresholds)
      for index, whole in self._examples.items():
        self._examples[index] = _with_classes(whole, thresholds)
    images = sum_over_processes(np.array(self._num_images))
    mious, examples, worst, best = self._of_all()
    return MultilabelEvaluation(
      dataset=info,
      settings=settings,
      thresholds=tuple(map(float, thresholds)),
      outcomes=outcomes,
      levels=levels,
      num_images=int(images),
      seconds=time.monotonic() - began,
      examples=examples,
      image_mious=mious,
      worst=worst,
      best=best,
    )


def _with_classes(whole: Picture, thresholds: Sequence[float]) -> Picture:
  """A picture of probabilities with the classes that are there instead."""
  least = np.asarray(thresholds, np.float32)
  there = (whole.predictions >= least).astype(np.uint8)
  return whole._replace(predictions=there)


def report(
  checkpoint: str | os.PathLike,
  config: ConfigDict,
  workdir: str | os.PathLike | None = None,
  compare: str | os.PathLike | None = None,
) -> MultilabelEvaluation:
  """Evaluates a stored model by its thresholds; writes WORKDIR/evaluation.

  The folder receives `results.json`, `report.html`, and the pictures
  `examples.png` and `iou.png`.

  Args:
    checkpoint: a workdir, a step in it, its `best`, or an imported model
      directory; the model is the one stored there.
    config: `data` and `eval` say on what and how; `eval.threshold`, unless 0,
      stands in for all that are stored.
    workdir: where the folder `evaluation` goes; None writes nothing.
    compare: another evaluation to show beside this one: its workdir, or its
      `results.json`.

  Raises:
    ValueError: the model's classes exclude each other, or have another order;
      nothing to compare with, or of other classes; a wrong field.
  """
  if workdir is not None:
    remote.require_writable(workdir)
  model, variables, facts = load_variables(checkpoint)
  thresholds = stored_thresholds(facts)
  if thresholds is None:
    raise ValueError(
      f"{checkpoint} must hold a model of overlapping classes, with thresholds "
      "in its model.json, got none; evaluate it with config.task 'segmentation'"
    )
  if config.eval.threshold:
    thresholds = (config.eval.threshold,) * model.num_classes
  return report_on(
    checkpoint,
    (model, variables, facts),
    config,
    workdir,
    compare,
    evaluate=functools.partial(evaluate, thresholds=thresholds),
    write=_write,
    multilabel=True,
  )


def _write(
  evaluation: MultilabelEvaluation,
  folder: remote.AnyPath,
  other: dict[str, Any] | None,
) -> None:
  """Writes the folder of an evaluation, see `report`."""
  content = evaluation.to_dict() | {"peak_memory_bytes": peak_memory()}
  atomic.write_json(folder / "results.json", content)
  evaluation.write_picture(folder / "examples.png")
  plot = multilabel_page.draw_iou(content, other)
  visualize.write_figure(folder / "iou.png", plot)
  text = multilabel_page.render(evaluation, content, plot, other)
  atomic.write_text(folder / "report.html", text)
