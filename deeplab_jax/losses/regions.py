"""Losses of how the region of a class overlaps with the predicted one.

Each is the mean over the classes that have labelled pixels in an image: what an
image has not, counts nowhere, and images without labels do not count. So the
losses of images add up, whatever the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.models import resize_bilinear

Sums = tuple[jax.Array, jax.Array]


def dice(
  logits: jax.Array,
  labels: jax.Array,
  *,
  smooth: float = 0.0,
  step: jax.Array | int = 0,
) -> Sums:
  """One less the Dice overlap, twice the common area over the sum of both.

  Milletari et al., "V-Net", without the squares.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    smooth: pixels added to the common area and to half the sum.
    step: of no effect.

  Returns:
    The sum over the images with labels, and their number.
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

  Salehi et al., "Tversky loss function for image segmentation".

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    smooth: pixels added above and below.
    false_positives: weight of what is predicted and not there.
    false_negatives: weight of what is there and not predicted.
    step: of no effect.

  Returns:
    The sum over the images with labels, and their number.
  """
  return tversky_of_areas(
    *_areas(logits, labels),
    smooth=smooth,
    false_positives=false_positives,
    false_negatives=false_negatives,
  )


def tversky_of_areas(
  common: jax.Array,
  predicted: jax.Array,
  there: jax.Array,
  *,
  smooth: float,
  false_positives: float,
  false_negatives: float,
) -> Sums:
  """`tversky` of areas in pixels, each (b, num_classes)."""
  present = there != 0  # also NaN
  errors = false_positives * (predicted - common)
  errors += false_negatives * (there - common)
  whole = jnp.where(present, common + errors + smooth, 1)
  return _mean_of_present(1 - (common + smooth) / whole, present)


def generalised_dice(
  logits: jax.Array, labels: jax.Array, *, step: jax.Array | int = 0
) -> Sums:
  """One less the Dice overlap of all classes, the smaller the heavier.

  Sudre et al., "Generalised Dice overlap": areas of a class are divided by the
  square of that which it has in the labels.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    step: of no effect.

  Returns:
    The sum over the images with labels, and their number.
  """
  common, predicted, there = _areas(logits, labels)
  present = there != 0  # also NaN
  weights = jnp.where(present, 1 / jnp.maximum(there, 1) ** 2, 0)
  overlap = 2 * (weights * common).sum(-1)
  whole = (weights * (predicted + there)).sum(-1)
  counts = present.any(-1)
  losses = 1 - overlap / jnp.where(counts, whole, 1)
  return jnp.where(counts, losses, 0).sum(), counts.sum()


def lovasz_softmax(
  logits: jax.Array, labels: jax.Array, *, step: jax.Array | int = 0
) -> Sums:
  """The Lovasz extension of one less the IoU (Berman et al.).

  Pixels are sorted by their error for each class of each image, which takes a
  sort of as many values as there are pixels, twice.

  Args:
    logits: (b, h/s, w/s, num_classes), upsampled here to (h, w).
    labels: (b, h, w) integers, `IGNORE` where a pixel does not count.
    step: of no effect.

  Returns:
    The sum over the images with labels, and their number.
  """
  shares, hits, labelled = (
    x.reshape(len(labels), -1, x.shape[-1]).swapaxes(1, 2)  # (b, c, pixels)
    for x in _shares_and_hits(logits, labels)
  )
  errors = jnp.where(labelled, jnp.abs(hits - shares), 0)
  slopes = jax.lax.stop_gradient(_slopes(errors, hits, labelled))
  present = hits.any(-1)
  return _mean_of_present((errors * slopes).sum(-1), present)


def _slopes(
  errors: jax.Array, hits: jax.Array, labelled: jax.Array
) -> jax.Array:
  """How much each pixel's error adds, (b, c, pixels): by its place in order.

  One less the IoU where the pixels of larger error are wrong and it is, too,
  less that where only those are: in closed form, as a difference would cancel.
  """
  order = jnp.where(labelled, -errors, 1)  # those ignored come last
  index = jax.lax.broadcasted_iota(jnp.int32, errors.shape, errors.ndim - 1)
  _, hits, index = jax.lax.sort((order, hits, index), num_keys=1)
  there = hits.sum(-1, keepdims=True)
  common = there - hits.cumsum(-1)
  union = there + (1 - hits).cumsum(-1)
  missed = 1 / jnp.maximum(union, 1)
  slopes = jnp.where(
    hits > 0, missed, common * missed / jnp.maximum(union - 1, 1)
  )
  return jax.lax.sort((index, slopes), num_keys=1)[1]


def _areas(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Common, predicted and labelled areas in pixels, each (b, num_classes)."""
  shares, hits, _ = _shares_and_hits(logits, labels)
  return (shares * hits).sum((1, 2)), shares.sum((1, 2)), hits.sum((1, 2))


def _shares_and_hits(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Probabilities and labels (b, h, w, num_classes), 0 where ignored, and
  whether a pixel is labelled, (b, h, w, num_classes)."""
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  logits = resize_bilinear(logits.astype(dtype), labels.shape[1:])
  labelled = jnp.broadcast_to((labels != IGNORE)[..., None], logits.shape)
  hits = jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype) * labelled
  # As of cross-entropy, which stops a run whose labels no class has.
  unknown = labelled & (labels[..., None] >= logits.shape[-1])
  hits = jnp.where(unknown, jnp.nan, hits)
  return jax.nn.softmax(logits) * labelled, hits, labelled


def _mean_of_present(losses: jax.Array, present: jax.Array) -> Sums:
  """The sum over images of the means of losses (b, c) where `present`."""
  number = present.sum(-1)
  means = jnp.where(present, losses, 0).sum(-1) / jnp.maximum(number, 1)
  return means.sum(), (number > 0).sum()


REGION_LOSSES: dict[str, Callable[..., Sums]] = {
  "dice": dice,
  "generalised_dice": generalised_dice,
  "tversky": tversky,
  "lovasz_softmax": lovasz_softmax,
}
