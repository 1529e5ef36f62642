"""Fewer nodes for the same result.

Every rule looks at what nodes do, never at where they come from, and only where
nothing else reads what lies between them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from deeplab_jax.export.onnx_builder import Builder, Node

# Of `onnx.TensorProto.DataType`.
_INTEGERS = {2, 4, 5, 6, 7, 12, 13}
_INT32 = 6
_ELEMENTWISE = {"Cast", "Clip", "Pad", "Relu", "Transpose"}
"""Nodes that leave the channels of a map alone; Transpose is that of the input.
"""


def tidy(builder: Builder, outputs: Sequence[str]) -> Builder:
  """Applies the rules until none applies, and leaves out what is not read.

  Args:
    builder: of a graph whose results are the tensors `outputs`.
    outputs: of nodes Identity.
  """
  while sum(_apply(rule, builder, outputs) for rule in _RULES):
    pass
  graph = _Graph(builder, outputs)
  for node in list(graph.each("Identity")):
    _name_result(graph, node)
  builder.nodes = graph.live()
  read = {name for node in builder.nodes for name in node.inputs}
  builder.constants = {
    name: array for name, array in builder.constants.items() if name in read
  }
  return builder


def _apply(rule: Callable, builder: Builder, outputs: Sequence[str]) -> bool:
  """Applies a rule to every node once; tells whether it did anything."""
  graph = _Graph(builder, outputs)
  builder.nodes = graph.nodes = graph.live()
  return sum(rule(graph, node) for node in list(graph.nodes)) > 0


def _name_result(graph: "_Graph", node: Node) -> None:
  """Gives the tensor that `node` copies the name of the copy."""
  (source,), (name,) = node.inputs, node.outputs
  maker = graph.maker.get(source)
  if maker is None or graph.reads[source] != 1:
    return
  maker.outputs = [name if old == source else old for old in maker.outputs]
  graph.nodes.remove(node)


class _Graph:
  """Who makes and who reads each tensor.

  While a rule is applied, reads that are gone are still counted, never too few.

  Attributes:
    nodes: of the graph.
    constants: of the graph.
    outputs: tensors that are results.
  """

  def __init__(self, builder: Builder, outputs: Sequence[str]):
    self.builder = builder
    self.nodes = builder.nodes
    self.constants = builder.constants
    self.outputs = set(outputs)
    self.maker = {name: node for node in self.nodes for name in node.outputs}
    self.reads = Counter(name for node in self.live() for name in node.inputs)
    self.reads.update(self.outputs)

  def live(self) -> list[Node]:
    """The nodes that a result needs."""
    needed, kept = set(self.outputs), []
    for node in reversed(self.nodes):
      if needed & set(node.outputs):
        kept.append(node)
        needed |= set(node.inputs)
    return kept[::-1]

  def before(self, tensor: str, *ops: str) -> Node | None:
    """The node of `tensor` if it is one of `ops` and nothing else reads it."""
    node = self.maker.get(tensor)
    if node is None or node.op not in ops or self.reads[tensor] != 1:
      return None
    return node

  def number(self, tensor: str) -> float | None:
    """The one number that a constant holds, or None."""
    array = self.constants.get(tensor)
    return None if array is None or array.size != 1 else array.item()

  def split(self, node: Node) -> tuple[str, str] | None:
    """Of a node's two inputs the computed one and the constant, if so."""
    first, second = node.inputs
    if second in self.constants and first not in self.constants:
      return first, second
    if first in self.constants and second not in self.constants:
      return second, first
    return None

  def made_by(self, tensor: str, op: str) -> Node | None:
    """The node of `tensor` if it is `op`."""
    node = self.maker.get(tensor)
    return node if node is not None and node.op == op else None

  def has_channels(self, tensor: str, count: int) -> bool:
    """Whether `tensor` is known to be a map of so many channels."""
    node = self.maker.get(tensor)
    if node is None:
      return False
    if node.op == "Conv":
      return len(self.constants[node.inputs[1]]) == count
    pair = self.split(node) if node.op in ("Add", "Mul") else None
    if pair and self.constants[pair[1]].shape == (1, count, 1, 1):
      return True
    return node.op in _ELEMENTWISE and self.has_channels(node.inputs[0], count)

  def replace(self, old: str, new: str) -> None:
    """Has all that reads `old` read `new`."""
    for node in self.nodes:
      node.inputs = [new if name == old else name for name in node.inputs]
    self.reads[new] += self.reads[old]

  def each(self, *ops: str) -> Iterator[Node]:
    """The nodes of these kinds that are needed."""
    return (node for node in self.live() if node.op in ops)


def _per_channel(array: np.ndarray, channels: int) -> np.ndarray | None:
  """(channels,) of a constant that stands beside a map (b, c, h, w)."""
  if array.size == 1:
    return np.full(channels, array.item(), array.dtype)
  shape = (1,) * (4 - array.ndim) + array.shape
  if array.ndim > 4 or shape != (1, channels, 1, 1):
    return None
  return array.reshape(channels)


def _into_convolution(graph: _Graph, node: Node) -> bool:
  """A convolution takes up the factors and offsets of channels behind it."""
  pair = graph.split(node) if node.op in ("Add", "Mul") else None
  conv = pair and graph.before(pair[0], "Conv")
  if not conv:
    return False
  kernel = graph.constants[conv.inputs[1]]
  numbers = _per_channel(graph.constants[pair[1]], len(kernel))
  if numbers is None:
    return False
  bias = np.zeros(len(kernel), kernel.dtype)
  if len(conv.inputs) > 2:
    bias = graph.constants[conv.inputs[2]]
  if node.op == "Mul":
    kernel, bias = kernel * numbers[:, None, None, None], bias * numbers
  else:
    bias = bias + numbers
  new = [graph.builder.constant(array) for array in (kernel, bias)]
  node.become("Conv", [conv.inputs[0], *new], **conv.attributes)
  return True


