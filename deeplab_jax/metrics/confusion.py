"""Confusion matrix and what follows from it (paper section 4: mIoU).

Rows are the true classes, columns the predicted ones. Labels outside
`0..num_classes-1`, such as the ignore label 255, are not counted.
"""

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(
  labels: jax.Array, predictions: jax.Array, num_classes: int
) -> jax.Array:
  """Counts pixels by true and predicted class, on the device.

  Args:
    labels: integers of any shape; those outside the classes are left out.
    predictions: integers in `0..num_classes-1`, the shape of `labels`.
    num_classes: number of classes.

  Returns:
    int32 (num_classes, num_classes); exact below 2^31 pixels a call.
  """
  pairs = _pairs(labels, predictions, num_classes, jnp)
  counts = jnp.bincount(pairs, length=num_classes**2 + 1)[:-1]
  return counts.astype(jnp.int32).reshape(num_classes, num_classes)


def confusion_matrix_numpy(
  labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
  """The same on the host, int64."""
  pairs = _pairs(labels, predictions, num_classes, np)
  counts = np.bincount(pairs, minlength=num_classes**2 + 1)[:-1]
  return counts.astype(np.int64).reshape(num_classes, num_classes)


def _pairs(labels, predictions, num_classes, xp):
  """Number of each (truth, prediction) pair; uncounted pixels come last."""
  if labels.shape != predictions.shape:
    raise ValueError(
      f"labels and predictions must have one shape, got {labels.shape} and "
      f"{predictions.shape}"
    )
  labels = xp.ravel(labels).astype(xp.int32)
  pairs = labels * num_classes + xp.ravel(predictions).astype(xp.int32)
  counted = (labels >= 0) & (labels < num_classes)
  return xp.where(counted, pairs, num_classes**2)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
  """Intersection over union of each class, float64 (num_classes,) in 0..1.

  A class neither labelled nor predicted has none: NaN. One predicted but never
  labelled has 0.
  """
  hits, labelled, predicted = _margins(confusion)
  return _ratio(hits, labelled + predicted - hits)


def mean_iou(confusion: np.ndarray) -> float:
  """Mean IoU over the classes labelled or predicted: the official figure.

  On a part of a data set this mean may lack classes, and a single stray pixel
  of an absent class adds a zero to it: say over how many classes it is taken.
  """
  return _mean(iou_per_class(confusion))


def mean_iou_labelled(confusion: np.ndarray) -> float:
  """Mean IoU over the classes that have labelled pixels.

  Unlike `mean_iou`, its set of classes depends on the data alone, so that two
  models are averaged over the same classes.
  """
  _, labelled, _ = _margins(confusion)
  return _mean(iou_per_class(confusion)[labelled > 0])


def pixel_accuracy(confusion: np.ndarray) -> float:
  """Share of the labelled pixels predicted right; NaN without any."""
  hits, labelled, _ = _margins(confusion)
  return float(_ratio(hits.sum(), labelled.sum()))


def mean_accuracy(confusion: np.ndarray) -> float:
  """Mean over the labelled classes of the share predicted right."""
  hits, labelled, _ = _margins(confusion)
  return _mean(_ratio(hits, labelled))


def frequency_weighted_accuracy(confusion: np.ndarray) -> float:
  """IoU averaged with each class's share of the labelled pixels as weight.

  "f.w. IU" of Long et al., Fully convolutional networks (2015), section 4.
  """
  _, labelled, _ = _margins(confusion)
  weighted = np.where(labelled > 0, labelled * iou_per_class(confusion), 0)
  return float(_ratio(weighted.sum(), labelled.sum()))


def _margins(confusion):
  """Right, labelled and predicted pixels of each class."""
  confusion = np.asarray(confusion, np.int64)
  return np.diag(confusion), confusion.sum(1), confusion.sum(0)


def _ratio(part, whole):
  """`part / whole` in float64, NaN where `whole` is 0."""
  part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
  missing = np.full(whole.shape, np.nan)
  return np.divide(part, whole, out=missing, where=whole > 0)


def _mean(values):
  """Mean of the numbers that are not NaN; NaN without any."""
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float("nan")
