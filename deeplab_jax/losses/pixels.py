"""Losses of pixels, each of its own label and logits alone.

The cross-entropy is masked, with class weights and hard-pixel mining, as
`common_loss` of tensorflow/models `research/deeplab` computes it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.models import resize_bilinear

Sums = tuple[jax.Array, jax.Array]


def class_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  label_smoothing: float = 0.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy of the images of a batch, and their number.

  Args:
    logits: (b, num_classes).
    labels: (b,) integers.
    label_smoothing: see `cross_entropy`.
    step: of no effect; see `cross_entropy`.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  losses = _smoothed(losses, logits, label_smoothing)
  return losses.sum(), jnp.asarray(losses.size)


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  class_weights: Sequence[float] = (),
  hard_pixel_fraction: float = 1.0,
  hard_pixel_steps: int = 0,
  label_smoothing: float = 0.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy of the pixels of a batch, at the resolution of its labels.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w) with corners
      aligned.
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    class_weights: one factor per class; () weighs all alike.
    hard_pixel_fraction: below 1, only this fraction of all pixels (ignored
      ones included), those of the largest loss, is kept.
    hard_pixel_steps: steps over which the fraction falls from 1 to
      `hard_pixel_fraction`; 0 applies it from the start.
    label_smoothing: the share of the target that all classes have in common,
      the label's own among them; weights and mining are of the label's class
      and of the smoothed loss.
    step: the number of updates made so far.

  Returns:
    The sum, float32 or wider, and the number of labelled pixels (not the sum of
    their weights); with mining, of the kept pixels of non-zero loss.
  """
  if not 0 < hard_pixel_fraction <= 1:
    raise ValueError(
      f"hard_pixel_fraction must be in (0, 1], got {hard_pixel_fraction}"
    )
  losses = _pixel_losses(logits, labels, class_weights, label_smoothing)
  if hard_pixel_fraction < 1:
    fraction = _mining_fraction(hard_pixel_fraction, hard_pixel_steps, step)
    losses = _hardest(losses, fraction)
    count = (losses != 0).sum()
  else:
    count = (labels != IGNORE).sum()
  return losses.sum(), count


