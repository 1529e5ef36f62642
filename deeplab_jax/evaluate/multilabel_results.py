"""What an evaluation of overlapping classes found, and what follows from it."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
import rich.table
import rich.text
from PIL import Image

from deeplab_jax import atomic, messages, metrics
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.evaluate.results import ScoredPicture, draw

_HALF = 0.5


def threshold_key(class_name: str) -> str:
  """The name of a class's threshold among the figures of an evaluation."""
  return f"eval/threshold/{class_name}"


@dataclasses.dataclass(frozen=True)
class MultilabelEvaluation:
  """The outcome for one split.

  Attributes:
    dataset: names and colours of the classes.
    settings: what was evaluated and how: split, output stride, scales, ...
    thresholds: the probability of each class from which on it is there.
    outcomes: int64 (num_classes, 2, 2) at these, see `metrics.outcome_counts`.
    levels: int64 (num_classes, 2, 256), see `metrics.level_counts`.
    num_images: how many images were counted, each once.
    seconds: wall clock, compilation included.
    examples: as many images as asked for, evenly spaced in the split; their
      labels and predictions are (h, w, num_classes).
    image_mious: name -> mean IoU of the image, None where it has no class, in
      the order of the split; these and the following only with thresholds that
      were given.
    worst: the images of the lowest mean IoU, the lowest first.
    best: the images of the highest, the highest first.
  """

  dataset: DatasetInfo
  settings: dict[str, Any]
  thresholds: tuple[float, ...]
  outcomes: np.ndarray
  levels: np.ndarray
  num_images: int
  seconds: float
  examples: list[ScoredPicture]
  image_mious: dict[str, float | None]
  worst: list[ScoredPicture]
  best: list[ScoredPicture]

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.dataset.class_names

  @property
  def iou(self) -> np.ndarray:
    """IoU per class, float64 (num_classes,); NaN where it does not occur."""
    return metrics.outcome_iou(self.outcomes)

  @property
  def miou(self) -> float:
    """Mean IoU over the classes labelled or predicted, in 0..1."""
    return metrics.mean_of_known(self.iou)

  @property
  def by_class(self) -> dict[str, np.ndarray]:
    """Figures by name, each float64 (num_classes,), NaN where there is none."""
    return {
      "iou": self.iou,
      "precision": metrics.outcome_precision(self.outcomes),
      "recall": metrics.outcome_recall(self.outcomes),
    }

  @property
  def absent_classes(self) -> list[str]:
    """Names of the classes neither labelled nor predicted."""
    return [n for n, v in zip(self.class_names, self.iou) if math.isnan(v)]

  def summary(self) -> dict[str, float]:
    """The figures of the whole split; NaN where there is none."""
    halves = np.full(len(self.class_names), _HALF)
    at_half = metrics.outcomes_at(self.levels, halves)
    figures = self.by_class
    return {
      "miou": self.miou,
      "miou_at_half": metrics.mean_of_known(metrics.outcome_iou(at_half)),
      "mean_precision": metrics.mean_of_known(figures["precision"]),
      "mean_recall": metrics.mean_of_known(figures["recall"]),
    }

  def as_metrics(self) -> dict[str, float]:
    """Named figures for logs: "eval/miou", ..., "eval/iou/<class>", ..."""
    found = {f"eval/{name}": v for name, v in self.summary().items()}
    for name, values in self.by_class.items():
      for class_name, value in zip(self.class_names, values):
        found[f"eval/{name}/{class_name}"] = float(value)
    for class_name, value in zip(self.class_names, self.thresholds):
      found[threshold_key(class_name)] = value
    speed = self.num_images / self.seconds
    return found | {"eval/images_per_second": speed}

  def to_dict(self) -> dict[str, Any]:
    """Everything but the pictures, as JSON holds it; None for NaN."""
    by_class = {
      name: {n: _number(v) for n, v in zip(self.class_names, values)}
      for name, values in self.by_class.items()
    }
    return {
      "dataset": self.dataset.name,
      "task": "multilabel",
      "settings": self.settings,
      **{name: _number(v) for name, v in self.summary().items()},
      "classes_in_mean": len(self.class_names) - len(self.absent_classes),
      "absent_classes": self.absent_classes,
      **by_class,
      "thresholds": dict(zip(self.class_names, self.thresholds)),
      "images": self.num_images,
      "labelled_pixels": dict(
        zip(self.class_names, self.outcomes.sum((1, 2)).tolist())
      ),
      "seconds": round(self.seconds, 3),
      "class_names": list(self.class_names),
      "outcomes": self.outcomes.tolist(),
      "image_miou": self.image_mious,
    }

  def table(self) -> rich.table.Table:
    """Figures by class and the summary below, for a terminal."""
    table = rich.table.Table(
      title=rich.text.Text(
        f"{messages.printable(self.dataset.name)} {self.settings['split']}, "
        f"{self.num_images} images"
      ),
      show_footer=True,
    )
    summary = self.summary()
    present = len(self.class_names) - len(self.absent_classes)
    titles = [n.replace("_", " ") for n in summary]
    titles[0] = f"mIoU of {present}/{len(self.class_names)} classes"
    table.add_column("class", "\n".join(titles))
    figures = "\n".join(_percent(v) for v in summary.values())
    table.add_column("IoU %", figures, justify="right")
    for heading in ("precision %", "recall %", "threshold", "there %"):
      table.add_column(heading, justify="right")
    for row in self.rows():
      # Text, as rich would read [/red] in a name as markup.
      table.add_row(rich.text.Text(messages.printable(row[0])), *row[1:])
    return table

  def rows(self) -> list[tuple[str, ...]]:
    """Of each class its name, IoU, precision and recall in percent, threshold,
    and the share of its pixels where it is."""
    found = self.by_class
    labelled = self.outcomes.sum(2)
    there = labelled[:, 1] / np.maximum(labelled.sum(1), 1)
    return [
      (
        name,
        *(_percent(values[i]) for values in found.values()),
        f"{self.thresholds[i]:.3f}",
        _percent(there[i]),
      )
      for i, name in enumerate(self.class_names)
    ]

  def write_picture(self, path: pathlib.Path | str) -> None:
    """Draws the examples as a PNG; only on process 0, and if there are any."""
    if not self.examples or jax.process_index() != 0:
      return
    picture = Image.fromarray(draw(self.examples, self.dataset))
    with atomic.replacing(path) as partial:
      picture.save(partial, "PNG")


def _percent(value: float) -> str:
  return "none" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> float | None:
  return None if math.isnan(value) else float(value)
