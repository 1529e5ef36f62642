"""The run lengths in which Label Studio stores strokes of a brush.

A stream of bits, the highest of a byte first: 32 bits how many values follow,
5 bits how long a value is (less 1), four times 4 bits how long a count may be
(less 1). Then runs: 1 bit whether one value is repeated, 2 bits which length
the count has, the count (less 1), and the value, or as many values. The values
are red, green, blue and alpha of each pixel, row by row; alpha is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class _Bits:
  """Reads numbers of some bits, one after the other."""

  def __init__(self, values: Sequence[int]):
    data = np.array(values)
    if data.ndim != 1 or not ((data >= 0) & (data <= 255)).all():
      raise ValueError("run lengths that are no bytes")
    bits = np.unpackbits(data.astype(np.uint8))
    self._text = (bits + ord("0")).tobytes().decode()
    self._place = 0

  def take(self, count: int) -> int:
    end = self._place + count
    if end > len(self._text):
      raise ValueError("run lengths that are cut off")
    number = int(self._text[self._place : end], 2)
    self._place = end
    return number


def decode_brush(
  values: Sequence[int], size: tuple[int, int]
) -> np.ndarray | None:
  """Pixels (h, w) bool of a stroke; None if it is of another size.

  Args:
    values: bytes.
    size: height and width of the picture.

  Raises:
    ValueError: they are no such stream.
  """
  bits = _Bits(values)
  total = bits.take(32)
  if total != 4 * size[0] * size[1]:
    return None
  width = bits.take(5) + 1
  lengths = [bits.take(4) + 1 for _ in range(4)]
  runs, numbers, filled = [], [], 0
  while filled < total:
    is_repeated = bits.take(1)
    count = bits.take(lengths[bits.take(2)]) + 1
    filled += count
    if is_repeated:
      runs.append(count)
      numbers.append(bits.take(width))
    else:
      runs += [1] * count
      numbers += [bits.take(width) for _ in range(count)]
  if filled > total:
    raise ValueError("run lengths that are longer than they say")
  alpha = np.repeat(np.array(numbers), runs).reshape(*size, 4)[..., 3]
  return alpha > 0
