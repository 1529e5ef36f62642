"""A network confined to one corner of its canvas.

The official evaluation pads an image at the bottom and right to a *crop* of
k * output stride + 1 pixels a side, and the padding takes part: it is averaged
by the image pooling and seen across the image's border. A program compiled
for one *canvas* serves all crops that fit into it, if whatever lies outside the
crop is kept at zero in every feature map: those zeros are the padding that the
convolutions of a smaller canvas would have added. The answer is then that of
the crop, whatever the canvas.

For that every stride must divide both: crop - 1 and canvas - 1.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.layers import ConvNorm
from deeplab_jax.models.mobilenet_v3 import SqueezeExcite


def inside(sizes: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Which pixels lie within the first `sizes` rows and columns.

  Args:
    sizes: int32 (b, 2), rows and columns of each example.
    shape: height and width of the maps.

  Returns:
    bool (b, *shape, 1).
  """
  rows = jnp.arange(shape[0]) < sizes[:, :1]
  columns = jnp.arange(shape[1]) < sizes[:, 1:]
  return (rows[:, :, None] & columns[:, None, :])[..., None]


def extent(
  crops: jax.Array, canvas: tuple[int, int], shape: tuple[int, int]
) -> jax.Array:
  """Size that the crops take in a map of `shape` made from `canvas`.

  Args:
    crops: int32 (b, 2) height and width in pixels of the canvas.
    canvas: height and width in pixels, above 1.
    shape: height and width of the map, each ceil(canvas / stride).
  """
  steps = [(new - 1, old - 1) for new, old in zip(shape, canvas)]
  lengths = [
    (crops[:, axis] - 1) * new // old + 1
    for axis, (new, old) in enumerate(steps)
  ]
  return jnp.stack(lengths, axis=1)


def can_confine(model: nn.Module) -> bool:
  """Whether `confined` knows all that `model` (a `DeepLab`) does.

  Not the pooling of Lite R-ASPP: its windows cover the canvas.
  """
  return model.head != "lraspp"


def confined(
  crops: jax.Array, canvas: tuple[int, int], output_stride: int
) -> Callable:
  """An interceptor for `flax.linen.intercept_methods` that keeps to the crops.

  Args:
    crops: int32 (b, 2) height and width in pixels of the canvas.
    canvas: height and width of the network's input.
    output_stride: of the features that image pooling averages.
  """
  pooled = tuple(-(-side // output_stride) for side in canvas)

  def limits(shape):
    return extent(crops, canvas, shape)

  def keep(x):
    return jnp.where(inside(limits(x.shape[1:3]), x.shape[1:3]), x, 0)

  def share(shape):
    """The crops' part of a map: a mean over it is too small by that factor."""
    return (limits(shape).prod(1) / math.prod(shape))[:, None, None, None]

  def intercept(next_method, args, kwargs, context):
    module = context.module
    if context.method_name != "__call__":
      return next_method(*args, **kwargs)
    if isinstance(module, SqueezeExcite):
      # Scales its input by a function of the input's mean.
      part = share(args[0].shape[1:3])
      return next_method(args[0] / part) * part
    if not isinstance(module, ConvNorm):
      return next_method(*args, **kwargs)
    if module.name == "image_pooling":
      return next_method(args[0] / share(pooled), *args[1:], **kwargs)
    # Before, too: the decoder's resizing smears the crop's edge outwards.
    maps = jax.tree.map(keep, args[0])
    return keep(next_method(maps, *args[1:], **kwargs))

  return intercept


def flip_within(x: jax.Array, crops: jax.Array | None) -> jax.Array:
  """Mirrors `x` (b, h, w, c) left to right within its `crops`.

  Args:
    x: any maps.
    crops: int32 (b, 2) height and width in pixels of `x`; None mirrors all of
      it. What lies outside is of no use afterwards.
  """
  mirrored = x[:, :, ::-1]
  if crops is None:
    return mirrored
  shift = jax.vmap(lambda one, width: jnp.roll(one, width, axis=1))
  return shift(mirrored, crops[:, 1])


def apply_confined(
  model: nn.Module,
  variables: dict,
  images: jax.Array,
  crops: jax.Array | None,
) -> jax.Array:
  """Logits of preprocessed `images` (b, h, w, 3), as if cut to `crops`.

  Args:
    model: a `DeepLab`.
    variables: its `{"params", "batch_stats"}`.
    images: zero outside the crops.
    crops: int32 (b, 2), or None for the whole images.

  Returns:
    float32 (b, ceil(h / s), ceil(w / s), num_classes), s the logits stride.
  """
  if crops is None:
    return model.apply(variables, images, train=False)
  keep = confined(crops, images.shape[1:3], model.output_stride)
  with nn.intercept_methods(keep):
    return model.apply(variables, images, train=False)
