"""Losses of a sigmoid for each class, where classes overlap.

Every class of every pixel is a question of yes and no. Labels have a plane a
class: 1 where it is, 0 where it is not, `IGNORE` where that does not count.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.losses import regions
from deeplab_jax.models import resize_bilinear

Sums = tuple[jax.Array, jax.Array]


def binary_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  positive_weights: Sequence[float] = (),
  class_weights: Sequence[float] = (),
  label_smoothing: float = 0.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy of yes and no, of all classes alike.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w, num_classes) of 0, 1 and `IGNORE`.
    positive_weights: factor where a class is, one per class; () is 1.
    class_weights: factor of all of a class, one per class; () is 1.
    label_smoothing: the share of the target that yes and no have in common.
    step: of no effect.

  Returns:
    The sum, and the number of labelled pixels of all planes.
  """
  logits, there, labelled = _questions(logits, labels)
  wanted = there * (1 - label_smoothing) + label_smoothing / 2
  yes = wanted * jax.nn.softplus(-logits)
  no = (1 - wanted) * jax.nn.softplus(logits)
  yes *= _per_class("positive_weights", positive_weights, logits)
  losses = (yes + no) * _per_class("class_weights", class_weights, logits)
  return jnp.where(labelled, losses, 0).sum(), labelled.sum()


def focal(
  logits: jax.Array,
  labels: jax.Array,
  *,
  positive_weights: Sequence[float] = (),
  class_weights: Sequence[float] = (),
  focal_power: float = 2.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy of yes and no, less of pixels that are right already.

  Lin et al., "Focal loss for dense object detection".

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w, num_classes) of 0, 1 and `IGNORE`.
    positive_weights: factor where a class is, one per class; () is 1.
    class_weights: factor of all of a class, one per class; () is 1.
    focal_power: 0 is cross-entropy.
    step: of no effect.

  Returns:
    The sum, and the number of labelled pixels of all planes.
  """
  logits, there, labelled = _questions(logits, labels)
  toward = jnp.where(there > 0, logits, -logits)
  losses = jax.nn.softplus(-toward)
  # Above 0, where a power below 1 has no slope.
  wrong = jnp.maximum(jax.nn.sigmoid(-toward), jnp.finfo(logits.dtype).tiny)
  losses *= wrong**focal_power
  weights = _per_class("positive_weights", positive_weights, logits)
  losses *= jnp.where(there > 0, weights, 1)
  losses *= _per_class("class_weights", class_weights, logits)
  losses += 0 * there  # not a number where a label is none
  return jnp.where(labelled, losses, 0).sum(), labelled.sum()


def dice(
  logits: jax.Array,
  labels: jax.Array,
  *,
  smooth: float = 0.0,
  step: jax.Array | int = 0,
) -> Sums:
  """One less the Dice overlap of each class, see `regions.dice`.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w, num_classes) of 0, 1 and `IGNORE`.
    smooth: pixels added to the common area and to half the sum.
    step: of no effect.

  Returns:
    The sum over the images that have a class, of means over the classes that
    are there, and their number. What is predicted of other classes costs
    nothing: add `binary_cross_entropy`.
  """
  return tversky(
    logits, labels, smooth=smooth, false_positives=0.5, false_negatives=0.5
  )


def tversky(
  logits: jax.Array,
  labels: jax.Array,
  *,
  smooth: float = 0.0,
  false_positives: float = 0.3,
  false_negatives: float = 0.7,
  step: jax.Array | int = 0,
) -> Sums:
  """One less the common area over itself and its weighed errors.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w, num_classes) of 0, 1 and `IGNORE`.
    smooth: pixels added above and below.
    false_positives: weight of what is predicted and not there.
    false_negatives: weight of what is there and not predicted.
    step: of no effect.

  Returns:
    As `dice`.
  """
  logits, there, labelled = _questions(logits, labels)
  shares = jax.nn.sigmoid(logits) * labelled
  areas = (x.sum((1, 2)) for x in (shares * there, shares, there))
  return regions.tversky_of_areas(
    *areas,
    smooth=smooth,
    false_positives=false_positives,
    false_negatives=false_negatives,
  )


def _questions(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Logits at the size of the labels, where classes are (0 where ignored), and
  whether that counts; each (b, h, w, num_classes)."""
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  logits = resize_bilinear(logits.astype(dtype), labels.shape[1:3])
  labelled = labels != IGNORE
  there = jnp.where(labelled, labels, 0).astype(dtype)
  # A run stops at a label that is none, as with other losses.
  return logits, jnp.where(there > 1, jnp.nan, there), labelled


def _per_class(
  name: str, weights: Sequence[float], logits: jax.Array
) -> jax.Array:
  if not len(weights):
    return jnp.ones((), logits.dtype)
  if len(weights) != logits.shape[-1]:
    raise ValueError(
      f"{name} must be empty or hold {logits.shape[-1]} values, one per class, "
      f"got {len(weights)}"
    )
  return jnp.asarray(weights, logits.dtype)


MULTILABEL_LOSSES: dict[str, Callable[..., Sums]] = {
  "cross_entropy": binary_cross_entropy,
  "binary_cross_entropy": binary_cross_entropy,
  "focal": focal,
  "dice": dice,
  "tversky": tversky,
}
