"""Operations on whole maps: convolutions, pooling, resizing, reductions.

All of them expect (b, h, w, c) in the program, and give ONNX (b, c, h, w).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deeplab_jax.export.onnx_builder import Builder
from deeplab_jax.export.onnx_elementwise import with_tensor
from deeplab_jax.export.onnx_values import (
  Unsupported,
  Value,
  canonical,
  with_axes,
)
from deeplab_jax.export.operations import at_least

Step = Any
_NCHW = canonical(4)
_CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _result(step: Step, tensor: str) -> list[Value]:
  return [with_tensor(tensor, step.outvars[0].aval, _NCHW)]


def _require(is_so: bool, what: str) -> None:
  if not is_so:
    raise Unsupported(what)


def _pads(padding) -> list[int]:
  """Rows and columns added before, then after."""
  sides = [n for pair in padding for n in pair]
  is_plain = all(isinstance(n, int) and n >= 0 for n in sides)
  _require(is_plain, f"padding of {tuple(padding)}")
  return [before for before, _ in padding] + [after for _, after in padding]


def convolution(
  builder: Builder, step: Step, values: list[Value]
) -> list[Value]:
  """Dense, grouped, depthwise, strided, atrous."""
  x, kernel = values
  numbers, settings = step.params["dimension_numbers"], step.params
  _require(
    (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == _CHANNELS_LAST,
    "a convolution whose axes are not b, h, w, c",
  )
  _require(kernel.is_constant, "a convolution with a computed kernel")
  _require(settings["batch_group_count"] == 1, "groups of a batch")
  _require(set(settings["lhs_dilation"]) == {1}, "a transposed convolution")
  weights = with_axes(kernel.constant, kernel.axes, (3, 2, 0, 1))
  _require(weights.shape[2:] == kernel.shape[:2], "a kernel of repeated taps")
  tensor = builder.node(
    "Conv",
    [builder.whole(x), builder.constant(weights)],
    strides=list(settings["window_strides"]),
    dilations=list(settings["rhs_dilation"]),
    pads=_pads(settings["padding"]),
    group=settings["feature_group_count"],
    kernel_shape=list(weights.shape[2:]),
  )
  return _result(step, tensor)


def product(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """With a matrix from the right: of the channels of maps, or of rows.

  Or of two values that the picture tells, as attention has them.
  """
  x, matrix = values
  (left, right), (left_batch, right_batch) = step.params["dimension_numbers"]
  rank = len(x.shape)
  is_plain = (
    matrix.is_constant
    and len(matrix.shape) == 2
    and tuple(left) == (rank - 1,)
    and tuple(right) in ((0,), (1,))
    and not (left_batch or right_batch)
  )
  if not is_plain:
    return _matrix_by_matrix(builder, step, values)
  axes = (0, 1) if tuple(right) == (0,) else (1, 0)
  weights = with_axes(matrix.constant, matrix.axes, axes)
  if rank == 4:
    kernel = builder.constant(weights.T[:, :, None, None])
    tensor = builder.node(
      "Conv",
      [builder.whole(x), kernel],
      strides=[1, 1],
      dilations=[1, 1],
      pads=[0] * 4,
      group=1,
      kernel_shape=[1, 1],
    )
    return _result(step, tensor)
  tensor = builder.node("MatMul", [builder.whole(x), builder.constant(weights)])
  return [with_tensor(tensor, step.outvars[0].aval, canonical(rank))]


def _matrix_by_matrix(builder, step, values) -> list[Value]:
  """Of each of a batch: rows of one by columns of the other."""
  orders = matrix_orders(step)
  tensors = map(builder.whole, values, orders)
  tensor = builder.node("MatMul", list(tensors))
  result = step.outvars[0].aval
  return [with_tensor(tensor, result, tuple(range(len(result.shape))))]


def matrix_orders(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Axes of the operands of a product as MatMul wants them, the batch first.

  Raises:
    Unsupported: they are no matrices beside their batch.
  """
  contracted, batches = step.params["dimension_numbers"]
  orders = []
  for atom, gone, batch in zip(step.invars, contracted, batches):
    ranks = range(len(atom.aval.shape))
    free = [axis for axis in ranks if axis not in (*gone, *batch)]
    _require(len(free) == len(gone) == 1, "a product over several axes")
    inner = (*free, *gone) if not orders else (*gone, *free)
    orders.append((*batch, *inner))
  return tuple(orders)


