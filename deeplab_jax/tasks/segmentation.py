"""Segmentation: crops with masks, mIoU, pictures of examples."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import evaluate as evaluation_lib
from deeplab_jax import losses
from deeplab_jax.data import segmentation
from deeplab_jax.data.source import Dataset
from deeplab_jax.losses import Loss
from deeplab_jax.models import DeepLab, padding_value

report = evaluation_lib.report


def make_loss(config: ConfigDict) -> Loss:
  """The loss that `config.loss` describes, of the settings that it takes."""
  fields = config.loss.to_dict()
  return losses.make(config.loss.name, config.loss.weights, fields)


def train_batches(
  dataset: Dataset, config: ConfigDict, step: int
) -> Iterator[dict[str, Any]]:
  """This process's rows of the global batches from `step` on.

  From `config.data.late_crop_step` on crops have their other size.
  """
  info = dataset.info
  batches = functools.partial(
    segmentation.train_batches,
    dataset,
    batch_size=config.batch_size,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    padding_value=padding_value(
      config.model.backbone, info.channels, info.value_range
    ),
  )
  late = config.data.late_crop_step
  if not late:
    return batches(config.data, start_step=step)
  data = config.data.copy_and_resolve_references()
  data.crop_size = data.late_crop_size
  if step >= late:
    return batches(data, start_step=step)
  early = itertools.islice(batches(config.data, start_step=step), late - step)
  others = (batches(data, start_step=late) for _ in range(1))  # read from then
  return itertools.chain(early, itertools.chain.from_iterable(others))


def abstract_batch(
  config: ConfigDict, model: DeepLab | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of a global batch: crops and their masks."""
  channels, dtype = (
    (model.channels, model.image_dtype) if model else (3, "uint8")
  )
  shape = (config.batch_size, *config.data.crop_size, channels)
  return {
    "image": jax.ShapeDtypeStruct(shape, np.dtype(dtype)),
    "label": jax.ShapeDtypeStruct(shape[:-1], np.uint8),
  }


def evaluation_size(config: ConfigDict) -> tuple[int, int]:
  """Height and width that images are padded to at least in evaluation."""
  return evaluation_lib.make_protocol(config).least_crop


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
  """Named figures of the evaluation split; examples are drawn to `picture`."""
  evaluation = evaluation_lib.evaluate(
    model,
    variables,
    config,
    dataset=dataset,
    mesh=mesh,
    should_stop=should_stop,
  )
  if evaluation is None:
    return None
  evaluation.write_picture(picture)
  return evaluation.as_metrics()
