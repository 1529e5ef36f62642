"""ONNX files: a traced network as one, checked, with what it is beside it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from deeplab_jax.export import operations, program
from deeplab_jax.export.extras import needs
from deeplab_jax.export.onnx_builder import IMAGE, Builder
from deeplab_jax.export.onnx_elementwise import ONNX_TYPES
from deeplab_jax.export.onnx_graph import build
from deeplab_jax.export.onnx_values import Unsupported
from deeplab_jax.inference.folding import fold
from deeplab_jax.inference.fusion import label_dtype
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import DeepLab
from deeplab_jax.models.ops.whole import replaced

if TYPE_CHECKING:
  import onnx

OPSET = 18
_IR = 9  # of ONNX 1.14, which knew opset 18


def graph_of(
  model: DeepLab,
  variables: Any,
  protocol: Protocol,
  outputs: Sequence[str],
  size: tuple[int, int] | None = None,
  thresholds: Sequence[float] | None = None,
) -> Builder:
  """The graph of a network.

  Args:
    model: the network.
    variables: its `{"params", "batch_stats"}`.
    protocol: how pictures are brought before it.
    outputs: of `program.OUTPUTS`.
    size: height and width of the pictures; None for any.
    thresholds: of a model whose classes overlap.

  Raises:
    ValueError: the network does something that ONNX files are not made of here,
      or that depends on the size.
  """
  folded = fold(model, variables)
  run = program.program_fn(model, protocol, outputs, thresholds)
  images = program.abstract_images(
    size, None, model.channels, model.image_dtype
  )
  with program.tracing(model, protocol, size), replaced(operations.MARKED):
    traced = jax.make_jaxpr(run)(folded, images)
  try:
    return build(traced, jax.tree.leaves(folded), outputs)
  except Unsupported as error:
    nearest = "--format stablehlo" if size else "--size HxW, --format stablehlo"
    raise ValueError(
      f"the network does what format onnx cannot express here: {error}; "
      f"nearest is {nearest}"
    ) from None


def model_of(
  graph: Builder,
  model: DeepLab,
  outputs: Sequence[str],
  metadata: Mapping[str, str],
  size: tuple[int, int] | None = None,
  overlap: bool = False,
) -> "onnx.ModelProto":
  """A graph as ONNX has it, checked.

  Args:
    graph: of `graph_of`.
    model: its network.
    outputs: those of the graph's that the file has.
    metadata: what else is to stand in the file.
    size: of the pictures.
    overlap: whether its classes do: labels are then of each.
  """
  onnx = needs("onnx")
  helper = onnx.helper
  height, width = size or ("height", "width")
  image = helper.make_tensor_value_info(
    IMAGE,
    ONNX_TYPES[np.dtype(model.image_dtype)],
    ["batch", height, width, model.channels],
  )
  results = []
  for name in outputs:
    shape = ["batch", height, width]
    dtype = np.uint8 if overlap else label_dtype(model.num_classes)
    if name != "labels":
      dtype = np.float32
    if name != "labels" or overlap:
      shape = [*shape, model.num_classes]
    results.append(
      helper.make_tensor_value_info(name, ONNX_TYPES[np.dtype(dtype)], shape)
    )
  nodes = [
    helper.make_node(
      n.op, n.inputs, n.outputs, name=n.outputs[0], **n.attributes
    )
    for n in graph.nodes
  ]
  constants = [
    onnx.numpy_helper.from_array(array, name)
    for name, array in graph.constants.items()
  ]
  made = helper.make_model(
    helper.make_graph(nodes, "deeplab_jax", [image], results, constants),
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=_IR,
    producer_name="deeplab_jax",
  )
  helper.set_model_props(made, dict(metadata))
  onnx.checker.check_model(made, full_check=True)
  return made


def metadata_of(facts: Mapping[str, Any]) -> dict[str, str]:
  """`facts` as the strings that ONNX files hold: JSON of what is no string."""
  return {
    name: value if isinstance(value, str) else json.dumps(value)
    for name, value in facts.items()
    if value is not None
  }