def _offset(graph: _Graph, node: Node) -> bool:
  """x - a is x + (-a)."""
  if node.op != "Sub" or node.inputs[1] not in graph.constants:
    return False
  array = graph.constants[node.inputs[1]]
  if not np.issubdtype(array.dtype, np.floating):
    return False
  negative = graph.builder.constant(-array)
  node.become("Add", [node.inputs[0], negative])
  return True


def _in_a_row(graph: _Graph, node: Node) -> bool:
  """Of offsets and factors in a row one of each is left, the factor first."""
  pair = graph.split(node) if node.op in ("Add", "Mul") else None
  former = pair and graph.before(pair[0], "Add", "Mul")
  inner = former and graph.split(former)
  if not inner:
    return False
  a, b = graph.constants[inner[1]], graph.constants[pair[1]]
  if not (_is_small(a) and _is_small(b) and a.dtype == b.dtype):
    return False
  constant = graph.builder.constant
  if former.op == node.op:
    joined = a + b if node.op == "Add" else a * b
    node.become(node.op, [inner[0], constant(joined)])
  elif node.op == "Mul":
    former.become("Mul", [inner[0], constant(b)])
    node.become("Add", [pair[0], constant(a * b)])
  else:
    return False
  return True


def _is_small(array: np.ndarray) -> bool:
  """Whether it is of floats, one for all or one for each channel of a map."""
  if not np.issubdtype(array.dtype, np.floating):
    return False
  return array.size == 1 or (array.ndim == 4 and array.size == array.shape[1])


def _nothing(graph: _Graph, node: Node) -> bool:
  """x + 0 and x * 1 are x."""
  pair = graph.split(node) if node.op in ("Add", "Mul") else None
  if not pair or pair[0] not in graph.maker:
    return False
  array = graph.constants[pair[1]]
  if not _is_small(array) or (array != (node.op == "Mul")).any():
    return False
  if array.size > 1 and not graph.has_channels(pair[0], array.size):
    return False
  graph.replace(node.outputs[0], pair[0])
  return True


def _clipped(graph: _Graph, node: Node) -> bool:
  """min(relu(x), 6) is one node."""
  pair = graph.split(node) if node.op == "Min" else None
  relu = pair and graph.before(pair[0], "Relu")
  high = pair and graph.number(pair[1])
  if not relu or high is None or high < 0:
    return False
  dtype = graph.constants[pair[1]].dtype
  ends = [graph.builder.constant(n, dtype) for n in (0, high)]
  node.become("Clip", [relu.inputs[0], *ends])
  return True


def _hard_swish(graph: _Graph, node: Node) -> bool:
  """x * clip(x + 3, 0, 6) / 6."""
  pair = graph.split(node) if node.op == "Mul" else None
  sixth = pair and graph.number(pair[1])
  product = pair and graph.before(pair[0], "Mul")
  if not product or sixth is None or abs(sixth - 1 / 6) > 1e-7:
    return False
  for x, gate in (product.inputs, product.inputs[::-1]):
    clip = graph.before(gate, "Clip")
    ends = clip and [graph.number(name) for name in clip.inputs[1:]]
    shifted = ends == [0, 6] and graph.before(clip.inputs[0], "Add")
    parts = shifted and graph.split(shifted)
    if parts and parts[0] == x and graph.number(parts[1]) == 3:
      node.become("HardSwish", [x])
      return True
  return False


def _softmax(graph: _Graph, node: Node) -> bool:
  """exp(x - max(x)) / sum(exp(x - max(x)))."""
  if node.op != "Div":
    return False
  exp, total = (
    graph.made_by(name, op) for name, op in zip(node.inputs, _PARTS)
  )
  shifted = exp and graph.made_by(exp.inputs[0], "Sub")
  if not (shifted and total and total.inputs[0] == node.inputs[0]):
    return False
  largest, axes = graph.made_by(shifted.inputs[1], "ReduceMax"), total.inputs[1]
  if not largest or largest.inputs != [shifted.inputs[0], axes]:
    return False
  axis = graph.number(axes)
  reads = [graph.reads[n.outputs[0]] for n in (exp, total, shifted, largest)]
  if axis is None or reads != [2, 1, 1, 1]:
    return False
  node.become("Softmax", [shifted.inputs[0]], axis=int(axis))
  return True


_PARTS = "Exp", "ReduceSum"


def _cast_at_once(graph: _Graph, node: Node) -> bool:
  """The number of a channel, int64, is cast to the type of labels at once."""
  former = node.op == "Cast" and graph.before(node.inputs[0], "Cast")
  if not former or not graph.made_by(former.inputs[0], "ArgMax"):
    return False
  if (
    former.attributes["to"] != _INT32 or node.attributes["to"] not in _INTEGERS
  ):
    return False
  node.inputs = list(former.inputs)
  return True


_RULES: tuple[Callable[[_Graph, Node], bool], ...] = (
  _into_convolution,
  _clipped,
  _hard_swish,
  _softmax,
  _offset,
  _in_a_row,
  _cast_at_once,
  _nothing,
)
