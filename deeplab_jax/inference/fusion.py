"""From a padded batch of images to labels and probabilities.

The one way to a label map: fill the padding with the value that the network
sees as zero, normalise, run the network, resize the logits to the image as the
network resizes, take the largest. Several scales and mirror images are fused as
the official evaluation does: see `predict_fn`.
"""

import fractions
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.inference.crops import apply_on, flip_within
from deeplab_jax.models import (
  DeepLab,
  padding_value,
  preprocess,
  resize_bilinear,
  resized_argmax,
)
from deeplab_jax.models.ops.canvas import inside
from deeplab_jax.models.ops.loops import in_turn


def scaled_size(
  size: tuple[int, int], scale: float, half_pixel: bool = False
) -> tuple[int, int]:
  """`size` at `scale`.

  Corners aligned, it is `int((side - 1) * scale + 1)`; with half-pixel centres
  `side * scale`, rounded up as strided convolutions do.
  """
  exact = fractions.Fraction(scale)  # for sides without a number, see `export`
  up, down = exact.numerator, exact.denominator
  if half_pixel:
    height, width = ((side * up - 1) // down + 1 for side in size)
    return height, width
  height, width = ((side - 1) * up // down + 1 for side in size)
  return height, width


def padding_of(model: DeepLab) -> tuple[float, ...]:
  """The value of each channel, in the units of the images, beyond them."""
  return padding_value(model.backbone, model.channels, model.value_range)


def known(model: DeepLab, images: jax.Array, color: jax.Array) -> jax.Array:
  """`images` (b, h, w, channels) in float32, `color` where they are no number.

  Only images of floats may have such pixels, where nothing is known.
  """
  images = images.astype(jnp.float32)
  if model.image_dtype != "float32":
    return images
  return jnp.where(jnp.abs(images) < jnp.inf, images, color)


def label_dtype(num_classes: int) -> jnp.dtype:
  """uint8, or uint16 above 256 classes."""
  return jnp.dtype(jnp.uint8 if num_classes <= 256 else jnp.uint16)


def logits_fn(model: DeepLab, scale: float = 1.0) -> Callable:
  """Makes the function that looks at images at one scale.

  Args:
    model: the network.
    scale: of the images. Below 1 the logits are brought to the size that they
      have at scale 1.

  Returns:
    A function of variables, images (b, h, w, channels) and crops, int32
    (b, 2) height and width or None for the whole images, to float32 logits
    (b, h * max(scale, 1) / s, w * max(scale, 1) / s, num_classes), s the
    logits stride.
  """

  def logits(variables, images, crops=None):
    canvas = images.shape[1:3]
    size = scaled_size(canvas, scale, model.half_pixel)
    scaled = resize_bilinear(images, size, model.half_pixel)
    inputs = preprocess(scaled, model.backbone, model.value_range)
    if crops is not None:
      crops = _scaled(crops, canvas, size)
    result = apply_on(model, variables, inputs, crops)
    if scale >= 1:
      return result
    size = scaled_size(canvas, 1 / model.logits_stride)
    return resize_bilinear(result, size, model.half_pixel)

  return logits


def predict_fn(
  model: DeepLab,
  scales: Sequence[float] = (1.0,),
  flip: bool = False,
  thresholds: Sequence[float] | None = None,
) -> Callable:
  """Makes the function from images to labels and probabilities.

  With several scales, or mirror images, each view's logits are resized to the
  image (a mirrored view is mirrored back before) and their softmax averaged.

  Args:
    model: the network.
    scales: of the images.
    flip: whether to look at the mirror images, too.
    thresholds: where classes overlap, the probability of each from which on it
      is there; None where a pixel is of one class.

  Returns:
    A function, to be jitted, of
      variables: `{"params", "batch_stats"}`;
      images: (b, h, w, channels) in the units of the model's images, RGB of
        0..255 for most, each in the top left corner;
      sizes: int32 (b, 2), true height and width of each;
      crops: int32 (b, 2), the size that each is evaluated at, or None for
        (h, w); see `crops`
    to labels (b, h, w), uint8 or uint16, and float32 probabilities
    (b, h, w, num_classes), to be cut to the true sizes. With thresholds,
    probabilities are of each class alone, by the sigmoid of its logits, and
    labels uint8 (b, h, w, num_classes), 1 where a class is.
  """
  color = jnp.asarray(padding_of(model), jnp.float32)
  fuse = fuse_fn(model, scales, flip, thresholds)

  def predict(variables, images, sizes, crops=None):
    canvas = images.shape[1:3]
    images = known(model, images, color)
    images = jnp.where(inside(sizes, canvas), images, color)
    return fuse(variables, images, crops)[:2]

  return predict


def fuse_fn(
  model: DeepLab,
  scales: Sequence[float] = (1.0,),
  flip: bool = False,
  thresholds: Sequence[float] | None = None,
) -> Callable:
  """Makes what `predict_fn` does once the padding has its colour.

  Args:
    model: the network.
    scales: of the images.
    flip: whether to look at the mirror images, too.
    thresholds: as above.

  Returns:
    A function of variables, float images (b, h, w, channels) and crops as
    above to labels and probabilities as above, and the list of the views'
    logits, as those of `logits_fn`.
  """
  looks = [logits_fn(model, scale) for scale in scales]
  dtype = label_dtype(model.num_classes)

  def fuse(variables, images, crops=None):
    canvas = images.shape[1:3]
    views = [
      logits
      for look in looks
      for logits in _views(look, flip, variables, images, crops)
    ]
    half_pixel = model.half_pixel
    resized = (resize_bilinear(logits, canvas, half_pixel) for logits in views)
    if thresholds is not None:
      probabilities = sum(map(jax.nn.sigmoid, resized)) / len(views)
      is_there = probabilities >= np.asarray(thresholds, np.float32)
      return is_there.astype(jnp.uint8), probabilities, views
    probabilities = sum(map(jax.nn.softmax, resized)) / len(views)
    if len(views) > 1:
      labels = probabilities.argmax(-1)
    else:  # The softmax rounds: logits break more ties.
      labels = resized_argmax(views[0], canvas, half_pixel)
    return labels.astype(dtype), probabilities, views

  return fuse


def _views(look, flip, variables, images, crops):
  """Logits of the images and, if `flip`, of their mirrors, mirrored back."""
  if not flip:
    return [look(variables, images, crops)]
  straight, mirrored = in_turn(
    lambda x: look(variables, x, crops), images, flip_within(images, crops)
  )
  if crops is not None:
    crops = _scaled(crops, images.shape[1:3], mirrored.shape[1:3])
  return [straight, flip_within(mirrored, crops)]


def _scaled(crops, size, new_size):
  """The crops of maps of `size` in those resized to `new_size`."""
  before, after = (jnp.asarray(s, jnp.int32) - 1 for s in (size, new_size))
  return (crops - 1) * after // before + 1
