"""From a traced program to an ONNX graph, primitive by primitive.

The program is not trusted but read: what is on no list here is an error that
names the primitive. Nothing is recognised by its name or its class, so a layer
that is derived from another is translated as what it does.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from deeplab_jax.export.jaxprs import UNCHANGED, inner_program
from deeplab_jax.export.onnx_axes import AXES
from deeplab_jax.export.onnx_builder import IMAGE, Builder, Node
from deeplab_jax.export.onnx_elementwise import (
  ELEMENTWISE,
  bind,
  translate,
)
from deeplab_jax.export.onnx_maps import MAPS
from deeplab_jax.export.onnx_tidy import tidy
from deeplab_jax.export.onnx_values import (
  Unsupported,
  Value,
  canonical,
  constant,
  full,
)

_NOT_COMPUTED = {"broadcast_in_dim", "dim_as_value", "squeeze", "transpose"}
"""Primitives that are translated though all operands are known."""
_TRANSLATED = {**AXES, **MAPS}


def build(
  program: core.ClosedJaxpr, variables: Sequence[Any], outputs: Sequence[str]
) -> Builder:
  """The graph of a program.

  Args:
    program: takes `variables` and pictures, uint8 (b, h, w, 3).
    variables: arrays, which become constants.
    outputs: names of the program's results, which the tensors get.

  Raises:
    Unsupported: the program does something that is on no list.
  """
  builder = Builder()
  picture = program.in_avals[-1]
  # Moved once: all that follows keeps channels before rows and columns.
  order = canonical(4)
  moved = builder.node("Transpose", [IMAGE], perm=list(order))
  image = Value(tuple(picture.shape), picture.dtype, order, tensor=moved)
  known = [constant(array) for array in jax.device_get(list(variables))]
  results = _follow(builder, program, [*known, image])
  for name, value in zip(outputs, results):
    tensor = builder.whole(value, tuple(range(len(value.shape))))
    builder.nodes.append(Node("Identity", [tensor], [name], {}))
  return tidy(builder, outputs)


def _follow(
  builder: Builder, program: core.ClosedJaxpr, values: Sequence[Value]
) -> list[Value]:
  """The values of a program's results, given those of its arguments."""
  jaxpr = program.jaxpr
  known = dict(zip(jaxpr.invars, values, strict=True))
  known |= {v: constant(c) for v, c in zip(jaxpr.constvars, program.consts)}

  def value_of(atom):
    if isinstance(atom, core.Literal):
      return constant(np.asarray(atom.val, atom.aval.dtype))
    return known[atom]

  for step in jaxpr.eqns:
    found = _after(builder, step, [value_of(atom) for atom in step.invars])
    known.update(zip(step.outvars, found, strict=True))
  return [value_of(atom) for atom in jaxpr.outvars]


def _after(builder: Builder, step: Any, values: list[Value]) -> list[Value]:
  """The values of a step's results."""
  name = step.primitive.name
  inner = inner_program(step)
  if inner is not None:
    return _follow(builder, inner, values)
  if name in UNCHANGED:
    return values
  try:
    if name in ELEMENTWISE:
      return translate(builder, step, values)
    if name not in _NOT_COMPUTED and _is_known(step, values):
      arrays = [full(value) for value in values]
      return [constant(array) for array in bind(step, arrays)]
    if name in _TRANSLATED:
      return _TRANSLATED[name](builder, step, values)
  except Unsupported as error:
    raise Unsupported(f"{error} (by the primitive {name})") from None
  raise Unsupported(f"the primitive {name}")


def _is_known(step: Any, values: list[Value]) -> bool:
  """Whether a step can be computed now."""
  shapes = [v.shape for v in values] + [v.aval.shape for v in step.outvars]
  is_fixed = all(isinstance(n, int) for shape in shapes for n in shape)
  return is_fixed and all(value.is_constant for value in values)
