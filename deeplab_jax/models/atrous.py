"""Output stride by atrous convolution in place of striding (section 3.1)."""

import itertools
from collections.abc import Sequence
from typing import Literal

RatesFrom = Literal["next_unit", "same_unit", "next_stage"]


def atrous_plan(
  strides: Sequence[int],
  output_stride: int,
  root_stride: int = 1,
  rates_from: RatesFrom = "next_unit",
  stages: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
  """The stride and atrous rate each unit of a backbone runs with.

  Once the features have reached `output_stride`, a unit runs with stride 1 and
  the present rate, and only the units after it take the rate multiplied by the
  stride it lost. Some networks of torch differ in where that rate begins.

  Args:
    strides: of the units as designed, in order.
    output_stride: image pixels per feature pixel, at most.
    root_stride: of what runs before the first unit.
    rates_from: what takes the multiplied rate first: the unit after the one
      that lost its stride, that unit itself, or the stage after its own.
    stages: of the units, equal within a stage; by default one begins with every
      unit that has a stride.

  Returns:
    `(stride, rate)` per unit.
  """
  plan, present, rate, later = [], root_stride, 1, 1
  if stages is None:
    stages = list(itertools.accumulate(stride > 1 for stride in strides))
  for i, stride in enumerate(strides):
    if i > 0 and stages[i] != stages[i - 1]:
      rate, later = rate * later, 1
    if present != output_stride:
      plan.append((stride, rate))
      present *= stride
    elif rates_from == "next_stage":
      plan.append((1, rate))
      later *= stride
    elif rates_from == "same_unit":
      rate *= stride
      plan.append((1, rate))
    else:
      plan.append((1, rate))
      rate *= stride
  return plan
