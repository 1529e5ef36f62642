"""Segmentation into classes that overlap: a sigmoid for each."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import losses
from deeplab_jax.data.source import Dataset
from deeplab_jax.evaluate import multilabel
from deeplab_jax.losses import MULTILABEL_LOSSES, Loss
from deeplab_jax.models import DeepLab
from deeplab_jax.tasks import segmentation

_THRESHOLD = 0.5  # before anything has been evaluated

report = multilabel.report


def make_loss(config: ConfigDict) -> Loss:
  """The loss that `config.loss` describes, of the settings that it takes."""
  fields = config.loss.to_dict()
  return losses.make(
    config.loss.name, config.loss.weights, fields, MULTILABEL_LOSSES
  )


def abstract_batch(
  config: ConfigDict, model: DeepLab | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of a global batch: crops, and a mask for each class."""
  batch = segmentation.abstract_batch(config, model)
  shape = (*batch["label"].shape, model.num_classes if model else 1)
  return batch | {"label": jax.ShapeDtypeStruct(shape, np.uint8)}


def evaluate(
  model: DeepLab,
  variables: Any,
  config: ConfigDict,
  *,
  dataset: Dataset,
  mesh: Mesh,
  should_stop: Callable[[], bool],
  picture: pathlib.Path,
) -> dict[str, float] | None:
  """Named figures of the evaluation split; examples are drawn to `picture`.

  Thresholds are chosen on that split, unless `config.eval.threshold` is one.
  """
  threshold = config.eval.threshold
  thresholds = (threshold,) * model.num_classes if threshold else None
  evaluation = multilabel.evaluate(
    model,
    variables,
    config,
    dataset=dataset,
    thresholds=thresholds,
    mesh=mesh,
    should_stop=should_stop,
  )
  if evaluation is None:
    return None
  evaluation.write_picture(picture)
  return evaluation.as_metrics()


def facts(
  evaluations: Mapping[int, Mapping[str, float]], class_names: Sequence[str]
) -> dict[str, Any]:
  """The thresholds of `model.json`: of the latest evaluation, and of each."""
  by_step = {
    str(step): [
      figures.get(multilabel.threshold_key(name)) or _THRESHOLD
      for name in class_names
    ]
    for step, figures in sorted(evaluations.items())
  }
  latest = [_THRESHOLD] * len(class_names)
  if by_step:
    latest = by_step[str(max(evaluations))]
  return {"thresholds": latest, "thresholds_by_step": by_step}
