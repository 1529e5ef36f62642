"""Operations on axes: to other shapes, parts, reductions.

Most of them only change which axis of a tensor is which of a variable.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from deeplab_jax.export.onnx_builder import Builder
from deeplab_jax.export.onnx_elementwise import cast, with_tensor
from deeplab_jax.export.onnx_values import (
  Axes,
  Unsupported,
  Value,
  canonical,
  full,
)

Step = Any


def _renamed(value: Value, step: Step, new: dict[int, int]) -> list[Value]:
  """`value` with axes that have other numbers, or None, in the result."""
  result = step.outvars[0].aval
  return [
    dataclasses.replace(
      value,
      shape=tuple(result.shape),
      axes=tuple(new.get(axis) for axis in value.axes),
      narrow=frozenset(new[axis] for axis in value.narrow if axis in new),
    )
  ]


def broadcast(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Nothing is repeated before an operation needs it."""
  del builder
  value, places = values[0], step.params["broadcast_dimensions"]
  new = dict(enumerate(places))
  (renamed,) = _renamed(value, step, new)
  shape = step.params["shape"]
  widened = {
    place
    for axis, place in new.items()
    if value.shape[axis] != shape[place]  # it was 1
  }
  return [dataclasses.replace(renamed, narrow=renamed.narrow | widened)]


