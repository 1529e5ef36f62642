"""A network kept to one corner of its canvas, where that is proven possible.

`models.ops.canvas` says what that means and how layers take part. What lies
between those layers is whatever a network's author wrote. It is not trusted but
read: `apply_on` traces the network and follows the maps of the image through
the program. Each operation on them must look at single pixels or stand within a
layer that knows the canvas; anything else, known or not, raises
`NotConfinable`, and the network is compiled for every crop by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from deeplab_jax.models.ops import canvas
from deeplab_jax.models.ops.canvas import Canvas, NotConfinable

# Operations on one pixel of each operand, by the names of JAX's primitives.
_POINTWISE = {
  *("abs", "add", "add_any", "and", "bitcast_convert_type", "ceil", "clamp"),
  *("convert_element_type", "copy", "copy_p", "cos", "div", "eq", "erf"),
  *("erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt"),
  *("integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max"),
  *("min", "mul", "name", "ne", "neg", "not", "optimization_barrier", "or"),
  *("pow", "reduce_precision", "rem", "round", "rsqrt", "select_n"),
  "sharding_constraint",
  *("shift_left", "shift_right_arithmetic", "shift_right_logical", "sign"),
  *("sin", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor"),
}
_REDUCTIONS = {
  *("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or"),
  *("reduce_prod", "reduce_sum", "reduce_xor"),
}
_SCANS = {"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"}
# Rows and columns, in strides, of the canvases that a network is read on: far
# apart, so that a choice by size shows.
_SIZES = (4, 6), (41, 37)
# What a value of the program is.
_MAP = "map"  # (b, h, w, ...), each pixel's value from that pixel of others
_LAYER = "layer"  # within a layer that knows the canvas
_UNIFORM = "uniform"  # no part of the image, and the same for all pixels
# Values without a mark, such as parameters, are no part of the image either.


def apply_on(
  model: nn.Module,
  variables: Any,
  images: jax.Array,
  crops: jax.Array | None,
) -> jax.Array:
  """Logits of preprocessed `images` (b, h, w, c), as if cut to `crops`.

  Args:
    model: a `DeepLab`.
    variables: its `{"params", "batch_stats"}`.
    images: what lies outside the crops is not read.
    crops: int32 (b, 2), multiples of the model's output stride plus 1, as the
      images' sides are; None for the whole images.

  Returns:
    float32 (b, ceil(h / s), ceil(w / s), num_classes), s the logits stride;
    zero outside the crops.

  Raises:
    NotConfinable: with crops, if the model cannot be kept to them.
  """
  if crops is None:
    return model.apply(variables, images, train=False)
  program, _ = _read(model, variables, images, crops)
  arguments = (*jax.tree.leaves(variables), images, crops)
  (logits,) = core.jaxpr_as_fun(program)(*arguments)
  place = Canvas(crops, images.shape[1:3], model.output_stride)
  return jnp.where(place.inside(logits.shape[1:3]), logits, 0)


def why_not_confinable(model: nn.Module, variables: Any) -> str | None:
  """Why `model` (a `DeepLab`) cannot be kept to a crop; None if it can.

  It is traced, in a second or two, on two canvases: what differs between them
  but the size of maps, such as a number made of it, depends on the canvas.

  Args:
    model: the network.
    variables: its variables, or their shapes.
  """
  if model.half_pixel:
    return "it reads pixels at places that follow from the size of its input"
  if not model.crop_stride:
    return "it takes pictures as they are, of any size"
  stride, channels = model.output_stride, model.channels
  sizes = ([n * stride + 1 for n in size] for size in _SIZES)
  canvases = (
    jax.ShapeDtypeStruct((1, *size, channels), jnp.float32) for size in sizes
  )
  try:
    first, second = (
      _read(model, variables, images, None)[1] for images in canvases
    )
  except NotConfinable as reason:
    return str(reason)
  return None if first == second else "it depends on the size of its input"


def _read(model, variables, images, crops) -> tuple[core.ClosedJaxpr, list]:
  """The program of `model` on a canvas, and its steps, for comparison.

  Without crops, what lies outside them is not replaced: to be read alone.

  Raises:
    NotConfinable: it does not keep to the crops.
  """
  size, grain = images.shape[1:3], model.output_stride

  def apply(variables, images, crops):
    with canvas.on(Canvas(crops, size, grain)):
      images = canvas.leave(canvas.enter(images))
      return model.apply(variables, images, train=False)

  program = jax.make_jaxpr(apply)(variables, images, crops)
  reader = _Reader(Canvas(crops, size, grain), program)
  marks = [*[None] * len(jax.tree.leaves(variables)), _MAP]
  marks += [None] * (crops is not None)
  if reader.follow(program.jaxpr, marks) != [_MAP]:
    raise NotConfinable("its result is not a map")
  return program, reader.steps


class _Reader:
  """Follows maps through a program.

  Attributes:
    steps: what was done to them, and with which numbers, in order.
  """

  def __init__(self, place: Canvas, program: core.ClosedJaxpr):
    self._place = place
    self._constants = dict(zip(program.jaxpr.constvars, program.consts))
    self.steps: list = []

  def follow(self, program: core.Jaxpr, marks: Sequence[str | None]) -> list:
    """The marks of a program's results, given those of its arguments."""
    known = dict(zip(program.invars, marks))

    def mark_of(atom):
      mark = None if isinstance(atom, core.Literal) else known.get(atom)
      return _UNIFORM if mark is None and not any(_sides(atom)) else mark

    for step in program.eqns:
      after = self._after(step, [mark_of(atom) for atom in step.invars])
      for result, mark in zip(step.outvars, after):
        if mark == _MAP:
          scale = self._place.scale(result.aval.shape[1:3])
          self.steps.append((scale,))
        known[result] = mark
    return [mark_of(atom) for atom in program.outvars]

  def _after(self, step, marks: list[str | None]) -> list[str | None]:
    """The marks of an operation's results.

    Raises:
      NotConfinable: it may look around.
    """
    name = step.primitive.name
    count = len(step.outvars)
    if name == "name" and step.params["name"].startswith(canvas.ENTER):
      self.steps.append((step.params["name"],))
      return [_LAYER]
    if name == "name" and step.params["name"] == canvas.LEAVE:
      return [_MAP]
    if _LAYER in marks:
      return [_LAYER] * count
    self.steps.append((name, *map(self._number, step.invars)))
    if name == "cond":
      return self._after_branches(step, marks)
    inner = _inner_program(step)
    if inner is not None:
      return self.follow(inner, marks)
    if name in _POINTWISE:
      if set(marks) <= {_MAP, _UNIFORM}:
        return [_MAP if _MAP in marks else _UNIFORM] * count
      if _MAP not in marks:
        return [None] * count
    elif _MAP not in marks:
      return [_UNIFORM if _becomes_uniform(step, marks) else None] * count
    elif name in _RULES and _RULES[name](step, marks):
      return [_MAP] * count
    operands = ", ".join(
      f"{v.aval.str_short()} ({m})" for v, m in zip(step.invars, marks)
    )
    raise NotConfinable(f"it looks around by {name} of {operands}")

  def _number(self, atom) -> bytes | None:
    """The value of a literal or a constant of the program."""
    value = (
      self._constants.get(atom) if isinstance(atom, core.Var) else atom.val
    )
    return None if value is None else np.asarray(value).tobytes()

  def _after_branches(self, step, marks):
    """Of a choice that no map decides, as that of a platform."""
    if marks[0] in (_MAP, _LAYER):
      raise NotConfinable("a map decides what is computed")
    ends = {
      tuple(self.follow(branch.jaxpr, marks[1:]))
      for branch in step.params["branches"]
    }
    if len(ends) != 1:
      raise NotConfinable("its branches treat maps differently")
    return list(ends.pop())


