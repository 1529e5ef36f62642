"""Output stride by atrous convolution in place of striding (section 3.1)."""

from collections.abc import Sequence


def atrous_plan(
  strides: Sequence[int], output_stride: int, root_stride: int = 1
) -> list[tuple[int, int]]:
  """The stride and atrous rate each unit of a backbone runs with.

  Once the features have reached `output_stride`, a unit runs with stride 1 and
  the present rate, and only the units after it take the rate multiplied by the
  stride it lost.

  Args:
    strides: of the units as designed, in order.
    output_stride: image pixels per feature pixel, at most.
    root_stride: of what runs before the first unit.

  Returns:
    `(stride, rate)` per unit.
  """
  plan, present, rate = [], root_stride, 1
  for stride in strides:
    if present == output_stride:
      plan.append((1, rate))
      rate *= stride
    else:
      plan.append((stride, rate))
      present *= stride
  return plan
