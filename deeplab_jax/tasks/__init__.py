"""What a run does in its own way for each task: segmentation into classes that
exclude each other or overlap, and classification."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset
from deeplab_jax.losses import Loss
from deeplab_jax.tasks import classification, multilabel, segmentation

__all__ = [
  "CLASSIFICATION",
  "MULTILABEL",
  "SEGMENTATION",
  "Task",
  "find_task",
]


Evaluations = Mapping[int, Mapping[str, float]]


class Task(NamedTuple):
  """The functions of one `config.task`.

  Attributes:
    score: the figure by which a checkpoint is the best, such as "eval/miou".
    title: what readers call it.
    make_loss: config -> what a training step minimises.
    train_batches: (dataset, config, step) -> this process's rows of the global
      batches from `step` on: {"image", "label", "name"}.
    abstract_batch: (config, model), for RGB of 8 bits if that is None -> the
      global batch without names, as `jax.ShapeDtypeStruct`s.
    evaluation_size: config -> height and width that images are evaluated at,
      at least.
    evaluate: (model, variables, config, dataset=, mesh=, should_stop=,
      picture=) -> named figures of the evaluation split, `score` among them;
      None if told to stop. Draws examples, if the task has any to draw, to the
      path `picture`.
    report: (checkpoint, config, workdir, compare=), what `--mode eval` does.
    facts: (figures of all evaluations by step, class names) -> further fields
      of `model.json`.
  """

  score: str
  title: str
  make_loss: Callable[[ConfigDict], Loss]
  train_batches: Callable[[Dataset, ConfigDict, int], Iterator[dict[str, Any]]]
  abstract_batch: Callable[..., dict[str, jax.ShapeDtypeStruct]]
  evaluation_size: Callable[[ConfigDict], tuple[int, int]]
  evaluate: Callable[..., dict[str, float] | None]
  report: Callable[..., Any]
  facts: Callable[[Evaluations, Sequence[str]], dict[str, Any]] = (
    lambda evaluations, class_names: {}
  )


SEGMENTATION = Task(
  score="eval/miou",
  title="mIoU",
  make_loss=segmentation.make_loss,
  train_batches=segmentation.train_batches,
  abstract_batch=segmentation.abstract_batch,
  evaluation_size=segmentation.evaluation_size,
  evaluate=segmentation.evaluate,
  report=segmentation.report,
)
MULTILABEL = Task(
  score="eval/miou",
  title="mIoU",
  make_loss=multilabel.make_loss,
  train_batches=segmentation.train_batches,
  abstract_batch=multilabel.abstract_batch,
  evaluation_size=segmentation.evaluation_size,
  evaluate=multilabel.evaluate,
  report=multilabel.report,
  facts=multilabel.facts,
)
CLASSIFICATION = Task(
  score="eval/top1",
  title="top-1 accuracy",
  make_loss=classification.make_loss,
  train_batches=classification.train_batches,
  abstract_batch=classification.abstract_batch,
  evaluation_size=classification.evaluation_size,
  evaluate=classification.evaluate,
  report=classification.report,
)


def find_task(config: ConfigDict) -> Task:
  """The task of `config`.

  Raises:
    ValueError: the data set is of another one.
  """
  info = DATASETS[config.data.name]
  if config.task == "multilabel":
    if info.name == "folder":
      return MULTILABEL
    raise ValueError(
      f"data.name must be 'folder' with config.task 'multilabel', whose masks "
      f"may overlap, got {info.name!r}; start from configs/folder.py"
    )
  if info.has_masks != (config.task == "segmentation"):
    kind = "masks" if info.has_masks else "one class an image and no masks"
    remedy = "configs/voc.py" if info.has_masks else "configs/imagenet.py"
    raise ValueError(
      f"data.name {info.name!r} has {kind}, which config.task {config.task!r} "
      f"cannot use; change the data set, or start from {remedy}"
    )
  return SEGMENTATION if config.task == "segmentation" else CLASSIFICATION
