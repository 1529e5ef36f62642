"""What operations of `models.ops` become in a program for another runtime.

`MARKED` leaves those that ONNX has a node for as one primitive each, for
`onnx_maps` to translate. `ANY_SIZE` computes them for maps whose sides are
symbols of `jax.export`, in forms that ask nothing about a side.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive

from deeplab_jax.models.ops import plain

resize_p = Primitive("resize_bilinear")
"""Of maps (b, h, w, c), to `size`, a pair of sides; with `half_pixel`."""
mean_p = Primitive("mean")
"""Of maps (b, h, w, c), over h and w, which stay as 1."""
mean_of_windows_p = Primitive("mean_of_windows")
"""Of maps (b, h, w, c), with `side` and `strides`."""

# Pictures of some hundred pixels a side, resized by 5 / 4, show how runtimes
# round positions, each in its way: these are resized step by step, as here.
_CHANNELS_OF_PICTURES = 4


def _with_sides(x, height, width):
  return x.update(shape=(x.shape[0], height, width, x.shape[3]))


@resize_p.def_abstract_eval
def _(x, *, size, half_pixel):
  del half_pixel
  return _with_sides(x, *size)


@mean_p.def_abstract_eval
def _(x):
  return _with_sides(x, 1, 1)


@mean_of_windows_p.def_abstract_eval
def _(x, *, side, strides):
  return _with_sides(x, *windows_along(x.shape[1:3], side, strides))


def windows_along(size, side: int, strides: tuple[int, int]) -> tuple:
  """How many windows `mean_of_windows` takes, down and across."""
  return tuple(
    (at_least(n, side) - side) // stride + 1 for n, stride in zip(size, strides)
  )


def at_least(n, least: int):
  """`max(n, least)` of a number or a symbol."""
  if isinstance(n, int):
    return max(n, least)
  (larger,) = jax.export.symbolic_shape(f"max({n}, {least})", scope=n.scope)
  return larger


def _marked_resize(x, size, half_pixel=False):
  size = tuple(size)
  if x.shape[1:3] == size:
    return x
  if x.shape[1:3] == (1, 1):
    return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
  is_exact = functools.partial(_is_exact, half_pixel)
  if x.shape[3] <= _CHANNELS_OF_PICTURES and not all(
    map(is_exact, x.shape[1:3], size)
  ):
    return _resize_anywhere(x, size, half_pixel)
  return resize_p.bind(x, size=size, half_pixel=half_pixel)


def _is_exact(half_pixel, old, new) -> bool:
  """Whether positions in steps of (old - 1) / (new - 1), or old / new with
  half-pixel centres, need no rounding."""
  if half_pixel:
    old, new = old + 1, new + 1
  return any(
    (old - 1) * parts == (new - 1) * n
    for parts in (1, 2, 4, 8, 16, 32, 64, 128)
    for n in range(1, 4 * parts + 1, 2 if parts > 1 else 1)
  )


def _marked_argmax(x, size, half_pixel=False):
  return _marked_resize(x, size, half_pixel).argmax(-1)


def _attention(query, key, value):
  """With one axis of a batch, heads and two more, all the way."""
  products = jnp.einsum("bqhc,bkhc->bhqk", query, key)
  weights = jax.nn.softmax(products * query.shape[-1] ** -0.5)
  return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


MARKED = {
  "attention": _attention,
  "conv": plain.conv,
  "depthwise_conv": plain.depthwise_conv,
  "max_pool": plain.max_pool,
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


def _depthwise_anywhere(x, kernel, *, padding, stride=1, rate=1, lowering=None):
  """By shifted maps on CPUs, which are slow at grouped convolutions."""
  del lowering
  settings = {"padding": padding, "stride": stride, "rate": rate}
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: _by_taps(x, kernel, **settings),
    default=lambda x, kernel: plain.depthwise_conv(x, kernel, **settings),
  )


def _by_taps(x, kernel, *, padding, stride, rate):
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  size = [
    (n - (taps - 1) * step - 1) // stride + 1
    for n, taps, step in zip(padded.shape[1:3], kernel.shape, rates)
  ]
  total = None
  for i, j in itertools.product(*map(range, kernel.shape[:2])):
    starts = i * rates[0], j * rates[1]
    stops = [s + (n - 1) * stride + 1 for s, n in zip(starts, size)]
    tap = lax.slice(
      padded,
      (0, *starts, 0),
      (x.shape[0], *stops, x.shape[3]),
      (1, stride, stride, 1),
    )
    product = tap * kernel[i, j, 0]
    total = product if total is None else total + product
  return total


def _resize_anywhere(x, size, half_pixel=False):
  size = tuple(size)
  if x.shape[1:3] == size:
    return x
  if x.shape[1:3] == (1, 1):
    return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
  return _lerp(_lerp(x, size[1], 2, half_pixel), size[0], 1, half_pixel)


def _argmax_anywhere(x, size, half_pixel=False):
  return _resize_anywhere(x, size, half_pixel).argmax(-1)


def _lerp(x, size, axis, half_pixel):
  """As that of `ops.resize`, with positions computed where it runs."""
  old = x.shape[axis]
  if old == size:
    return x
  last = jnp.asarray(old - 1, jnp.int32)
  position = lax.iota(jnp.float32, size)
  if half_pixel:
    sides = (jnp.asarray(side, jnp.float32) for side in (old, size))
    scale = functools.reduce(jnp.divide, sides)
    position = jnp.maximum((position + 0.5) * scale - 0.5, 0)
  else:
    steps = jnp.maximum(jnp.asarray(size, jnp.int32) - 1, 1)
    position *= last.astype(jnp.float32) / steps.astype(jnp.float32)
  lower = jnp.minimum(position.astype(jnp.int32), last)
  weight = (position - lower.astype(jnp.float32)).astype(x.dtype)
  weight = jnp.expand_dims(weight, [i for i in range(4) if i != axis])
  upper = jnp.minimum(lower + 1, last)
  low, high = (
    x.at[(slice(None),) * axis + (lines,)].get(
      mode="promise_in_bounds", wrap_negative_indices=False
    )
    for lines in (lower, upper)
  )
  return low + (high - low) * weight


def _mean_of_windows_anywhere(x, side, strides):
  missing = [at_least(n, side) - n for n in x.shape[1:3]]
  config = [(0, 0, 0), *((0, n, 0) for n in missing), (0, 0, 0)]
  padded = lax.pad(x, jnp.zeros((), x.dtype), config)
  sums = lax.reduce_window(
    padded,
    jnp.zeros((), x.dtype),
    lax.add,
    (1, side, side, 1),
    (1, *strides, 1),
    "VALID",
  )
  sides = [jnp.minimum(jnp.asarray(n, x.dtype), side) for n in x.shape[1:3]]
  return sums / (sides[0] * sides[1])


ANY_SIZE = {
  "depthwise_conv": _depthwise_anywhere,
  "mean_of_windows": _mean_of_windows_anywhere,
  "resize_bilinear": _resize_anywhere,
  "resized_argmax": _argmax_anywhere,
}
"""Replacements of `models.ops`, for sides that are symbols."""
