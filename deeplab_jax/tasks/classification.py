"""Classification, to pretrain a backbone: top-1 and top-5 accuracy."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from deeplab_jax.data import classification
from deeplab_jax.data.source import Dataset
from deeplab_jax.evaluate.classification import evaluate, report
from deeplab_jax.losses import Loss, class_cross_entropy
from deeplab_jax.models import Classifier

__all__ = [
  "abstract_batch",
  "evaluate",
  "evaluation_size",
  "make_loss",
  "report",
  "train_batches",
]


def make_loss(config: ConfigDict) -> Loss:
  """The cross-entropy of the classes, smoothed as `config.loss` says."""
  smoothing = config.loss.label_smoothing
  return Loss(
    "cross_entropy",
    functools.partial(class_cross_entropy, label_smoothing=smoothing),
  )


def train_batches(
  dataset: Dataset, config: ConfigDict, step: int
) -> Iterator[dict[str, Any]]:
  """This process's rows of the global batches from `step` on."""
  return classification.train_batches(
    dataset,
    config.data,
    batch_size=config.batch_size,
    seed=config.seed,
    start_step=step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def abstract_batch(
  config: ConfigDict, model: Classifier | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of a global batch: images, and one class of each."""
  channels, dtype = (
    (model.channels, model.image_dtype) if model else (3, "uint8")
  )
  shape = (config.batch_size, *config.data.crop_size, channels)
  return {
    "image": jax.ShapeDtypeStruct(shape, np.dtype(dtype)),
    "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
  }


def evaluation_size(config: ConfigDict) -> tuple[int, int]:
  """Height and width that images are evaluated at, of any data set."""
  return tuple(config.data.crop_size)
