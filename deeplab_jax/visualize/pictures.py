"""Image, truth and prediction side by side, with a legend."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.visualize.colors import Colors, classes_in, colorize
from deeplab_jax.visualize.legends import font, legend

_CELL = 320
_GAP = 6
_LINE = 20
_INK = (30, 30, 30)
_PAPER = (255, 255, 255)
_RIGHT, _WRONG, _UNJUDGED = (222, 235, 222), (214, 39, 40), (245, 245, 245)


def error_map(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
  """Red where `predictions` differ from `labels` (h, w), pale where unjudged.

  Of overlapping classes (h, w, classes), red where any of them differs.

  Returns:
    uint8 RGB (h, w, 3).
  """
  right, unjudged = labels == predictions, labels == IGNORE
  if labels.ndim == 3:
    right, unjudged = (right | unjudged).all(-1), unjudged.all(-1)
  picture = np.where(right[..., None], np.uint8(_RIGHT), np.uint8(_WRONG))
  picture[unjudged] = _UNJUDGED
  return picture


def picture_grid(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  colors: Colors,
  class_names: Sequence[str],
) -> np.ndarray:
  """One row per example: image, truth, prediction, errors.

  Args:
    images: uint8 RGB (h, w, 3), each of its own size.
    labels: uint8 (h, w), ignored pixels 255; or (h, w, classes), where they
      overlap.
    predictions: integers, of the same shapes.
    colors: one per class.
    class_names: of the legend, which lists the classes that occur.

  Returns:
    uint8 RGB picture of all rows, the legend below.
  """
  if not len(images) == len(labels) == len(predictions) > 0:
    raise ValueError(
      "images, labels and predictions must be equally many, at least one; got "
      f"{len(images)}, {len(labels)}, {len(predictions)}"
    )
  rows = [_titles(("image", "truth", "prediction", "wrong pixels"))]
  for image, label, prediction in zip(images, labels, predictions):
    cells = (
      image,
      colorize(label, colors),
      colorize(prediction, colors),
      error_map(label, prediction),
    )
    rows.append(_row([_fit(cell) for cell in cells]))
  seen = _classes_in((*labels, *predictions), len(class_names))
  names, shown = zip(*((class_names[c], colors[c]) for c in seen))
  rows.append(legend(names, shown, rows[0].shape[1]))
  return np.concatenate(rows)


def _classes_in(label_maps, num_classes):
  """The class numbers that occur; class 0 if none does."""
  found = {c for labels in label_maps for c in classes_in(labels, num_classes)}
  return sorted(found) or [0]


def _fit(picture):
  """Scales to the cell's width; height follows, within limits."""
  height = round(picture.shape[0] * _CELL / picture.shape[1])
  size = _CELL, min(max(height, 1), 2 * _CELL)
  enlarging = picture.shape[1] < _CELL
  method = Image.Resampling.NEAREST if enlarging else Image.Resampling.BICUBIC
  return np.asarray(Image.fromarray(picture).resize(size, method))


def _row(cells):
  """Cells of one height side by side, with gaps and a gap below."""
  height, width = cells[0].shape[0] + _GAP, _CELL + _GAP
  canvas = np.full((height, len(cells) * width - _GAP, 3), 255, np.uint8)
  for index, cell in enumerate(cells):
    canvas[:-_GAP, index * width : index * width + _CELL] = cell
  return canvas


def _titles(names):
  width = _CELL + _GAP
  canvas = Image.new("RGB", (len(names) * width - _GAP, _LINE), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for index, name in enumerate(names):
    draw.text((index * width + _GAP, 2), name, fill=_INK, font=font())
  return np.asarray(canvas)
