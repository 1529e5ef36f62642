"""What is exported: from pictures as they are decoded to what is asked for.

The functions that `Segmenter` runs, with the padding to the crop before them
and the cut to the picture behind, so that a file needs no code of ours. Height
and width may be symbols of `jax.export`, for a program that takes any.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplab_jax.export.operations import at_least
from deeplab_jax.inference.fusion import fuse_fn, known, padding_of
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import DeepLab, resize_bilinear

OUTPUTS = ("labels", "probabilities", "logits")

Side = Any  # an int, or a symbol


def program_fn(
  model: DeepLab,
  protocol: Protocol,
  outputs: Sequence[str],
  thresholds: Sequence[float] | None = None,
) -> Callable:
  """Makes the function that is exported.

  Args:
    model: the network.
    protocol: how pictures are brought before it. A picture is seen whole,
      however many pixels it has.
    outputs: some of `OUTPUTS`; logits are of one view alone.
    thresholds: of a model whose classes overlap, see `fuse_fn`.

  Returns:
    A function of variables and pictures of one size, (b, h, w, channels) of
    the model's `image_dtype`, uint8 RGB for most, to a tuple of what `outputs`
    name: labels, uint8 or uint16 (b, h, w); float32 probabilities or logits,
    (b, h, w, num_classes). With thresholds, labels are uint8
    (b, h, w, num_classes), too.
  """
  fuse = fuse_fn(model, protocol.scales, protocol.flip, thresholds)
  color = np.asarray(padding_of(model), np.float32)

  def run(variables, images):
    batch, *size, _ = images.shape
    crop = crop_of(size, protocol, model.crop_stride)
    # Around the padding's colour, so that one number pads all channels.
    padded = _pad(known(model, images, color) - color, crop) + color
    labels, probabilities, views = fuse(variables, padded)
    found = {"labels": labels, "probabilities": probabilities}
    if "logits" in outputs:
      found["logits"] = resize_bilinear(views[0], crop, model.half_pixel)
    return tuple(
      lax.slice(x, (0,) * x.ndim, (batch, *size, *x.shape[3:]))
      for x in map(found.get, outputs)
    )

  return run


def abstract_images(
  size: tuple[int, int] | None,
  batch: int | None = None,
  channels: int = 3,
  dtype: str = "uint8",
) -> jax.ShapeDtypeStruct:
  """Pictures that a program is traced with, (b, h, w, channels).

  Args:
    size: height and width, or None for any.
    batch: the number of pictures, or None for any.
    channels: of the network's images.
    dtype: of them.
  """
  b, h, w = jax.export.symbolic_shape("b, h, w")
  height, width = size or (h, w)
  shape = (b if batch is None else batch, height, width, channels)
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


@contextlib.contextmanager
def tracing(
  model: DeepLab, protocol: Protocol, size: tuple[int, int] | None
) -> Iterator[None]:
  """Within it, the program for pictures of `size` (None: any) is traced.

  Raises:
    ValueError: the network, which can be computed, asks something about a size
      that is a symbol.
  """
  given = size or abstract_images(None).shape[1:3]
  crop_of(given, protocol, model.crop_stride)
  try:
    yield
  except Exception as error:  # NumPy, Python and jax have many for that
    if size is not None:
      raise
    text = str(error).splitlines()[0]
    raise ValueError(
      "the network depends on the size of the picture in a way that a file for "
      f"any size cannot express ({text}): give --size HxW"
    ) from error


def crop_of(
  size: Sequence[Side], protocol: Protocol, crop_stride: int
) -> tuple[Side, Side]:
  """`protocol.crop`, of symbols, too.

  Raises:
    ValueError: symbols, and a least crop that no such crop is a multiple of.
  """
  if all(isinstance(side, int) for side in size):
    return protocol.crop(tuple(size), crop_stride)
  if not crop_stride:
    height, width = map(at_least, size, protocol.least_crop)
    return height, width
  grain = protocol.grain(crop_stride)
  if any((least - 1) % grain for least in protocol.least_crop):
    raise ValueError(
      f"pictures of any size need a least crop (crop_size in model.json) of k *"
      f" {grain} + 1 pixels a side, got {protocol.least_crop}: give the sizes "
      "that are wanted, as --size HxW"
    )
  height, width = (
    _least_multiple(side, (least - 1) // grain, grain) * grain + 1
    for side, least in zip(size, protocol.least_crop)
  )
  return height, width


def _least_multiple(side: Side, least: int, grain: int) -> Side:
  """The least k >= `least` with k * `grain` + 1 >= `side`."""
  text = f"floordiv({side} + {grain - 2}, {grain})"
  text = f"max({least}, {text})" if least else text
  (k,) = jax.export.symbolic_shape(text, scope=side.scope)
  return k


def _pad(images: jax.Array, crop: tuple[Side, Side]) -> jax.Array:
  """`images` (b, h, w, c) with zeros at the bottom and right."""
  after = [new - old for new, old in zip(crop, images.shape[1:3])]
  if all(isinstance(n, int) and n == 0 for n in after):
    return images
  config = [(0, 0, 0), *((0, n, 0) for n in after), (0, 0, 0)]
  return lax.pad(images, jnp.zeros((), images.dtype), config)
