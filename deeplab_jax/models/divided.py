"""Maps whose rows are divided over devices, for pictures larger than one.

XLA divides programs over devices if it is told which axes stay divided: then
convolutions are sent the nearest rows of their neighbours, means are added up,
and no map is gathered. That holds of plain operations. The forms of `ops` that
are made for one CPU, of slices and gathers, would have whole maps sent. So the
functions here stand in the place of all operations, see `ops.whole`: each in
its plain form, with its result divided.

Rows need not be a multiple of the devices. XLA pads them, and leaves out the
padding where it counts.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deeplab_jax.models.ops import canvas, convolution, plain, resize
from deeplab_jax.models.ops.whole import replaced

_FREE = PartitionSpec.UNCONSTRAINED


def by_rows(function: Callable, mesh: Mesh, axis: str) -> Callable:
  """`function` with the rows of all maps of networks and losses divided.

  Args:
    function: to be jitted; its arguments need not be divided.
    mesh: the devices.
    axis: of the mesh, over which rows are divided; if it has none of this name,
      `function` is left as it is.
  """
  if axis not in mesh.axis_names:
    return function
  operations = _Division(mesh, axis).operations()

  @functools.wraps(function)
  def divided(*args, **kwargs):
    with replaced(operations):
      return function(*args, **kwargs)

  return divided


class _Division:
  """Of rows, over an axis of a mesh."""

  def __init__(self, mesh: Mesh, axis: str):
    self._mesh, self._axis = mesh, axis

  def operations(self) -> dict[str, Callable]:
    """What stands in the place of operations, by their names."""
    functions = {
      "all_threads": lambda x: x,
      "attention": plain.attention,  # of tokens, which lie row after row
      "conv": _conv,
      "depthwise_conv": plain.depthwise_conv,
      "max_pool": plain.max_pool,
      "mean_of_windows": convolution.mean_of_windows.__wrapped__,
      "resize_bilinear": self._resize_bilinear,
      "resized_argmax": self._resized_argmax,
    }
    return {name: self._divided(f) for name, f in functions.items()}

  def _divided(self, function: Callable) -> Callable:
    """`function`, whose result is divided; a single row is left alone."""

    def call(*args, **kwargs):
      x = function(*args, **kwargs)
      if x.shape[1] == 1:
        return x
      return self._placed(x, _FREE, self._axis, *[_FREE] * (x.ndim - 2))

    return call

  def _placed(self, x, *spec):
    placement = NamedSharding(self._mesh, PartitionSpec(*spec))
    return lax.with_sharding_constraint(x, placement)

  def _resize_bilinear(self, x, size, half_pixel=False):
    """Rows by a matrix product, then columns as ever."""
    if x.shape[1] not in (1, size[0]):
      x = canvas.leave(self._resize_rows(canvas.enter(x), size[0], half_pixel))
    return resize.resize_bilinear.__wrapped__(x, size, half_pixel)

  def _resize_rows(self, x, size, half_pixel):
    """Every device makes its rows of the whole map before it is resized.

    That, where maps grow the smaller one, is the only map that is gathered. Of
    its gradient every device has its part of the sum.
    """
    x = self._placed(x, _FREE, None, _FREE, _FREE)
    matrix = resize.interpolation(x.shape[1], size, half_pixel)
    matrix = self._placed(jnp.asarray(matrix, x.dtype), self._axis, None)
    x = jnp.einsum("oh,bhwc->bowc", matrix, x, precision="highest")
    return self._placed(x, _FREE, self._axis, _FREE, _FREE)

  def _resized_argmax(self, x, size, half_pixel=False):
    return self._resize_bilinear(x, size, half_pixel).argmax(-1)


def _conv(x, kernel, *, stride=1, rate=1, padding="explicit"):
  if kernel.shape[:2] == (1, 1) and stride == 1:
    return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
  settings = {"stride": stride, "rate": rate, "padding": padding}
  return plain.conv(x, kernel, **settings)
