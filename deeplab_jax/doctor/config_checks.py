"""What can be wrong with a config, alone or for its data set."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax import messages
from deeplab_jax.checkpoints.model_directory import find_step
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.doctor.findings import Finding, error, warning
from deeplab_jax.doctor.survey import Survey
from deeplab_jax.train.initialize import check_start

_PUBLISHED_MOMENTUM = 0.9997  # of batch norm in ASPP and decoder
_UNSETTLED = 0.05  # what is left of the first statistics


def before_data(config: ConfigDict) -> Iterator[Finding]:
  """What needs no data to be found."""
  try:
    config_lib.check(config)
  except ValueError as mistake:
    yield error("config", str(mistake), "correct the field")
    return
  if not has_masks(config):
    yield warning(
      "no-masks",
      f"{config.data.name} is for classification: only the config was checked",
      "nothing",
    )
  yield from _start(config)
  yield from _batch_norm(config)


def has_masks(config: ConfigDict) -> bool:
  """Whether the data set is known and one of segmentation."""
  info = DATASETS.get(config.data.name)
  return info is not None and info.has_masks


def no_start(config: ConfigDict) -> str:
  """Why there are no weights to start from; "" if there are, or none asked."""
  try:
    if config.init_from:
      find_step(config.init_from)
  except (ValueError, OSError) as mistake:
    return messages.explain(mistake)
  return ""


def _start(config: ConfigDict) -> Iterator[Finding]:
  """Weights to start from that are not there, do not fit, or are missed."""
  if config.init_from:
    mistake = no_start(config)
    if mistake:
      yield warning(
        "init-from",
        f"training will refuse to start: {mistake}",
        "import weights (python -m deeplab_jax.import_weights), or set "
        "--config.init_from= to start from random ones",
      )
      return
    try:
      check_start(config)
    except ValueError as mistake:
      yield error("config", str(mistake), "correct the fields")
  elif not config.train_batch_norm:
    yield warning(
      "frozen-batch-norm",
      "train_batch_norm is off, but there are no weights to start from: the "
      "network normalises with statistics of nothing",
      "set --config.init_from, or --config.train_batch_norm=True",
    )


def _batch_norm(config: ConfigDict) -> Iterator[Finding]:
  """Batch norm that sees too little, or never settles."""
  if not config.train_batch_norm:
    return
  if config.batch_size == 1:
    yield warning(
      "batch-of-one",
      "a batch is one image: batch norm of the image pooling sees one value",
      "set --config.batch_size=2 or more, or --config.train_batch_norm=False "
      "with weights to start from",
    )
  momentum = config.model.batch_norm_momentum
  momentum = _PUBLISHED_MOMENTUM if momentum is None else momentum
  fresh = not config.init_from or config.init_parts == "backbone"
  left = momentum**config.steps
  if fresh and left > _UNSETTLED:
    yield warning(
      "batch-norm-too-slow",
      f"after {config.steps} steps the moving statistics of batch norm still "
      f"hold {left:.0%} of their first values: evaluation will be far worse "
      "than training",
      "set --config.model.batch_norm_momentum=0.99 for short runs",
    )


def class_weights(survey: Survey) -> Iterator[Finding]:
  """What does not fit the classes, and weights that switch the loss off."""
  weights = survey.config.loss.class_weights
  if not survey.info:
    return
  count = survey.info.num_classes
  try:
    config_lib.check_classes(survey.config, count)
  except ValueError as mistake:
    of_weights = "class_weights" in str(mistake)
    remedy = "take the suggested ones, or () for none"
    yield error(
      "class-weights" if of_weights else "config",
      str(mistake),
      remedy if of_weights else "correct the field",
    )
    return
  off = [c for c, w in enumerate(weights) if not w and survey.labelled[c]]
  if off:
    yield warning(
      "class-weight-zero",
      "loss.class_weights is 0 for classes that have pixels: "
      f"{', '.join(map(survey.name, off))}",
      "nothing if they are not to be learnt",
    )
