"""How good a segmentation is near object boundaries.

*Trimap* (paper section 4.3; Kohli et al. 2009): mean IoU over the pixels within
so many pixels of the unlabelled ("void") strip that VOC draws along the
boundaries, or around the borders of the labels where void marks none. *Boundary
IoU* (Cheng et al. 2021): IoU of the strips just inside the true and the
predicted regions.

Counts are taken on the host from whole images cut to their true size. They are
plain int64 arrays: those of a split are the sum of those of its images.
"""

from collections.abc import Callable

import cv2
import numpy as np

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.metrics.confusion import mean_iou

TRIMAP_WIDTH = 40
BOUNDARY_SHARE = 0.02
_OUTSIDE = -1


def trimap_bands(labels: np.ndarray, width: int = TRIMAP_WIDTH) -> np.ndarray:
  """The narrowest band around void that holds each pixel.

  Args:
    labels: uint8 (h, w), void pixels 255.
    width: of the widest band, in pixels.

  Returns:
    uint8 (h, w) in 0..width: the Euclidean distance to the nearest void pixel
    rounded up; 0 for void itself, beyond `width` and where nothing is void.
  """
  return _bands(labels != IGNORE, width)


def border_bands(labels: np.ndarray, width: int = TRIMAP_WIDTH) -> np.ndarray:
  """The narrowest band around the borders of the labels that holds each pixel.

  As `trimap_bands`, with the distance to the nearest pixel of another label,
  void or not: for data sets whose void is not a strip along the boundaries.
  """
  bands = np.zeros(labels.shape, np.uint8)
  for label in np.unique(labels[labels != IGNORE]):
    bands += _bands(labels == label, width)  # 0 outside of the region
  return bands


def _bands(inside: np.ndarray, width: int) -> np.ndarray:
  """Distance to the nearest False, rounded up; 0 there and beyond `width`."""
  if inside.all():
    return np.zeros(inside.shape, np.uint8)
  distance = cv2.distanceTransform(
    inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
  )
  # Squared distances are whole numbers: rounding undoes float32's errors.
  squared = np.rint(np.square(distance, dtype=np.float64))
  bands = np.ceil(np.sqrt(squared))
  return np.where(bands <= width, bands, 0).astype(np.uint8)


def trimap_counts(
  labels: np.ndarray,
  predictions: np.ndarray,
  num_classes: int,
  width: int = TRIMAP_WIDTH,
  bands: Callable[[np.ndarray, int], np.ndarray] = trimap_bands,
) -> np.ndarray:
  """Confusion matrices of the rings around void, or borders, in one image.

  Args:
    labels: uint8 (h, w), void pixels 255.
    predictions: integers (h, w) in `0..num_classes-1`.
    num_classes: number of classes.
    width: number of rings.
    bands: `trimap_bands` or `border_bands`.

  Returns:
    int64 (width, num_classes, num_classes); ring `i` holds the pixels whose
    distance from void, or another label, is in `(i, i + 1]`.
  """
  numbers = bands(labels, width)
  near = numbers > 0
  rings, truths = numbers[near].astype(np.int64) - 1, labels[near]
  cells = (rings * num_classes + truths) * num_classes + predictions[near]
  counts = np.bincount(cells, minlength=width * num_classes**2)
  return counts.reshape(width, num_classes, num_classes)


def trimap_curve(counts: np.ndarray) -> np.ndarray:
  """Mean IoU in the bands of 1, 2, ... pixels, float64 (width,) in 0..1."""
  return np.array([mean_iou(band) for band in np.cumsum(counts, axis=0)])


def boundary_distance(shape: tuple[int, int]) -> int:
  """Width of the strips in pixels: 2 % of the image diagonal, as published."""
  return max(1, round(BOUNDARY_SHARE * float(np.hypot(*shape))))


def contour_strip(regions: np.ndarray, distance: int) -> np.ndarray:
  """Pixels at most `distance` from the edge of their own region.

  Distance counts steps in eight directions, from the first pixel outside; the
  frame of the image is an edge, as in the published code.

  Args:
    regions: integers (h, w), the class of each pixel.
    distance: in pixels.

  Returns:
    bool (h, w): not left by an erosion of the region by `distance` pixels.
  """
  padded = np.pad(regions.astype(np.int16), distance, constant_values=_OUTSIDE)
  window = np.ones((2 * distance + 1,) * 2, np.uint8)
  inner = (slice(distance, -distance),) * 2
  lowest, highest = cv2.erode(padded, window), cv2.dilate(padded, window)
  return lowest[inner] != highest[inner]


def boundary_counts(
  labels: np.ndarray,
  predictions: np.ndarray,
  num_classes: int,
  distance: int | None = None,
) -> np.ndarray:
  """Intersection and union of the true and predicted strips of one image.

  Ignored pixels belong to no region, neither true nor predicted, so that the
  edge of a void strip is an edge for both.

  Args:
    labels: uint8 (h, w), ignored pixels 255.
    predictions: integers (h, w) in `0..num_classes-1`.
    num_classes: number of classes.
    distance: width of the strips; `boundary_distance` of the image by default.

  Returns:
    int64 (2, num_classes): pixels in the intersection, in the union.
  """
  distance = distance or boundary_distance(labels.shape)
  predictions = np.where(labels == IGNORE, IGNORE, predictions)
  true_strip = contour_strip(labels, distance)
  predicted_strip = contour_strip(predictions, distance)
  both = true_strip & predicted_strip & (labels == predictions)

  def count(mask, classes):
    return np.bincount(classes[mask], minlength=num_classes)[:num_classes]

  intersection = count(both, labels)
  union = count(true_strip, labels) + count(predicted_strip, predictions)
  return np.stack([intersection, union - intersection])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
  """Boundary IoU of each class, float64 (num_classes,); NaN without pixels."""
  intersection, union = counts.astype(np.float64)
  missing = np.full(union.shape, np.nan)
  return np.divide(intersection, union, out=missing, where=union > 0)


def mean_boundary_iou(counts: np.ndarray) -> float:
  """Mean Boundary IoU over the classes that have one; NaN without any."""
  values = boundary_iou(counts)
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float("nan")
