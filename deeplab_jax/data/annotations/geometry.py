"""Outlines: whether they cross themselves, how thick they are, what they make.

All are float arrays (n, 2) of x and y.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_SAGITTA = 0.02  # pixels between a circle and the polygon drawn for it
_MOST_PAIRS = 1 << 22  # of edges compared at a time


def ring(points: object) -> np.ndarray:
  """Points of a polygon as an array (n, 2).

  Raises:
    ValueError, TypeError: they are none.
  """
  array = np.asarray(points, float)
  if array.size == 0:
    return np.zeros((0, 2))
  return array.reshape(-1, 2) if array.ndim == 1 else array[:, :2]


def crosses_itself(ring: np.ndarray) -> bool:
  """Whether two edges cross at a point inside both.

  Edges that touch, or lie on each other as those of a bridge to a hole do, do
  not cross.
  """
  start, end = ring, np.roll(ring, -1, 0)
  order = np.argsort(np.minimum(start[:, 0], end[:, 0]), kind="stable")
  start, end = start[order], end[order]
  left = np.minimum(start[:, 0], end[:, 0])
  right = np.maximum(start[:, 0], end[:, 0])
  # Only edges that begin left of where this one ends can cross it.
  until = np.searchsorted(left, right, "right")
  counts = np.maximum(until - np.arange(len(left)) - 1, 0)
  first = 0
  while first < len(counts):
    last = first + 1
    last += int((counts[last:].cumsum() + counts[first] < _MOST_PAIRS).sum())
    i = np.repeat(np.arange(first, last), counts[first:last])
    begins = np.cumsum(counts[first:last]) - counts[first:last]
    j = i + 1 + np.arange(len(i)) - np.repeat(begins, counts[first:last])
    if _cross(start[i], end[i], start[j], end[j]).any():
      return True
    first = last
  return False


def thickness(ring: np.ndarray) -> float:
  """The shorter side of the rectangle of the ring's area and length."""
  half = _length(ring) / 2
  return (half - np.sqrt(max(half**2 - 4 * abs(_area(ring)), 0))) / 2


def ellipse(
  center: Sequence[float], radii: Sequence[float], degrees: float = 0.0
) -> np.ndarray:
  """The outline (n, 2) of an ellipse whose axes are turned by an angle."""
  radius = max(*radii, 1e-6)
  ratio = min(_SAGITTA / radius, 1.0)
  count = max(int(np.ceil(np.pi / np.arccos(1 - ratio))), 12)
  angles = np.arange(count) * (2 * np.pi / count)
  points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)
  return turned(points, degrees) + np.asarray(center)


def rectangle(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
  """The outline (4, 2) of a rectangle of which two opposite corners are given.

  The corners may come in any order.
  """
  (x0, y0), (x1, y1) = first, second
  return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
  """`points` (n, 2) turned about (0, 0), clockwise as pictures are seen."""
  angle = np.deg2rad(degrees)
  cos, sin = np.cos(angle), np.sin(angle)
  return points @ np.array([(cos, sin), (-sin, cos)])


def strip(line: np.ndarray, width: float) -> list[np.ndarray]:
  """Outlines that together are a line of `width`, round where it bends."""
  parts = []
  for start, end in itertools.pairwise(line):
    along = end - start
    length = np.hypot(*along)
    if length:
      across = np.array([-along[1], along[0]]) * (width / 2 / length)
      corners = (start + across, end + across, end - across, start - across)
      parts.append(np.array(corners))
  parts += [ellipse(point, (width / 2, width / 2)) for point in line[1:-1]]
  return parts


def _cross(
  a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray
) -> np.ndarray:
  """Whether each edge from a to b crosses that from c to d (all (n, 2))."""

  def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    one, other = q - p, r - p
    return np.sign(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])

  return (side(a, b, c) * side(a, b, d) < 0) & (
    side(c, d, a) * side(c, d, b) < 0
  )


def _area(ring: np.ndarray) -> float:
  """Signed area (the shoelace formula)."""
  x, y = (ring - ring[0]).T
  return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _length(ring: np.ndarray) -> float:
  return float(np.hypot(*(np.roll(ring, -1, 0) - ring).T).sum())