def focal(
  logits: jax.Array,
  labels: jax.Array,
  *,
  class_weights: Sequence[float] = (),
  focal_power: float = 2.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy, less of pixels that are right already.

  Lin et al., "Focal loss for dense object detection", of softmax in place of
  their sigmoids: (1 - p) ** `focal_power` * -log(p), p being the probability of
  the label.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    class_weights: one factor per class; () weighs all alike.
    focal_power: 0 is cross-entropy.
    step: of no effect.

  Returns:
    The sum, and the number of labelled pixels.
  """

  def turned_down(losses):
    wrong = -jnp.expm1(-losses)
    # Above 0, where a power below 1 has no slope.
    wrong = jnp.maximum(wrong, jnp.finfo(losses.dtype).tiny)
    return losses * wrong**focal_power

  losses = _pixel_losses(logits, labels, class_weights, change=turned_down)
  return losses.sum(), (labels != IGNORE).sum()


def boundary_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  class_weights: Sequence[float] = (),
  label_smoothing: float = 0.0,
  boundary_width: int = 3,
  boundary_weight: float = 3.0,
  step: jax.Array | int = 0,
) -> Sums:
  """Cross-entropy, more of pixels near the borders between labels.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    class_weights: one factor per class; () weighs all alike.
    label_smoothing: see `cross_entropy`.
    boundary_width: pixels so far across and down from another label, or less,
      are near; ignored pixels make no border.
    boundary_weight: factor of the loss of those.
    step: of no effect.

  Returns:
    The sum, and the number of labelled pixels (not the sum of their weights).
  """
  losses = _pixel_losses(logits, labels, class_weights, label_smoothing)
  near = _near_borders(labels, boundary_width)
  losses = jnp.where(near, boundary_weight, 1) * losses
  return losses.sum(), (labels != IGNORE).sum()


def _pixel_losses(
  logits: jax.Array,
  labels: jax.Array,
  class_weights: Sequence[float],
  label_smoothing: float = 0.0,
  change: Callable[[jax.Array], jax.Array] = lambda losses: losses,
) -> jax.Array:
  """Weighted losses (b, h, w), 0 where ignored; at least float32.

  `change` makes others of the cross-entropies, before they are weighed.
  """
  num_classes = logits.shape[-1]
  if len(class_weights) not in (0, num_classes):
    raise ValueError(
      f"class_weights must be empty or hold {num_classes} values, one per "
      f"class, got {len(class_weights)}"
    )
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  logits = resize_bilinear(logits.astype(dtype), labels.shape[1:])
  labelled = labels != IGNORE
  labels = jnp.where(labelled, labels, 0).astype(jnp.int32)
  losses = _softmax_cross_entropy(logits, labels)
  losses = change(_smoothed(losses, logits, label_smoothing))
  if len(class_weights):
    losses *= jnp.asarray(class_weights, dtype)[labels]
  return jnp.where(labelled, losses, 0)


def _smoothed(
  losses: jax.Array, logits: jax.Array, smoothing: float
) -> jax.Array:
  """Cross-entropies `losses` (...) of logits (..., classes) with part of the
  target moved from the label to all classes alike."""
  if not smoothing:
    return losses
  of_all = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
  return (1 - smoothing) * losses + smoothing * of_all


@jax.custom_vjp
def _softmax_cross_entropy(logits, labels):
  """Of logits (..., classes), as optax's; its gradient would be a scatter."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _softmax_cross_entropy_forward(logits, labels):
  normalizers = jax.nn.logsumexp(logits, axis=-1)
  losses = _softmax_cross_entropy(logits, labels)
  return losses, (logits, labels, normalizers)


def _softmax_cross_entropy_backward(residuals, dlosses):
  logits, labels, normalizers = residuals
  probabilities = jnp.exp(logits - normalizers[..., None])
  hits = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return (probabilities - hits) * dlosses[..., None], None


_softmax_cross_entropy.defvjp(
  _softmax_cross_entropy_forward, _softmax_cross_entropy_backward
)


def _mining_fraction(
  fraction: float, ramp_steps: int, step: jax.Array | int
) -> jax.Array | float:
  """The fraction of pixels to keep at `step`, falling linearly from 1."""
  if ramp_steps == 0:
    return fraction
  ramp = jnp.minimum(1.0, step / ramp_steps)
  return ramp * fraction + (1 - ramp)


def _hardest(losses: jax.Array, fraction: jax.Array | float) -> jax.Array:
  """The largest `fraction` of `losses`, flat and sorted; 0 in the others."""
  kept = jnp.asarray(fraction * losses.size, jnp.int32)
  hardest = jnp.sort(losses.ravel(), descending=True)
  return jnp.where(jnp.arange(losses.size) < kept, hardest, 0)


def _near_borders(labels: jax.Array, width: int) -> jax.Array:
  """True at pixels `width` or less, across or down, from another label.

  Args:
    labels: (b, h, w) integers; `IGNORE` is no label.
    width: in pixels.
  """
  labels = labels.astype(jnp.int32)
  labelled = labels != IGNORE
  side = 2 * width + 1

  def pooled(values, start, function):
    for window in ((1, side, 1), (1, 1, side)):
      values = jax.lax.reduce_window(
        values, jnp.int32(start), function, window, (1, 1, 1), "SAME"
      )
    return values

  highest = pooled(jnp.where(labelled, labels, -1), -1, jax.lax.max)
  lowest = pooled(jnp.where(labelled, labels, IGNORE), IGNORE, jax.lax.min)
  return labelled & (highest != lowest)


PIXEL_LOSSES: dict[str, Callable[..., Sums]] = {
  "cross_entropy": cross_entropy,
  "focal": focal,
  "boundary_cross_entropy": boundary_cross_entropy,
}
