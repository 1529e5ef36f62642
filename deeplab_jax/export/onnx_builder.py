"""An ONNX graph under construction: nodes, constants, sizes.

Equal nodes are made once. Sizes that are not known before a picture is there
are computed in the graph from the shape of the input, by integer arithmetic
that follows the symbols' expressions.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deeplab_jax.export.onnx_values import (
  Axes,
  Side,
  Unsupported,
  Value,
  canonical,
  fits,
  with_axes,
)

IMAGE = "image"
_SYMBOLS = {"b": 0, "h": 1, "w": 2}
"""Axes of the input that the symbols are the lengths of."""


@dataclasses.dataclass
class Node:
  """One operation.

  Attributes:
    op: its name in ONNX.
    inputs: names of tensors; "" for one that is left out.
    outputs: names of tensors.
    attributes: numbers, strings and lists of numbers.
  """

  op: str
  inputs: list[str]
  outputs: list[str]
  attributes: dict[str, Any]

  def become(self, op: str, inputs: list[str], **attributes: Any) -> None:
    """Makes this another operation with the same results."""
    self.op, self.inputs, self.attributes = op, inputs, attributes


class Builder:
  """Collects what a graph consists of.

  Attributes:
    nodes: in an order in which they can be computed.
    constants: arrays by the names of their tensors.
  """

  def __init__(self):
    self.nodes: list[Node] = []
    self.constants: dict[str, np.ndarray] = {}
    self._known: dict[Any, list[str]] = {}

  def node(
    self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any
  ) -> str | list[str]:
    """Adds a node, or finds the equal one; gives its output or outputs."""
    key = (op, *inputs, outputs, repr(sorted(attributes.items())))
    if key not in self._known:
      stem = f"{op.lower()}_{len(self.nodes)}"
      names = (
        [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
      )
      self.nodes.append(Node(op, list(inputs), names, attributes))
      self._known[key] = names
    names = self._known[key]
    return names[0] if outputs == 1 else names

  def constant(self, array: Any, dtype: Any = None) -> str:
    """The name of a tensor that holds `array`: equal ones have one name."""
    array = np.asarray(array, dtype)
    found = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    found.update(array.tobytes())
    name = f"constant_{found.hexdigest()[:16]}"
    self.constants.setdefault(name, array)
    return name

  # Tensors of values.

  def operand(self, value: Value, wanted: Axes) -> str:
    """A tensor that can stand beside others of the axes `wanted`."""
    if value.is_constant:
      array = value.constant
      if array.size == 1:
        return self.constant(array.reshape(()))
      return self.constant(with_axes(array, value.axes, wanted))
    if fits(value, wanted):
      return value.tensor
    return self._moved(value, wanted)

  def _moved(self, value: Value, wanted: Axes) -> str:
    """The tensor of `value` with its axes brought to `wanted`."""
    tensor, axes = value.tensor, list(value.axes)
    gone = [i for i, axis in enumerate(axes) if axis is None]
    if gone:
      tensor = self.node("Squeeze", [tensor, self.constant(gone, np.int64)])
      axes = [axis for axis in axes if axis is not None]
    order = [axes.index(axis) for axis in wanted if axis in axes]
    if order != sorted(order):
      tensor = self.node("Transpose", [tensor], perm=order)
    new = [i for i, axis in enumerate(wanted) if axis not in axes]
    if new:
      tensor = self.node("Unsqueeze", [tensor, self.constant(new, np.int64)])
    return tensor

  def whole(self, value: Value, wanted: Axes | None = None) -> str:
    """A tensor of all axes of `value`, of their full lengths.

    Args:
      value: anything.
      wanted: the order of its axes; None for the canonical one.
    """
    rank = len(value.shape)
    wanted = canonical(rank) if wanted is None else wanted
    if value.is_constant:
      tensor = self.constant(with_axes(value.constant, value.axes, wanted))
    elif value.axes == wanted:
      tensor = value.tensor
    else:
      tensor = self._moved(value, wanted)
    if value.repeated:
      shape = self.sides([value.shape[axis] for axis in wanted])
      tensor = self.node("Expand", [tensor, shape])
    return tensor

  # Sizes.

  def sides(self, sides: Sequence[Side]) -> str:
    """A tensor int64 of one axis that holds `sides`."""
    if all(isinstance(side, int) for side in sides):
      return self.constant(list(sides), np.int64)
    parts, rest = [], list(sides)
    while rest:
      count = self._count_of_run(rest)
      parts.append(self._run(rest[:count]))
      rest = rest[count:]
    return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

  def _count_of_run(self, sides: list[Side]) -> int:
    """How many of the first sides one vector can hold."""
    if isinstance(sides[0], int):
      return next(
        (i for i, n in enumerate(sides) if not isinstance(n, int)), len(sides)
      )
    trees = [_tree(side) for side in sides[:2]]
    is_pair = len(trees) == 2 and _alike(*trees)
    return 2 if is_pair else 1

  def _run(self, sides: list[Side]) -> str:
    if isinstance(sides[0], int):
      return self.constant(sides, np.int64)
    return self._vector([_tree(side) for side in sides])

  def _vector(self, trees: list[ast.AST]) -> str:
    """The values of expressions that differ in names and numbers alone."""
    first = trees[0]
    if isinstance(first, ast.Constant):
      return self.constant([tree.value for tree in trees], np.int64)
    if isinstance(first, ast.Name):
      start = _SYMBOLS[first.id]
      return self.node("Shape", [IMAGE], start=start, end=start + len(trees))
    op = _operation(first)
    operands = [self._vector(list(parts)) for parts in zip(*map(_parts, trees))]
    if op == "FloorDiv":
      return self._floor_division(trees, *operands)
    return self.node(op, operands)

  def _floor_division(self, trees, left: str, right: str) -> str:
    """ONNX rounds towards 0, which is down where nothing is negative."""
    signs = (ast.USub, ast.Sub)
    if any(isinstance(part, signs) for t in trees for part in ast.walk(t)):
      left = self.node("Sub", [left, self.node("Mod", [left, right])])
    return self.node("Div", [left, right])


def _tree(side: Side) -> ast.AST:
  """The expression of a symbol, as jax writes it."""
  return ast.parse(str(side), mode="eval").body


_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
_FUNCTIONS = {"max": "Max", "min": "Min", "mod": "Mod", "floordiv": "FloorDiv"}


def _operation(tree: ast.AST) -> str:
  op = None
  if isinstance(tree, ast.BinOp):
    op = _OPERATORS.get(type(tree.op))
  elif isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
    op = "Neg"
  elif isinstance(tree, ast.Call):
    op = _FUNCTIONS.get(tree.func.id)
  if op is None:
    raise Unsupported(f"the size {ast.unparse(tree)}")
  return op


def _parts(tree: ast.AST) -> list[ast.AST]:
  if isinstance(tree, ast.BinOp):
    return [tree.left, tree.right]
  return tree.args if isinstance(tree, ast.Call) else [tree.operand]


def _alike(first: ast.AST, second: ast.AST) -> bool:
  """Whether a vector holds both: of height and width, or of two numbers."""
  if type(first) is not type(second):
    return False
  if isinstance(first, ast.Constant):
    return True
  if isinstance(first, ast.Name):
    return _SYMBOLS[first.id] + 1 == _SYMBOLS[second.id]
  if _operation(first) != _operation(second):
    return False
  parts = _parts(first), _parts(second)
  return len(parts[0]) == len(parts[1]) and all(map(_alike, *parts))