def _sides(atom) -> list[bool]:
  """Whether values may differ along b, h and w: the axes longer than 1."""
  return [side > 1 for side in atom.aval.shape[:3]]


def _becomes_uniform(step, marks) -> bool:
  """Whether a value that is no map is spread over pixels."""
  if step.primitive.name != "broadcast_in_dim":
    return False
  shape = step.invars[0].aval.shape
  axes = zip(step.params["broadcast_dimensions"], shape)
  return marks[0] == _UNIFORM or all(axis >= 3 or n == 1 for axis, n in axes)


def _inner_program(step) -> core.Jaxpr | None:
  """The program that a step runs once with the step's own arguments."""
  if step.primitive.name in ("scan", "while"):
    return None
  for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    program = step.params.get(name)
    program = getattr(program, "jaxpr", program)
    if isinstance(program, core.Jaxpr) and (
      len(program.invars) == len(step.invars)
      and len(program.outvars) == len(step.outvars)
      and not program.constvars
    ):
      return program
  return None


# Each says whether a step leaves the axes b, h and w of its maps alone.


def _beyond(axes: int | Sequence[int]) -> bool:
  return all(axis >= 3 for axis in np.ravel(axes))


def _broadcasts(step, marks) -> bool:
  """To more channels, or one pixel to all."""
  del marks
  shape, new = step.invars[0].aval.shape, step.params["shape"]
  axes = tuple(step.params["broadcast_dimensions"][:3])
  one_or_all = all(n in (1, m) for n, m in zip(shape[1:3], new[1:3]))
  return axes == (0, 1, 2) and shape[0] == new[0] and one_or_all


