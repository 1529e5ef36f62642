"""From a traced program of one size to TensorFlow's operations.

As `onnx_graph` reads it, primitive by primitive; axes stay as they are, since
TensorFlow and LiteRT, too, keep channels last. Broadcast axes stay 1 as long as
operations repeat them by themselves, so that a bias remains a vector.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from deeplab_jax.export.jaxprs import UNCHANGED, inner_program
from deeplab_jax.export.onnx_elementwise import bind
from deeplab_jax.export.onnx_values import Unsupported
from deeplab_jax.export.tf_operations import ELEMENTWISE, OTHERS

Operand = Any  # an array that is known, or a tensor


def follow(
  tf: Any, program: core.ClosedJaxpr, operands: Sequence[Operand]
) -> list[Operand]:
  """The results of a program.

  Args:
    tf: the module tensorflow.
    program: of fixed shapes.
    operands: its arguments.

  Raises:
    Unsupported: the program does something that is on no list.
  """
  jaxpr = program.jaxpr
  known = dict(zip(jaxpr.invars, operands, strict=True))
  known |= dict(zip(jaxpr.constvars, map(np.asarray, program.consts)))

  def value_of(atom):
    is_literal = isinstance(atom, core.Literal)
    return np.asarray(atom.val, atom.aval.dtype) if is_literal else known[atom]

  for step in jaxpr.eqns:
    found = _after(tf, step, [value_of(atom) for atom in step.invars])
    known.update(zip(step.outvars, found, strict=True))
  return [_whole(tf, value_of(atom), atom.aval.shape) for atom in jaxpr.outvars]


def _after(tf: Any, step: Any, operands: list[Operand]) -> list[Operand]:
  """The results of a step."""
  name = step.primitive.name
  inner = inner_program(step)
  if inner is not None:
    shapes = [atom.aval.shape for atom in step.invars]
    whole = [_whole(tf, x, s) for x, s in zip(operands, shapes, strict=True)]
    return follow(tf, inner, whole)
  if name in UNCHANGED:
    return operands
  if name == "broadcast_in_dim":
    return [_with_ones(tf, step, operands[0])]
  is_known = all(isinstance(x, np.ndarray) for x in operands)
  if name in ELEMENTWISE:
    if is_known:
      return bind(step, np.broadcast_arrays(*operands))
    return [ELEMENTWISE[name](tf, step, *operands)]
  whole = [_whole(tf, x, a.aval.shape) for x, a in zip(operands, step.invars)]
  if is_known:
    return bind(step, whole)
  if name not in OTHERS:
    raise Unsupported(f"the primitive {name}")
  try:
    found = OTHERS[name](tf, step, *whole)
  except Unsupported as error:
    raise Unsupported(f"{error} (by the primitive {name})") from None
  return list(found) if step.primitive.multiple_results else [found]


def _with_ones(tf: Any, step: Any, x: Operand) -> Operand:
  """`x` with its axes where they are to be, and axes of length 1."""
  shape = [1] * len(step.params["shape"])
  for axis, place in enumerate(step.params["broadcast_dimensions"]):
    shape[place] = x.shape[axis]
  is_known = isinstance(x, np.ndarray)
  return x.reshape(shape) if is_known else tf.reshape(x, shape)


def _whole(tf: Any, x: Operand, shape: Sequence[int]) -> Operand:
  """`x` of full length along all axes."""
  if tuple(x.shape) == tuple(shape):
    return x
  is_known = isinstance(x, np.ndarray)
  return (np if is_known else tf).broadcast_to(x, shape)


def arrays_of(variables: Any) -> list[np.ndarray]:
  """The leaves of variables, as arrays."""
  return [np.asarray(array) for array in jax.tree.leaves(variables)]
