"""Values of a program as tensors of an ONNX graph that is being built.

ONNX runtimes want maps as (b, c, h, w); a program has them as (b, h, w, c). A
`Value` says which axis of the program each axis of its tensor is, so that a
transposition is a matter of names, as are axes of length 1 that come and go. A
tensor is moved about only where an operation needs another order.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

Side = Any  # an int, or a symbol of `jax.export`
Axes = tuple[int | None, ...]


class Unsupported(ValueError):
  """The program does something that is not translated; says what."""


@dataclasses.dataclass(frozen=True)
class Value:
  """What a variable of the program is in the graph.

  Attributes:
    shape: of the variable.
    dtype: of the variable.
    axes: which axis of the variable each axis of the tensor is; None for one of
      length 1 that is none. Axes of the variable that are missing here, or in
      `narrow`, repeat what is there.
    narrow: axes of the variable that have length 1 in the tensor though the
      variable may be longer.
    tensor: name of the tensor; None of a constant.
    constant: the tensor's value, if it is known.
  """

  shape: tuple[Side, ...]
  dtype: np.dtype
  axes: Axes
  narrow: frozenset[int] = frozenset()
  tensor: str | None = None
  constant: np.ndarray | None = None

  @property
  def is_constant(self) -> bool:
    """Whether its numbers are known now."""
    return self.constant is not None

  @property
  def repeated(self) -> set[int]:
    """Axes of the variable along which the tensor must be repeated."""
    missing = set(range(len(self.shape))) - set(self.axes)
    return {
      axis
      for axis in missing | self.narrow
      if not (isinstance(self.shape[axis], int) and self.shape[axis] == 1)
    }

  @property
  def scalar(self) -> Any:
    """The one number of a constant that has one, else None."""
    if self.constant is None or self.constant.size != 1:
      return None
    return self.constant.item()

  def at(self, axis: int) -> int:
    """The axis of the tensor that is `axis` of the variable."""
    return self.axes.index(axis)


def canonical(rank: int) -> tuple[int, ...]:
  """The order of the axes of a tensor: maps (b, h, w, c) have c moved up."""
  return (0, 3, 1, 2) if rank == 4 else tuple(range(rank))


def constant(array: Any) -> Value:
  """A known value."""
  array = np.asarray(array)
  axes = tuple(range(array.ndim))
  return Value(array.shape, array.dtype, axes, constant=array)


def with_axes(array: np.ndarray, axes: Axes, wanted: Sequence) -> np.ndarray:
  """`array`, whose axes are `axes`, with those that are `wanted`, in order.

  Args:
    array: of a constant.
    axes: as those of a `Value`.
    wanted: the same; what is not in `axes` gets length 1.
  """
  array = array.reshape(
    [n for n, axis in zip(array.shape, axes) if axis is not None]
  )
  axes = [axis for axis in axes if axis is not None]
  order = [axes.index(axis) for axis in wanted if axis in axes]
  array = array.transpose(order)
  sides = iter(array.shape)
  return array.reshape([next(sides) if axis in axes else 1 for axis in wanted])


def full(value: Value) -> np.ndarray:
  """The numbers of a constant, repeated to its shape, which has no symbols."""
  order = tuple(range(len(value.shape)))
  array = with_axes(value.constant, value.axes, order)
  return np.broadcast_to(array, value.shape)


def fits(value: Value, wanted: Sequence) -> bool:
  """Whether a tensor can stand beside one of the axes `wanted` as it is.

  Shapes are compared from the end, and length 1 is repeated, as in NumPy.
  """
  if len(value.axes) > len(wanted):
    return False
  ends = tuple(wanted)[len(wanted) - len(value.axes) :]
  return all(a is None or a == b for a, b in zip(value.axes, ends))


def common_axes(values: Sequence[Value], rank: int) -> Axes:
  """The axes that tensors of an elementwise operation are best brought to."""
  moving = [value for value in values if not value.is_constant]
  needed = {a for v in values for a in v.axes if a is not None}
  if moving:
    widest = max(moving, key=lambda v: sum(a is not None for a in v.axes))
    if needed <= set(widest.axes):
      return widest.axes
  return canonical(rank)
