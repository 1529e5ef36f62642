"""Counts of classes that overlap: each is a question of yes and no.

Probabilities are counted by level, of which there are `LEVELS`, so that all
thresholds that are multiples of 1 / `LEVELS` can be judged afterwards, exactly.
Labels are 1 and 0; others, such as the ignore label 255, are not counted.
"""

import jax
import jax.numpy as jnp
import numpy as np

LEVELS = 256
"""A power of two: a probability times it is exact."""


def level_counts(labels: jax.Array, probabilities: jax.Array) -> jax.Array:
  """Counts pixels by class, truth and level of probability, on the device.

  Args:
    labels: integers (..., num_classes).
    probabilities: of 0..1, the shape of `labels`.

  Returns:
    int32 (num_classes, 2, LEVELS); exact below 2^31 pixels a call.
  """
  classes = labels.shape[-1]
  levels = jnp.floor(probabilities * LEVELS).astype(jnp.int32)
  levels = jnp.clip(levels, 0, LEVELS - 1)
  truth = labels.astype(jnp.int32)
  places = (2 * jnp.arange(classes) + truth) * LEVELS + levels
  size = 2 * classes * LEVELS
  places = jnp.where((truth == 0) | (truth == 1), places, size)
  counts = jnp.bincount(places.ravel(), length=size + 1)[:-1]
  return counts.astype(jnp.int32).reshape(classes, 2, LEVELS)


def outcome_counts(labels, predictions, xp=np):
  """Counts pixels by class, truth and answer.

  Args:
    labels: integers (..., num_classes).
    predictions: 1 and 0, the shape of `labels`.
    xp: NumPy, or `jax.numpy` for the device.

  Returns:
    (num_classes, 2, 2): [c, 1, 0] are pixels of c that were not found. int64 of
    NumPy, else int32.
  """
  axes = tuple(range(labels.ndim - 1))
  counts = [
    [((labels == t) & (predictions == p)).sum(axes) for p in (0, 1)]
    for t in (0, 1)
  ]
  return xp.moveaxis(xp.asarray(counts), -1, 0)


def outcomes_at(levels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
  """`outcome_counts` of answering yes from `thresholds` on.

  Args:
    levels: (num_classes, 2, LEVELS), see `level_counts`.
    thresholds: multiples of 1 / LEVELS (num_classes,).
  """
  first = np.rint(np.asarray(thresholds) * LEVELS).astype(int)
  is_yes = np.arange(LEVELS) >= first[:, None, None]
  yes = np.where(is_yes, levels, 0).sum(-1)
  return np.stack([levels.sum(-1) - yes, yes], -1)


def best_thresholds(levels: np.ndarray) -> np.ndarray:
  """The threshold of the best IoU of each class, float64 (num_classes,).

  Of several that are as good, that nearest to 0.5, which a class without pixels
  gets, too.
  """
  classes = len(levels)
  places = np.arange(1, LEVELS)
  grid = np.broadcast_to(places[:, None] / LEVELS, (len(places), classes))
  found = np.stack([outcome_iou(outcomes_at(levels, row)) for row in grid])
  found = np.nan_to_num(found)
  from_half = np.abs(places - LEVELS // 2)[:, None]
  is_best = found >= found.max(0)
  chosen = np.where(is_best, from_half, LEVELS).argmin(0)
  there = levels[:, 1].sum(-1) > 0
  return np.where(there, places[chosen] / LEVELS, 0.5)


def outcome_iou(outcomes: np.ndarray) -> np.ndarray:
  """IoU of each class, NaN of one neither labelled nor predicted."""
  hits, missed, wrong = _parts(outcomes)
  return _ratio(hits, hits + missed + wrong)


def outcome_precision(outcomes: np.ndarray) -> np.ndarray:
  """Share of the predicted pixels that are right, NaN without any."""
  hits, _, wrong = _parts(outcomes)
  return _ratio(hits, hits + wrong)


def outcome_recall(outcomes: np.ndarray) -> np.ndarray:
  """Share of the labelled pixels that are found, NaN without any."""
  hits, missed, _ = _parts(outcomes)
  return _ratio(hits, hits + missed)


def mean_of_known(values: np.ndarray) -> float:
  """Mean of what is no NaN; NaN without any."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else float("nan")


def _parts(outcomes):
  outcomes = np.asarray(outcomes, np.int64)
  return outcomes[:, 1, 1], outcomes[:, 1, 0], outcomes[:, 0, 1]


def _ratio(part, whole):
  missing = np.full(whole.shape, np.nan)
  return np.divide(part, whole, out=missing, where=whole > 0)
