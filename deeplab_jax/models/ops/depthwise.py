"""Depthwise atrous convolution: one definition, one lowering per platform.

The definition is `lax.conv_general_dilated(feature_group_count=channels,
rhs_dilation=rate)`. XLA's CPU backend runs that about a hundred times slower
than its memory traffic explains, so there the nine taps are shifted slices that
are multiplied and added, with a gradient of the same kind. XLA's GPU backend
fuses such slices with their neighbours, but not the gradients, which move many
times the memory or do not compile. Every lowering computes the same sums; tests
compare them with the definition.
"""

import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from deeplab_jax.models.ops.convolution import definition
from deeplab_jax.models.ops.precision import wide, wide_dtype
from deeplab_jax.models.ops.whole import whole

Padding = tuple[tuple[int, int], tuple[int, int]]
Lowering = Literal["lax", "shift", "mixed"]

LOWERING: dict[str, Lowering] = {
  "cpu": "shift",
  "tpu": "lax",
  "cuda": "mixed",
  "rocm": "mixed",
}
"""The lowering of each platform; see docs/performance/notes.md.

`"mixed"` is `"shift"` in inference and `"lax"` where there are gradients.
"""


@whole
def depthwise_conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  padding: Padding,
  stride: int = 1,
  rate: int | tuple[int, int] = 1,
  lowering: Lowering | None = None,
) -> jax.Array:
  """Convolves every channel with its own atrous kernel.

  Args:
    x: `(b, h, w, c)`, any float dtype; products are summed in float32.
    kernel: `(kh, kw, 1, c)`, same dtype.
    padding: zeros before and after, of rows and of columns.
    stride: of the output positions.
    rate: distance in pixels between neighbouring taps; of rows and of columns
      where they differ.
    lowering: `"lax"`, `"shift"` or `"mixed"`; None takes the target platform's
      entry in `LOWERING` (the platform compiled for, not the one compiled on).

  Returns:
    `(b, h', w', c)` in the dtype of `x`.
  """
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  pads = tuple(map(tuple, padding))
  chosen = lowering or tuple(LOWERING.items())
  return _traced_once(chosen, (pads, stride, rates), x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _depthwise(lowering, geometry, x, kernel):
  return _run(_INFERENCE, lowering, geometry, x, kernel)


def _depthwise_forward(lowering, geometry, x, kernel):
  return _run(_FORWARD, lowering, geometry, x, kernel), (x, kernel)


def _depthwise_backward(lowering, geometry, residuals, dy):
  return _run(_BACKWARD, lowering, geometry, *residuals, dy)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
# Many layers are equal, and tracing takes longer than all else of a layer.
_traced_once = jax.jit(_depthwise, static_argnums=(0, 1))


def _run(functions, lowering, geometry, *arrays):
  """Calls the function of `lowering`, one or (platform, one) for each."""
  # One object per function: JAX traces equal branches once.
  bound = {
    function: functools.partial(function, geometry)
    for function in functions.values()
  }
  if isinstance(lowering, str):
    return bound[functions[lowering]](*arrays)
  chosen = {platform: bound[functions[name]] for platform, name in lowering}
  default = bound[functions["lax"]]
  return lax.platform_dependent(*arrays, default=default, **chosen)


def _lax(geometry, x, kernel):
  padding, stride, rates = geometry
  settings = {"pads": padding, "stride": stride, "rate": rates}
  return definition(x, kernel, **settings, groups=x.shape[-1])


def _shift(geometry, x, kernel):
  """Sum over the taps of shifted input times weight."""
  if _mostly_outside(geometry, x, kernel):
    return _shift_clipped(geometry, x, kernel)
  padded = _pad(x, geometry[0])
  taps = _taps(geometry, padded, kernel)
  weights = wide(kernel)
  products = (wide(tap) * weights[i, j, 0] for (i, j), tap in taps)
  return functools.reduce(jnp.add, products).astype(x.dtype)


def _pad(x, padding):
  """Zero padding, kept apart so that the taps do not each compute it again."""
  return _stored(jnp.pad(x, ((0, 0), *padding, (0, 0))))


def _stored(x):
  """`x` as lines of pixels and channels on CPU, seen as what it was.

  Of each slice of its operand XLA's CPU backend believes that it is read apart,
  takes the taps for bound by memory, and gives them the square root of the
  threads. A reshaped operand counts once.
  """
  return lax.platform_dependent(x, cpu=_as_lines, default=lambda x: x)


def _as_lines(x):
  lines = x.reshape(*x.shape[:2], -1)
  return lax.optimization_barrier(lines).reshape(x.shape)


def _output_size(geometry, x, kernel):
  padding, stride, rates = geometry
  return tuple(
    (size + sum(pads) - (taps - 1) * rate - 1) // stride + 1
    for size, pads, taps, rate in zip(
      x.shape[1:3], padding, kernel.shape, rates
    )
  )


def _taps(geometry, padded, kernel):
  """Yields `(i, j)` and the part of the padded input that tap meets."""
  _, stride, rates = geometry
  kh, kw = kernel.shape[:2]
  h, w = _output_size((((0, 0), (0, 0)), stride, rates), padded, kernel)
  for i in range(kh):
    rows = slice(i * rates[0], i * rates[0] + (h - 1) * stride + 1, stride)
    for j in range(kw):
      columns = slice(j * rates[1], j * rates[1] + (w - 1) * stride + 1, stride)
      yield (i, j), padded[:, rows, columns]


def _mostly_outside(geometry, x, kernel, share=1 / 3) -> bool:
  """Whether the taps reach beyond so large a share of the map's side."""
  _, stride, rates = geometry
  if kernel.shape[0] > 5:
    return False  # more parts than compile in acceptable time
  reaches = [(n - 1) * rate for n, rate in zip(kernel.shape, rates)]
  return stride == 1 and any(
    reach >= share * size for reach, size in zip(reaches, x.shape[1:3])
  )


def _shift_clipped(geometry, x, kernel):
  """As `_shift`, without padding: in regions that the same taps reach."""
  padding, _, rates = geometry
  size_out = _output_size(geometry, x, kernel)
  rows, columns = (
    list(_regions(taps, rate, before, size, new))
    for taps, rate, (before, _), size, new in zip(
      kernel.shape, rates, padding, x.shape[1:3], size_out
    )
  )
  x = _stored(x)
  weights = wide(kernel)

  def region(row, column):
    (top, bottom, row_taps), (left, right, column_taps) = row, column
    y = jnp.zeros((), wide_dtype(x.dtype))
    for (i, down), (j, ahead) in itertools.product(row_taps, column_taps):
      tap = x[:, top + down : bottom + down, left + ahead : right + ahead]
      y += wide(tap) * weights[i, j, 0]
    shape = (x.shape[0], bottom - top, right - left, x.shape[-1])
    return jnp.broadcast_to(y.astype(x.dtype), shape)

  lines = [[region(row, column) for column in columns] for row in rows]
  lines = [jnp.concatenate(line, axis=2) for line in lines]
  return jnp.concatenate(lines, axis=1)


def _regions(taps, rate, before, size_in, size_out):
  """Yields start and stop of a part of an axis, and its taps with offsets."""
  offsets = [(i, i * rate - before) for i in range(taps)]
  edges = {0, size_out}
  for _, offset in offsets:
    edges |= {-offset, size_in - offset}
  edges = sorted(edge for edge in edges if 0 <= edge <= size_out)
  for start, stop in itertools.pairwise(edges):
    yield (
      start,
      stop,
      [(i, o) for i, o in offsets if start + o >= 0 and stop + o <= size_in],
    )


def _clipped_taps(geometry, x, kernel, size):
  """Yields `(i, j)` and what that tap reads of the input for what output."""
  padding, _, rates = geometry
  for i, j in itertools.product(*map(range, kernel.shape[:2])):
    rows = _overlap(i * rates[0] - padding[0][0], x.shape[1], size[0])
    columns = _overlap(j * rates[1] - padding[1][0], x.shape[2], size[1])
    if rows is not None and columns is not None:
      yield (i, j), (rows[0], columns[0]), (rows[1], columns[1])


def _overlap(offset, size_in, size_out):
  """Input and output slices of a tap that reads `offset` pixels ahead."""
  start = max(0, -offset)
  stop = min(size_out, size_in - offset)
  if stop <= start:
    return None
  return slice(start + offset, stop + offset), slice(start, stop)


def _input_gradient(geometry, x, kernel, dy):
  """The transposed convolution, as a convolution with the kernel flipped."""
  padding, stride, rates = geometry
  pads = []
  for axis, (before, _) in enumerate(padding):
    spread = (dy.shape[axis + 1] - 1) * stride + 1
    reach = (kernel.shape[axis] - 1) * rates[axis]
    pads.append((reach - before, x.shape[axis + 1] + before - spread))
  # Strides become zeros between; padding beyond the reach is cut off again.
  config = [(min(a, 0), min(b, 0), stride - 1) for a, b in pads]
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *config, (0, 0, 0)))
  pads = tuple((max(a, 0), max(b, 0)) for a, b in pads)
  return _shift((pads, 1, rates), dy, kernel[::-1, ::-1])


