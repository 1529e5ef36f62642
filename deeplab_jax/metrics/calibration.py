"""Does a probability of 0.8 mean right in 8 of 10? (Guo et al. 2017)

Pixels are counted by confidence (the largest class probability) on a fine grid
and by being right. Whole counts stay exact over batches and devices; the price
is a confidence known to 1/3000, so an error known to that.
"""

import jax
import jax.numpy as jnp
import numpy as np

LEVELS = 1500
BINS = 15


def calibration_counts(
  confidences: jax.Array,
  predictions: jax.Array,
  labels: jax.Array,
  num_classes: int,
) -> jax.Array:
  """Counts labelled pixels by confidence, wrong and right, on the device.

  Args:
    confidences: float32 in 0..1, any shape.
    predictions: integers, the same shape.
    labels: integers, the same shape; those outside the classes are left out.
    num_classes: number of classes.

  Returns:
    int32 (2, LEVELS): wrong pixels, right pixels.
  """
  level = jnp.clip((confidences * LEVELS).astype(jnp.int32), 0, LEVELS - 1)
  cell = jnp.where(predictions == labels, LEVELS + level, level)
  counted = (labels >= 0) & (labels < num_classes)
  cell = jnp.where(counted, cell, 2 * LEVELS).ravel()
  counts = jnp.bincount(cell, length=2 * LEVELS + 1)[:-1]
  return counts.astype(jnp.int32).reshape(2, LEVELS)


def reliability(counts: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
  """Confidence and accuracy in `bins` equal bins of confidence.

  Args:
    counts: integers (2, LEVELS), as `calibration_counts` gives them.
    bins: a divisor of LEVELS.

  Returns:
    float64 (bins,) arrays `"confidence"`, `"accuracy"` (means in the bin, NaN
    where it is empty) and `"pixels"`.
  """
  if LEVELS % bins:
    raise ValueError(f"bins must divide {LEVELS}, got {bins}")
  middles = (np.arange(LEVELS) + 0.5) / LEVELS
  counts = np.asarray(counts).astype(np.float64)
  pixels = counts.sum(0)

  def bin_sums(values):
    return values.reshape(bins, -1).sum(1)

  total = bin_sums(pixels)
  safe = np.where(total > 0, total, np.nan)
  return {
    "confidence": bin_sums(pixels * middles) / safe,
    "accuracy": bin_sums(counts[1]) / safe,
    "pixels": total,
  }


def calibration_error(counts: np.ndarray, bins: int = BINS) -> float:
  """Expected calibration error: mean |accuracy - confidence| over the pixels.

  In 0..1, 0 for a calibrated model; NaN without labelled pixels.
  """
  curve = reliability(counts, bins)
  if not curve["pixels"].sum():
    return float("nan")
  gaps = np.nan_to_num(np.abs(curve["accuracy"] - curve["confidence"]))
  return float(np.average(gaps, weights=curve["pixels"]))
