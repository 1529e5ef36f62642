"""Overlapping windows over images too large for one run of the network.

Every pixel is decided by the window in which it lies farthest from the border,
so no sum over windows is kept: memory is the image, the result and one window.
Windows start at multiples of the pixels that every stride divides, so that
their features lie on the grid of the whole image's. What is farther from the
window's border than the network reaches is then as in the whole image, but for
image pooling, which averages over the window.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
  """One window along one axis.

  Attributes:
    start: first pixel of the window.
    first: first pixel that it decides.
    end: pixel after the last that it decides.
  """

  start: int
  first: int
  end: int


def spans(length: int, tile: int, margin: int, grain: int) -> list[Span]:
  """Cuts `length` pixels into windows of `tile` that overlap.

  Args:
    length: of the axis, in pixels.
    tile: of a window. The last one may reach beyond the end of the axis.
    margin: pixels next to a window's border that it leaves to its neighbours;
      below half of `tile`.
    grain: windows start at multiples of it.

  Returns:
    windows in order, whose decided parts divide the axis.
  """
  step = max((tile - 2 * margin) // grain, 1) * grain
  count = 1 + max(0, -(-(length - tile) // step))
  starts = [i * step for i in range(count)]
  # Halfway through each overlap.
  cuts = [start + (tile + step) // 2 for start in starts[:-1]]
  return [
    Span(start, first, end)
    for start, first, end in zip(starts, [0, *cuts], [*cuts, length])
  ]


def windows(
  size: tuple[int, int], tile: tuple[int, int], margin: int, grain: int
) -> Iterator[tuple[Span, Span]]:
  """All pairs of vertical and horizontal spans of an image of `size`."""
  axes = [
    spans(length, side, margin, grain) for length, side in zip(size, tile)
  ]
  return itertools.product(*axes)