def transpose(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """In name alone."""
  del builder
  order = step.params["permutation"]
  return _renamed(values[0], step, {old: new for new, old in enumerate(order)})


def squeeze(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """In name alone."""
  del builder
  gone = step.params["dimensions"]
  kept = [axis for axis in range(len(values[0].shape)) if axis not in gone]
  return _renamed(values[0], step, {old: new for new, old in enumerate(kept)})


def reshape(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Axes of length 1 come and go in name alone."""
  value, new = values[0], step.params["new_sizes"]
  old_long = [(i, n) for i, n in enumerate(value.shape) if not _is_one(n)]
  new_long = [(i, n) for i, n in enumerate(new) if not _is_one(n)]
  if [n for _, n in old_long] == [n for _, n in new_long]:
    places = {old: place for (old, _), (place, _) in zip(old_long, new_long)}
    return _renamed(value, step, places)
  order = tuple(range(len(value.shape)))
  shape = builder.sides(list(new))
  tensor = builder.node("Reshape", [builder.whole(value, order), shape])
  return [with_tensor(tensor, step.outvars[0].aval, tuple(range(len(new))))]


def _is_one(side: Any) -> bool:
  return isinstance(side, int) and side == 1


def _held(builder: Builder, value: Value, axes: set[int]) -> tuple[str, Axes]:
  """A tensor of `value` with `axes` in full length, and its axes."""
  is_there = axes <= set(value.axes) - value.repeated
  if value.is_constant or not is_there:
    return builder.whole(value), canonical(len(value.shape))
  return value.tensor, value.axes


def _narrow_of(value: Value, axes: Axes) -> frozenset[int]:
  return value.narrow if axes == value.axes else frozenset()


def _reduce(op: str) -> Callable:
  def reduce(builder, step, values):
    value, gone = values[0], set(step.params["axes"])
    tensor, axes = _held(builder, value, gone)
    places = [i for i, axis in enumerate(axes) if axis in gone]
    tensor = builder.node(
      op, [tensor, builder.constant(places, np.int64)], keepdims=1
    )
    return _without(step, value, gone, tensor, axes, _narrow_of(value, axes))

  return reduce


def _without(step, value, gone, tensor, axes, narrow) -> list[Value]:
  """The value of a tensor in which axes that are `gone` have length 1."""
  kept = [axis for axis in range(len(value.shape)) if axis not in gone]
  new = {old: place for place, old in enumerate(kept)}
  narrow = {new[axis] for axis in narrow if axis in new}
  axes = tuple(new.get(axis) for axis in axes)
  return [with_tensor(tensor, step.outvars[0].aval, axes, narrow)]


def argmax(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """The first of several equal ones."""
  value, (gone,) = values[0], step.params["axes"]
  tensor, axes = _held(builder, value, {gone})
  tensor = builder.node("ArgMax", [tensor], axis=axes.index(gone), keepdims=0)
  narrow = _narrow_of(value, axes)
  axes = tuple(axis for axis in axes if axis != gone)
  tensor = cast(builder, tensor, step.params["index_dtype"])
  return _without(step, value, {gone}, tensor, axes, narrow)


def cut(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """A slice."""
  value, settings = values[0], step.params
  strides = settings["strides"] or (1,) * len(value.shape)
  parts = {
    axis: (start, stop, stride)
    for axis, (start, stop, stride, side) in enumerate(
      zip(
        settings["start_indices"],
        settings["limit_indices"],
        strides,
        value.shape,
      )
    )
    if (start, stop, stride) != (0, side, 1)
  }
  return _sliced(builder, step, value, parts)


def _sliced(builder, step, value, parts: dict[int, tuple]) -> list[Value]:
  """Of each axis the part (start, stop, step)."""
  tensor, axes = _held(builder, value, set(parts))
  tensor = _slice(builder, tensor, axes, parts)
  narrow = _narrow_of(value, axes)
  return [with_tensor(tensor, step.outvars[0].aval, axes, narrow)]


def _slice(builder: Builder, tensor: str, axes: Axes, parts: dict) -> str:
  if not parts:
    return tensor
  starts, stops, steps = zip(*parts.values())
  places = [axes.index(axis) for axis in parts]
  return builder.node(
    "Slice",
    [
      tensor,
      builder.sides(list(starts)),
      builder.sides(list(stops)),
      builder.constant(places, np.int64),
      builder.constant(steps, np.int64),
    ],
  )


def gather(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Lines of one axis, or one block: slices of maps of any size are so."""
  value, indices = values
  numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
  rank, count = len(value.shape), len(step.outvars[0].aval.shape)
  chosen, gone = numbers.start_index_map, numbers.collapsed_slice_dims
  is_plain = not numbers.operand_batching_dims and (
    step.params["mode"] == jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
  )
  is_block = len(indices.shape) == 1 and len(numbers.offset_dims) == count
  if is_plain and indices.is_constant and is_block:
    starts = dict(zip(chosen, full(indices).tolist()))
    return _block(builder, step, value, starts, set(gone), sizes)
  others = tuple(axis for axis in range(rank) if axis not in chosen)
  is_plain &= len(indices.shape) == 2 and chosen == gone and len(chosen) == 1
  if not (is_plain and numbers.offset_dims == others and count == rank):
    raise Unsupported("pixels chosen one by one")
  tensor, axes = _held(builder, value, set(chosen))
  lines = builder.whole(indices)
  lines = builder.node("Squeeze", [lines, builder.constant([1], np.int64)])
  tensor = builder.node("Gather", [tensor, lines], axis=axes.index(chosen[0]))
  narrow = _narrow_of(value, axes)
  return [with_tensor(tensor, step.outvars[0].aval, axes, narrow)]


def _block(builder, step, value, starts, gone, sizes) -> list[Value]:
  """From `starts` on, by axis, so much as `sizes` say; without axes `gone`."""
  parts = {}
  for axis, (size, side) in enumerate(zip(sizes, value.shape)):
    start = starts.get(axis, 0)
    if (start, size) != (0, side):
      parts[axis] = (start, start + size, 1)
  tensor, axes = _held(builder, value, set(parts))
  tensor = _slice(builder, tensor, axes, parts)
  return _without(step, value, gone, tensor, axes, _narrow_of(value, axes))


def reverse(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Mirrored along some axes."""
  backwards = -1, int(np.iinfo(np.int64).min), -1
  parts = dict.fromkeys(step.params["dimensions"], backwards)
  return _sliced(builder, step, values[0], parts)


def pad(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """With one number, around."""
  value, number = values
  config = step.params["padding_config"]
  sides = [n for before, after, _ in config for n in (before, after)]
  is_plain = all(inner == 0 for *_, inner in config) and all(
    not isinstance(n, int) or n >= 0 for n in sides
  )
  if not is_plain:
    raise Unsupported(f"padding of {tuple(config)}")
  order = canonical(len(value.shape))
  ends = [config[axis][end] for end in (0, 1) for axis in order]
  inputs = [
    builder.whole(value),
    builder.sides(ends),
    builder.operand(number, ()),
  ]
  tensor = builder.node("Pad", inputs, mode="constant")
  return [with_tensor(tensor, step.outvars[0].aval, order)]


def concatenate(
  builder: Builder, step: Step, values: list[Value]
) -> list[Value]:
  """Along one axis."""
  order = canonical(len(values[0].shape))
  tensors = [builder.whole(value) for value in values]
  place = order.index(step.params["dimension"])
  tensor = builder.node("Concat", tensors, axis=place)
  return [with_tensor(tensor, step.outvars[0].aval, order)]


def split(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """Into parts along one axis."""
  tensor, axes = _held(builder, values[0], {step.params["axis"]})
  sizes = builder.sides(list(step.params["sizes"]))
  place = axes.index(step.params["axis"])
  count = len(step.outvars)
  names = builder.node("Split", [tensor, sizes], outputs=count, axis=place)
  narrow = _narrow_of(values[0], axes)
  return [
    with_tensor(name, variable.aval, axes, narrow)
    for name, variable in zip([names] if count == 1 else names, step.outvars)
  ]


def iota(builder: Builder, step: Step, values: list[Value]) -> list[Value]:
  """0, 1, ... along an axis, of a length that the picture tells."""
  del values
  settings = step.params
  side = settings["shape"][settings["dimension"]]
  ends = [builder.constant(n, np.int64) for n in (0, 1)]
  axis = builder.constant([0], np.int64)
  length = builder.node("Squeeze", [builder.sides([side]), axis])
  tensor = builder.node("Range", [ends[0], length, ends[1]])
  tensor = cast(builder, tensor, settings["dtype"])
  return [with_tensor(tensor, step.outvars[0].aval, (settings["dimension"],))]


def side_as_number(
  builder: Builder, step: Step, values: list[Value]
) -> list[Value]:
  """The length of an axis, to compute with."""
  del values
  axis = builder.constant([0], np.int64)
  tensor = builder.node("Squeeze", [builder.sides([step.params["dim"]]), axis])
  result = step.outvars[0].aval
  return [with_tensor(cast(builder, tensor, result.dtype), result, ())]


AXES: dict[str, Callable] = {
  "argmax": argmax,
  "broadcast_in_dim": broadcast,
  "concatenate": concatenate,
  "dim_as_value": side_as_number,
  "gather": gather,
  "iota": iota,
  "pad": pad,
  "reduce_max": _reduce("ReduceMax"),
  "reduce_min": _reduce("ReduceMin"),
  "reduce_prod": _reduce("ReduceProd"),
  "reduce_sum": _reduce("ReduceSum"),
  "reshape": reshape,
  "rev": reverse,
  "slice": cut,
  "split": split,
  "squeeze": squeeze,
  "transpose": transpose,
}
"""Functions of builder, step and values to values, by primitive."""