def _kernel_gradient(geometry, x, kernel, dy):
  """Sums of input tap times output gradient.

  A reduction of several taps at once over the columns, then a small one: XLA's
  CPU backend would otherwise walk the arrays once for every tap. A kernel row
  at a time where the sums of all taps would leave the cache, or lines are
  short; tap by tap where most of each lies outside.
  """
  dy = wide(dy)
  if _mostly_outside(geometry, x, kernel, share=2 / 3):
    return _kernel_gradient_clipped(geometry, wide(x), kernel, dy)
  padded = _pad(x, geometry[0])
  products = [wide(tap) * dy for _, tap in _taps(geometry, padded, kernel)]
  apart = x.shape[-1] > 1024 or x.shape[2] < 20 or len(products) > 25
  at_once = kernel.shape[1] if apart else len(products)
  rows = [
    row
    for first in range(0, len(products), at_once)
    for row in _sum_columns(products[first : first + at_once])
  ]
  sums = jnp.stack([row.sum((0, 1)) for row in rows])
  return sums.reshape(kernel.shape).astype(kernel.dtype)


def _sum_columns(products):
  """Sums of arrays (b, h, w, c) over w, all in one walk."""
  rows = lax.reduce(
    products,
    [jnp.zeros((), products[0].dtype)] * len(products),
    lambda a, b: [p + q for p, q in zip(a, b)],
    dimensions=(2,),
  )
  return lax.optimization_barrier(rows)


def _kernel_gradient_clipped(geometry, x, kernel, dy):
  """As `_kernel_gradient`, without padding."""
  taps = _clipped_taps(geometry, x, kernel, dy.shape[1:3])
  sums = jnp.zeros(kernel.shape, dy.dtype)
  for (i, j), read, written in taps:
    total = (x[:, *read] * dy[:, *written]).sum((0, 1, 2))
    sums = sums.at[i, j, 0].set(total)
  return sums.astype(kernel.dtype)


def _shift_backward(geometry, x, kernel, dy):
  return (
    _input_gradient(geometry, x, kernel, dy),
    _kernel_gradient(geometry, x, kernel, dy),
  )


def _lax_backward(geometry, x, kernel, dy):
  _, pullback = jax.vjp(functools.partial(_lax, geometry), x, kernel)
  return pullback(dy)


_INFERENCE = {"lax": _lax, "shift": _shift, "mixed": _shift}
_FORWARD = {"lax": _lax, "shift": _shift, "mixed": _lax}
_BACKWARD = {
  "lax": _lax_backward,
  "shift": _shift_backward,
  "mixed": _lax_backward,
}