def _pool(op: str, **attributes: Any) -> Callable:
  def pool(builder, step, values):
    settings = step.params
    window = settings["window_dimensions"]
    strides, padding = settings["window_strides"], settings["padding"]
    _require(
      len(window) == 4
      and (window[0], window[3], strides[0], strides[3]) == (1, 1, 1, 1)
      and tuple(map(tuple, (padding[0], padding[3]))) == ((0, 0), (0, 0))
      and set(settings["base_dilation"]) == {1}
      and set(settings["window_dilation"]) == {1},
      "windows along b or c, or with gaps",
    )
    tensor = builder.node(
      op,
      [builder.whole(values[0])],
      kernel_shape=list(window[1:3]),
      strides=list(strides[1:3]),
      pads=_pads(padding[1:3]),
      **attributes,
    )
    if op == "AveragePool":
      area = builder.constant(math.prod(window), values[0].dtype)
      tensor = builder.node("Mul", [tensor, area])
    return _result(step, tensor)

  return pool


def mean(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Over rows and columns."""
  return _result(
    step, builder.node("GlobalAveragePool", [builder.whole(values[0])])
  )


def mean_of_windows(
  builder: Builder, step: Step, values: list[Value]
) -> list[Value]:
  """By windows of full size, over zeros where a map is smaller than one."""
  x, side = values[0], step.params["side"]
  size, tensor = x.shape[1:3], builder.whole(values[0])
  full = [at_least(n, side) for n in size]
  if full != list(size):
    missing = builder.sides([new - n for new, n in zip(full, size)])
    pads = builder.node(
      "Concat", [builder.constant([0] * 6, np.int64), missing], axis=0
    )
    tensor = builder.node("Pad", [tensor, pads], mode="constant")
  tensor = builder.node(
    "AveragePool",
    [tensor],
    kernel_shape=[side, side],
    strides=list(step.params["strides"]),
    pads=[0] * 4,
  )
  if full != list(size):
    tensor = builder.node(
      "Mul", [tensor, _full_shares(builder, size, full, side)]
    )
  return _result(step, tensor)


def _full_shares(builder, size, full, side) -> str:
  """A window's pixels by those of it that are map: a number, per batch."""
  windows = builder.constant([side, side], np.int64)
  seen = builder.node("Min", [builder.sides(size), windows])
  cast = builder.node("Cast", [seen], to=1)
  shares = builder.node("Div", [builder.constant([side] * 2, np.float32), cast])
  zero = builder.constant([0], np.int64)
  return builder.node("ReduceProd", [shares, zero], keepdims=0)


def resize(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Bilinear, the centres of the corners kept, or the outer edges."""
  x = values[0]
  shape = builder.sides([x.shape[0], x.shape[3], *step.params["size"]])
  tensor = builder.node(
    "Resize",
    [builder.whole(x), "", "", shape],
    mode="linear",
    coordinate_transformation_mode=(
      "half_pixel" if step.params["half_pixel"] else "align_corners"
    ),
  )
  return _result(step, tensor)


MAPS: dict[str, Callable] = {
  "conv_general_dilated": convolution,
  "dot_general": product,
  "mean": mean,
  "mean_of_windows": mean_of_windows,
  "reduce_window_max": _pool("MaxPool"),
  "reduce_window_sum": _pool("AveragePool", count_include_pad=1),
  "resize_bilinear": resize,
}
"""Functions of builder, step and values to values, by primitive."""
