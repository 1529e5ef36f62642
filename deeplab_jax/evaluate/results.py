"""What an evaluation found: counts, and every figure that follows from them."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
import rich.table
import rich.text
from PIL import Image

from deeplab_jax import atomic, messages, metrics, visualize
from deeplab_jax.data.datasets import DatasetInfo


@dataclasses.dataclass(frozen=True)
class ScoredPicture:
  """One evaluated image, cut to its true size.

  Attributes:
    name: of the image.
    image: uint8 RGB (h, w, 3).
    labels: uint8 (h, w), ignored pixels 255.
    predictions: uint8 or uint16 (h, w).
    miou: mean IoU of this image over its own classes, in 0..1; NaN if nothing
      is labelled.
  """

  name: str
  image: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray
  miou: float


@dataclasses.dataclass(frozen=True)
class Detail:
  """What only a detailed evaluation counts.

  Attributes:
    trimap: int64 (width, num_classes, num_classes), see `trimap_counts`.
    borders: the same around the borders of the labels.
    boundary: int64 (2, num_classes), see `boundary_counts`.
    calibration: int64 (2, levels), see `calibration_counts`.
    image_mious: name -> mean IoU of the image, None where nothing is labelled,
      in the order of the split.
    worst: the images of the lowest mean IoU, the lowest first.
    best: the images of the highest, the highest first.
  """

  trimap: np.ndarray
  borders: np.ndarray
  boundary: np.ndarray
  calibration: np.ndarray
  image_mious: dict[str, float | None]
  worst: list[ScoredPicture]
  best: list[ScoredPicture]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The outcome for one split.

  Attributes:
    dataset: names and colours of the classes.
    settings: what was evaluated and how: split, output stride, scales, ...
    confusion: int64 (num_classes, num_classes), rows are the truth.
    num_images: how many images were counted, each once.
    seconds: wall clock, compilation included.
    examples: as many images as asked for, evenly spaced in the split.
    detail: of a detailed evaluation.
  """

  dataset: DatasetInfo
  settings: dict[str, Any]
  confusion: np.ndarray
  num_images: int
  seconds: float
  examples: list[ScoredPicture]
  detail: Detail | None = None

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.dataset.class_names

  @property
  def iou(self) -> np.ndarray:
    """IoU per class, float64 (num_classes,); NaN where it does not occur."""
    return metrics.iou_per_class(self.confusion)

  @property
  def miou(self) -> float:
    """Mean IoU over the classes labelled or predicted, in 0..1."""
    return metrics.mean_iou(self.confusion)

  @property
  def absent_classes(self) -> list[str]:
    """Names of the classes neither labelled nor predicted."""
    return [n for n, v in zip(self.class_names, self.iou) if math.isnan(v)]

  def summary(self) -> dict[str, float]:
    """The figures of the whole split; NaN where there is none."""
    figures = {
      "miou": self.miou,
      "miou_of_labelled_classes": metrics.mean_iou_labelled(self.confusion),
      "pixel_accuracy": metrics.pixel_accuracy(self.confusion),
      "mean_accuracy": metrics.mean_accuracy(self.confusion),
      "frequency_weighted_accuracy": metrics.frequency_weighted_accuracy(
        self.confusion
      ),
    }
    if self.detail is not None:
      figures["boundary_miou"] = metrics.mean_boundary_iou(self.detail.boundary)
      figures["calibration_error"] = metrics.calibration_error(
        self.detail.calibration
      )
    return figures

  def as_metrics(self) -> dict[str, float]:
    """Named figures for logs: "eval/miou", ..., "eval/iou/<class>"."""
    figures = {f"eval/{name}": v for name, v in self.summary().items()}
    classes = {
      f"eval/iou/{name}": float(v)
      for name, v in zip(self.class_names, self.iou)
    }
    speed = self.num_images / self.seconds
    return figures | classes | {"eval/images_per_second": speed}

  def to_dict(self) -> dict[str, Any]:
    """Everything but the pictures, as JSON holds it; None for NaN."""
    content = {
      "dataset": self.dataset.name,
      "settings": self.settings,
      **{name: _number(v) for name, v in self.summary().items()},
      "classes_in_mean": len(self.class_names) - len(self.absent_classes),
      "absent_classes": self.absent_classes,
      "iou": self._by_class(self.iou),
      "images": self.num_images,
      "labelled_pixels": int(self.confusion.sum()),
      "seconds": round(self.seconds, 3),
      "class_names": list(self.class_names),
      "confusion_matrix": self.confusion.tolist(),
    }
    if self.detail is None:
      return content
    trimap = metrics.trimap_curve(self.detail.trimap)
    borders = metrics.trimap_curve(self.detail.borders)
    return content | {
      "boundary_iou": self._by_class(
        metrics.boundary_iou(self.detail.boundary)
      ),
      "trimap_miou": [_number(v) for v in trimap],
      "border_miou": [_number(v) for v in borders],
      "reliability": {
        name: [_number(v) for v in values]
        for name, values in metrics.reliability(self.detail.calibration).items()
      },
      "image_miou": self.detail.image_mious,
    }

  def table(self) -> rich.table.Table:
    """IoU by class and the summary below, for a terminal."""
    table = rich.table.Table(
      title=rich.text.Text(
        f"{messages.printable(self.dataset.name)} {self.settings['split']}, "
        f"{self.num_images} images"
      ),
      show_footer=True,
    )
    table.add_column("class", "\n".join(self._titles()))
    figures = "\n".join(f"{100 * v:.2f}" for v in self.summary().values())
    table.add_column("IoU %", figures, justify="right")
    table.add_column("labelled pixels %", justify="right")
    labelled = self.confusion.sum(1)
    for name, iou, count in zip(self.class_names, self.iou, labelled):
      share = 100 * count / max(labelled.sum(), 1)
      value = "absent" if math.isnan(iou) else f"{100 * iou:.2f}"
      # Text, as rich would read [/red] in a name as markup.
      shown = rich.text.Text(messages.printable(name))
      table.add_row(shown, value, f"{share:.2f}")
    return table

  def write_picture(self, path: pathlib.Path | str) -> None:
    """Draws the examples as a PNG; only on process 0, and if there are any."""
    if not self.examples or jax.process_index() != 0:
      return
    picture = Image.fromarray(draw(self.examples, self.dataset))
    with atomic.replacing(path) as partial:
      picture.save(partial, "PNG")

  def _titles(self):
    """The names of the summary, saying what the mean is taken over."""
    present = len(self.class_names) - len(self.absent_classes)
    titles = {"miou": f"mIoU of {present}/{len(self.class_names)} classes"}
    for name in self.summary():
      yield titles.get(name, name.replace("_", " "))

  def _by_class(self, values):
    return {name: _number(v) for name, v in zip(self.class_names, values)}


def draw(examples: list[ScoredPicture], dataset: DatasetInfo) -> np.ndarray:
  """The picture grid of `examples`, uint8 RGB; there must be one at least."""
  return visualize.picture_grid(
    [example.image for example in examples],
    [example.labels for example in examples],
    [example.predictions for example in examples],
    dataset.colors,
    dataset.class_names,
  )


def _number(value) -> float | None:
  return None if math.isnan(value) else float(value)


def _numbers(values) -> list[float | None]:
  return [_number(value) for value in values]
