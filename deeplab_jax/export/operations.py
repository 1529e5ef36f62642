"""What operations of `models.ops` become in a program for another runtime.

`MARKED` leaves those that ONNX has a node for as one primitive each, for
`onnx_ops` to translate. `ANY_SIZE` computes them for maps whose sides are
symbols of `jax.export`, in forms that ask nothing about a side.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive

from deeplab_jax.models.ops.convolution import PaddingRule, paddings, same_padding

resize_p = Primitive("resize_bilinear")
"""Of maps (b, h, w, c), to `size`, a pair of sides."""
mean_p = Primitive("mean")
"""Of maps (b, h, w, c), over h and w, which stay as 1."""
mean_of_windows_p = Primitive("mean_of_windows")
"""Of maps (b, h, w, c), with `side` and `strides`."""


def _with_sides(x, height, width):
  return jax.core.ShapedArray((x.shape[0], height, width, x.shape[3]), x.dtype)


@resize_p.def_abstract_eval
def _(x, *, size):
  return _with_sides(x, *size)


@mean_p.def_abstract_eval
def _(x):
  return _with_sides(x, 1, 1)


@mean_of_windows_p.def_abstract_eval
def _(x, *, side, strides):
  return _with_sides(x, *windows_along(x.shape[1:3], side, strides))


def windows_along(size, side: int, strides: tuple[int, int]) -> tuple:
  """How many windows `ops.convolution.mean_of_windows` takes, down and across.
  """
  return tuple(
    (at_least(n, side) - side) // stride + 1 for n, stride in zip(size, strides)
  )


def at_least(n, least: int):
  """`max(n, least)` of a number or a symbol."""
  if isinstance(n, int):
    return max(n, least)
  (larger,) = jax.export.symbolic_shape(f"max({n}, {least})", scope=n.scope)
  return larger


def _conv(x, kernel, *, stride=1, rate=1, padding: PaddingRule = "explicit"):
  pads = paddings(x, kernel, stride, rate, padding)
  return _convolution(x, kernel, pads, stride, rate)


def _depthwise(x, kernel, *, padding, stride=1, rate=1, lowering=None):
  del lowering
  return _convolution(x, kernel, padding, stride, rate, groups=x.shape[-1])


def _convolution(x, kernel, pads, stride, rate, groups=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    rhs_dilation=rate if isinstance(rate, tuple) else (rate, rate),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def _max_pool(x, padding: PaddingRule = "tensorflow"):
  pads = [same_padding(n, 3, 2, 1, padding) for n in x.shape[1:3]]
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return lax.reduce_window(
    x, -jnp.inf, lax.max, window, strides, [(0, 0), *pads, (0, 0)]
  )


def _marked_resize(x, size):
  size = tuple(size)
  if x.shape[1:3] == size:
    return x
  if x.shape[1:3] == (1, 1):
    return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
  return resize_p.bind(x, size=size)


def _marked_argmax(x, size):
  return _marked_resize(x, size).argmax(-1)


MARKED = {
  "conv": _conv,
  "depthwise_conv": _depthwise,
  "max_pool": _max_pool,
  "mean": mean_p.bind,
  "mean_of_windows": lambda x, side, strides: mean_of_windows_p.bind(
    x, side=side, strides=tuple(strides)
  ),
  "resize_bilinear": _marked_resize,
  "resized_argmax": _marked_argmax,
  "all_threads": lambda x: x,
  "in_turn": lambda function, *maps: [function(x) for x in maps],
}
"""Replacements of `models.ops`, for ONNX."""
