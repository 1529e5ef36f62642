"""Bilinear resizing, and the labels that it leads to.

With aligned corners, as the official implementation has it; or with half-pixel
centres, which align the outer edges, as torch's networks mostly do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models.ops import canvas
from deeplab_jax.models.ops.precision import wide
from deeplab_jax.models.ops.whole import whole

# Unrolled, more channels would take long to compile.
_MOST_PLANES = 256


@whole
def resize_bilinear(
  x: jax.Array, size: tuple[int, int], half_pixel: bool = False
) -> jax.Array:
  """Bilinear resizing without antialiasing.

  With aligned corners the centres of the corner pixels stay where they are:
  output pixel i reads position `i * (in - 1) / (out - 1)`. With half-pixel
  centres the outer edges do: it reads `(i + 1/2) * in / out - 1/2`, kept within
  the map, as torch's `align_corners=False` and `jax.image.resize` (which
  smooths where it shrinks).

  Args:
    x: `(b, h, w, c)`, float.
    size: output height and width, at least 1.
    half_pixel: whether edges are aligned, not corners.

  Returns:
    `(b, *size, c)` in the dtype of `x`, interpolated in float32 or wider.

  Raises:
    ValueError: if `x` has not four axes or a size is below 1.
  """
  if x.ndim != 4 or min(size) < 1:
    raise ValueError(
      "resize_bilinear takes x of shape (b, h, w, c) and a size of at least"
      f" (1, 1), got shape {x.shape} and size {tuple(size)}"
    )
  if x.shape[1:3] == tuple(size):
    return x
  if x.shape[1:3] == (1, 1):
    return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
  if half_pixel:  # where a pixel is read depends on the size: on no canvas
    return _resize(tuple(size), x.shape[1:3], True, x)
  entered = canvas.enter(x)
  return canvas.leave(_resize(tuple(size), x.shape[1:3], False, entered))


@whole
def resized_argmax(
  x: jax.Array, size: tuple[int, int], half_pixel: bool = False
) -> jax.Array:
  """The largest channel of every pixel of `resize_bilinear`.

  Args:
    x: `(b, h, w, c)`, float.
    size: output height and width, at least 1.
    half_pixel: as `resize_bilinear` takes it.

  Returns:
    int32 `(b, *size)`, the first channel of several equal ones.

  Raises:
    ValueError: as `resize_bilinear`.
  """

  def whole(x):
    return resize_bilinear(x, size, half_pixel).argmax(-1)

  if x.shape[-1] > _MOST_PLANES:
    return whole(x)
  planes = functools.partial(_argmax_by_planes, tuple(size), half_pixel)
  return jax.lax.platform_dependent(x, cpu=planes, default=whole)


def _argmax_by_planes(size, half_pixel, x):
  """Channel after channel, in one pass over pixels: XLA's CPU backend makes
  vectors of rows, but none of a reduction over channels."""
  planes = jnp.moveaxis(_lerp(x, size[1], 2, half_pixel), 3, 0)

  def compare(best, plane):
    largest, label, channel = best
    value = _lerp(plane, size[0], 1, half_pixel)
    larger = value > largest
    largest = jnp.where(larger, value, largest)
    return (largest, jnp.where(larger, channel, label), channel + 1), None

  shape = (x.shape[0], *size)
  start = (
    jnp.full(shape, -jnp.inf, planes.dtype),
    jnp.zeros(shape, jnp.int32),
    0,
  )
  (_, label, _), _ = jax.lax.scan(compare, start, planes, unroll=True)
  return label


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _resize(size, _, half_pixel, x):
  """By gathering: forward it is the fastest form on CPU."""
  y = _lerp(_lerp(x, size[1], 2, half_pixel), size[0], 1, half_pixel)
  return y.astype(x.dtype)


def _resize_forward(size, old_size, half_pixel, x):
  return _resize(size, old_size, half_pixel, x), None


def _resize_backward(size, old_size, half_pixel, _, dy):
  """By gathering, too: the transposed gather would be a slow scatter."""
  del size
  dx = _lerp_transposed(dy, old_size[0], 1, half_pixel)
  dx = _lerp_transposed(dx, old_size[1], 2, half_pixel)
  return (dx.astype(dy.dtype),)


_resize.defvjp(_resize_forward, _resize_backward)


def _positions(size_in: int, size_out: int, half_pixel: bool):
  """Lower neighbour, upper neighbour and weight of the upper, per output."""
  position = np.arange(size_out, dtype=np.float32)
  if half_pixel:
    scale = np.float32(size_in) / np.float32(size_out)
    position = np.maximum((position + np.float32(0.5)) * scale - 0.5, 0)
    position = position.astype(np.float32)
  else:
    position *= np.float32(size_in - 1) / np.float32(max(size_out - 1, 1))
  lower = np.minimum(position.astype(np.int32), size_in - 1)
  upper = np.minimum(lower + 1, size_in - 1)
  return lower, upper, position - lower.astype(np.float32)


def _lerp(x, size, axis, half_pixel):
  if x.shape[axis] == size:
    return x
  lower, upper, weight = _positions(x.shape[axis], size, half_pixel)
  weight = weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
  low, high = (
    wide(jnp.take(x, lines, axis=axis, mode="clip", indices_are_sorted=True))
    for lines in (lower, upper)
  )
  return low + (high - low) * weight


def _lerp_transposed(dy, size, axis, half_pixel):
  """Sums, for every line of the input, the lines that `_lerp` made of it."""
  if dy.shape[axis] == size:
    return dy
  matrix = interpolation(size, dy.shape[axis], half_pixel)
  # The weights that are not 0 first, in order.
  lines = np.argsort(matrix == 0, axis=0, kind="stable")
  lines = lines[: np.count_nonzero(matrix, axis=0).max()]
  weights = np.take_along_axis(matrix, lines, axis=0)
  shape = [-1 if i == axis else 1 for i in range(4)]
  return sum(
    wide(jnp.take(dy, line, axis=axis, mode="clip")) * weight.reshape(shape)
    for line, weight in zip(lines, weights)
  )


def interpolation(size_in: int, size_out: int, half_pixel: bool) -> np.ndarray:
  """The matrix `(size_out, size_in)` that interpolates a line."""
  lower, upper, weight = _positions(size_in, size_out, half_pixel)
  matrix = np.zeros((size_out, size_in), np.float32)
  rows = np.arange(size_out)
  np.add.at(matrix, (rows, lower), 1 - weight)
  np.add.at(matrix, (rows, upper), weight)
  return matrix
