"""Operations on single elements, as ONNX nodes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from deeplab_jax.export.onnx_builder import Builder
from deeplab_jax.export.onnx_values import (
  Axes,
  Unsupported,
  Value,
  common_axes,
  with_axes,
)

Step = Any  # an equation of a jaxpr


def translate(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """The result of an elementwise step, in a list of one.

  Args:
    builder: of the graph.
    step: its primitive is in `ELEMENTWISE`.
    values: its operands.
  """
  result = step.outvars[0].aval
  if all(value.is_constant for value in values):
    return [_computed(step, values, result)]
  kept = _left_alone(step, values)
  if kept is not None:
    return [kept]
  axes = common_axes(values, len(result.shape))
  operands = [builder.operand(value, axes) for value in values]
  tensor = ELEMENTWISE[step.primitive.name](builder, step, values, operands)
  return [with_tensor(tensor, result, axes, _narrow(values, axes, result))]


def with_tensor(
  tensor: str, aval: Any, axes: Axes, narrow=frozenset()
) -> Value:
  """The value of a variable that a new tensor holds."""
  return Value(tuple(aval.shape), aval.dtype, axes, frozenset(narrow), tensor)


def _narrow(values: Sequence[Value], axes: Axes, result: Any) -> set[int]:
  """Axes of the result that no operand has in its full length."""
  held = {axis for v in values for axis in v.axes if axis is not None}
  held = {
    axis
    for axis in held
    if any(axis in v.axes and axis not in v.narrow for v in values if v.shape)
  }
  return {axis for axis in axes if axis is not None and axis not in held}


def _computed(step: Step, values: list[Value], result: Any) -> Value:
  """The result of a step whose operands are known."""
  rank = len(result.shape)
  order = tuple(range(rank))
  arrays = [
    with_axes(v.constant, v.axes, order) if v.shape else v.constant
    for v in values
  ]
  array = bind(step, np.broadcast_arrays(*arrays))[0]
  narrow = {i for i in order if array.ndim and array.shape[i] == 1}
  return Value(
    tuple(result.shape),
    array.dtype,
    order[: array.ndim],
    frozenset(narrow),
    None,
    array,
  )


def bind(step: Step, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
  """What a step makes of known operands."""
  found = step.primitive.bind(*map(jax.numpy.asarray, arrays), **step.params)
  found = found if step.primitive.multiple_results else [found]
  return [np.asarray(array) for array in found]


def _left_alone(step: Step, values: list[Value]) -> Value | None:
  """The operand that a step returns as it is: x + 0, x * 1, max(x, -inf)."""
  neutral = _NEUTRAL.get(step.primitive.name)
  if neutral is None:
    return None
  sides = (0, 1) if step.primitive.name in _SYMMETRIC else (1,)
  for side in sides:
    kept = values[1 - side]
    if values[side].scalar == neutral and not kept.is_constant:
      return kept if kept.shape == step.outvars[0].aval.shape else None
  return None


_NEUTRAL = {
  "add": 0, "sub": 0, "mul": 1, "div": 1, "max": -np.inf, "min": np.inf
}  # fmt: skip
_SYMMETRIC = {"add", "mul", "max", "min"}


def _node(op: str, **attributes: Any) -> Callable:
  return lambda builder, step, values, operands: builder.node(
    op, operands, **attributes
  )


def _chain(*ops: str) -> Callable:
  """Nodes of one operand, one after the other."""

  def chain(builder, step, values, operands):
    del step, values
    return functools.reduce(
      lambda tensor, op: builder.node(op, [tensor]), ops, operands[0]
    )

  return chain


def _with_number(op: str, number: float, is_first: bool = False) -> Callable:
  def translated(builder, step, values, operands):
    del step
    other = builder.constant(number, values[0].dtype)
    pair = [other, operands[0]] if is_first else [operands[0], other]
    return builder.node(op, pair)

  return translated


def _maximum(builder, step, values, operands):
  del step
  for number, other in (values, values[::-1]):
    if number.scalar == 0 and np.issubdtype(other.dtype, np.floating):
      return builder.node("Relu", [operands[values.index(other)]])
  return builder.node("Max", operands)


def _integer_power(builder, step, values, operands):
  if step.params["y"] == 2:
    return builder.node("Mul", operands * 2)
  return _with_number("Pow", step.params["y"])(builder, step, values, operands)


def _square(builder, step, values, operands):
  del step, values
  return builder.node("Mul", operands * 2)


def _clip(builder, step, values, operands):
  del step
  low, x, high = operands
  if values[0].scalar is None or values[2].scalar is None:
    return builder.node("Min", [builder.node("Max", [x, low]), high])
  return builder.node("Clip", [x, low, high])


def _cast(builder, step, values, operands):
  new = np.dtype(step.params["new_dtype"])
  return (
    operands[0] if new == values[0].dtype else cast(builder, operands[0], new)
  )


def cast(builder: Builder, tensor: str, dtype: Any) -> str:
  """`tensor` in another type."""
  dtype = np.dtype(dtype)
  if dtype not in ONNX_TYPES:
    raise Unsupported(f"numbers of type {dtype}")
  return builder.node("Cast", [tensor], to=ONNX_TYPES[dtype])


def _select(builder, step, values, operands):
  """Of two: ONNX names the one for true first."""
  del step
  if len(operands) != 3 or values[0].dtype != bool:
    raise Unsupported("a choice of more than two")
  return builder.node("Where", [operands[0], operands[2], operands[1]])


def _integers_or(op: str, other: str) -> Callable:
  def translated(builder, step, values, operands):
    del step
    if values[0].dtype != bool:
      raise Unsupported(f"{other} of integers")
    return builder.node(op, operands)

  return translated


def _remainder(builder, step, values, operands):
  del step, values
  return builder.node("Mod", operands, fmod=1)


ONNX_TYPES = {
  np.dtype(name): number
  for name, number in {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6,
    "int64": 7, "bool": 9, "float16": 10, "float64": 11, "uint32": 12,
    "uint64": 13,
  }.items()
}  # fmt: skip
"""Numbers of `onnx.TensorProto.DataType`."""

ELEMENTWISE: dict[str, Callable] = {
  "abs": _node("Abs"),
  "add": _node("Add"),
  "add_any": _node("Add"),
  "and": _integers_or("And", "and"),
  "ceil": _node("Ceil"),
  "clamp": _clip,
  "convert_element_type": _cast,
  "cos": _node("Cos"),
  "div": _node("Div"),
  "eq": _node("Equal"),
  "erf": _node("Erf"),
  "erfc": lambda b, s, v, o: b.node(
    "Sub", [b.constant(1, v[0].dtype), b.node("Erf", o)]
  ),
  "exp": _node("Exp"),
  "exp2": _with_number("Pow", 2, is_first=True),
  "floor": _node("Floor"),
  "ge": _node("GreaterOrEqual"),
  "gt": _node("Greater"),
  "integer_pow": _integer_power,
  "le": _node("LessOrEqual"),
  "log": _node("Log"),
  "logistic": _node("Sigmoid"),
  "lt": _node("Less"),
  "max": _maximum,
  "min": _node("Min"),
  "mul": _node("Mul"),
  "ne": lambda *a: a[0].node("Not", [_node("Equal")(*a)]),
  "neg": _node("Neg"),
  "not": _integers_or("Not", "not"),
  "or": _integers_or("Or", "or"),
  "pow": _node("Pow"),
  "rem": _remainder,
  "rsqrt": _chain("Sqrt", "Reciprocal"),
  "select_n": _select,
  "sign": _node("Sign"),
  "sin": _node("Sin"),
  "sqrt": _node("Sqrt"),
  "square": _square,
  "sub": _node("Sub"),
  "tanh": _node("Tanh"),
  "expm1": lambda b, s, v, o: _with_number("Sub", 1)(
    b, s, v, [b.node("Exp", o)]
  ),
  "log1p": lambda b, s, v, o: b.node(
    "Log", [_with_number("Add", 1)(b, s, v, o)]
  ),
}
"""Functions of builder, step, values and tensors to a tensor, by primitive."""