def _concatenates(step, marks) -> bool:
  return set(marks) <= {_MAP, _UNIFORM} and _beyond(step.params["dimension"])


def _multiplies(step, marks) -> bool:
  """A matrix from the right, with the channels."""
  (left, _), (left_batch, _) = step.params["dimension_numbers"]
  return marks[0] == _MAP != marks[1] and _beyond(left) and not left_batch


def _pads(step, marks) -> bool:
  config = step.params["padding_config"][:3]
  return marks[1] != _MAP and all(tuple(p) == (0, 0, 0) for p in config)


def _reshapes(step, marks) -> bool:
  del marks
  shape, new = step.invars[0].aval.shape, step.params["new_sizes"]
  return len(new) >= 3 and tuple(new[:3]) == shape[:3]


def _slices(step, marks) -> bool:
  """Every so many pixels, from the first on; any channels."""
  del marks
  shape, stop = step.invars[0].aval.shape, step.params["limit_indices"]
  strides = step.params["strides"] or (1,)
  is_whole = not any(step.params["start_indices"][:3]) and stop[:3] == shape[:3]
  return is_whole and strides[0] == 1


def _transposes(step, marks) -> bool:
  del marks
  return tuple(step.params["permutation"][:3]) == (0, 1, 2)


def _only_beyond(parameter: str) -> Callable[[core.JaxprEqn, list], bool]:
  return lambda step, _: _beyond(step.params[parameter])


_RULES: dict[str, Callable[[core.JaxprEqn, list], bool]] = {
  "broadcast_in_dim": _broadcasts,
  "concatenate": _concatenates,
  "dot_general": _multiplies,
  "pad": _pads,
  "reshape": _reshapes,
  "rev": _only_beyond("dimensions"),
  "slice": _slices,
  "sort": _only_beyond("dimension"),
  "split": _only_beyond("axis"),
  "squeeze": _only_beyond("dimensions"),
  "transpose": _transposes,
  **dict.fromkeys(_REDUCTIONS, _only_beyond("axes")),
  **dict.fromkeys(_SCANS, _only_beyond("axis")),
}


def flip_within(x: jax.Array, crops: jax.Array | None) -> jax.Array:
  """Mirrors `x` (b, h, w, c) left to right within its `crops`.

  Args:
    x: any maps.
    crops: int32 (b, 2) height and width in pixels of `x`; None mirrors all of
      it. What lies outside is of no use afterwards.
  """
  mirrored = jnp.flip(x, 2)
  if crops is None:
    return mirrored
  shift = jax.vmap(lambda one, width: jnp.roll(one, width, axis=1))
  return shift(mirrored, crops[:, 1])
