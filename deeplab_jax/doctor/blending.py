"""Masks that were resized or compressed as if they were photographs.

Smoothing puts values between those of two regions along their boundary: 0, 4,
9, 12 where there was 0, 0, 12, 12. A sound mask goes from region to region at
once, or through thin parts of any value.
"""

import dataclasses

import numpy as np

_THIN = 3  # pixels; a run this short may be the product of smoothing
_LINES = 128  # rows, and columns, looked at


@dataclasses.dataclass(frozen=True)
class Blending:
  """How the regions of one mask meet, along rows and columns.

  Attributes:
    transitions: how often a region follows another with room for a value
      between.
    blended: how many of these go there through values between, in order.
    between: how many different values that takes.
  """

  transitions: int
  blended: int
  between: int

  @property
  def share(self) -> float:
    """Blended transitions of all: up to 0.05 in VOC, Cityscapes and CamVid,
    0.3 to 1 after any smooth resize."""
    return self.blended / max(self.transitions, 1)


def measure(mask: np.ndarray) -> Blending:
  """Looks at some rows and columns of values (h, w) or colours (h, w, 3)."""
  values = mask.reshape(*mask.shape[:2], -1).astype(np.int32)
  parts = [_of_lines(values), _of_lines(values.transpose(1, 0, 2))]
  between = np.concatenate([found for _, _, found in parts])
  return Blending(
    transitions=sum(transitions for transitions, _, _ in parts),
    blended=sum(blended for _, blended, _ in parts),
    between=len(np.unique(between, axis=0)),
  )


def _of_lines(values: np.ndarray) -> tuple[int, int, np.ndarray]:
  """Transitions, the blended ones, and the values these pass through."""
  values = values[:: max(len(values) // _LINES, 1)]
  run, row, length = _runs(values)
  is_thin = length <= _THIN
  is_between = _is_between(run, row) & is_thin
  wide = np.flatnonzero(~is_thin)
  first, second = wide[:-1], wide[1:]  # region after region
  has_room = np.abs(run[first] - run[second]).max(1, initial=0) >= 2
  is_transition = (row[first] == row[second]) & has_room
  outside = np.cumsum(~is_between)  # none in (first, second): all between
  is_blended = outside[np.maximum(second - 1, first)] == outside[first]
  is_blended &= is_transition & (second - first > 1)
  return (
    int(is_transition.sum()),
    int(is_blended.sum()),
    np.unique(run[is_between], axis=0),
  )


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Value (n, c), row and length of every run of equal pixels in a row."""
  _, columns, channels = values.shape
  flat = values.reshape(-1, channels)
  is_start = np.ones(len(flat), bool)
  is_start[1:] = (flat[1:] != flat[:-1]).any(1)
  is_start[::columns] = True
  start = np.flatnonzero(is_start)
  length = np.diff(np.append(start, len(flat)))
  return flat[start], start // columns, length


def _is_between(run: np.ndarray, row: np.ndarray) -> np.ndarray:
  """Whether each run's value lies between its neighbours', and is neither."""
  result = np.zeros(len(run), bool)
  before, here, after = run[:-2], run[1:-1], run[2:]
  low, high = np.minimum(before, after), np.maximum(before, after)
  result[1:-1] = ((low <= here) & (here <= high)).all(1)
  result[1:-1] &= (before != here).any(1) & (here != after).any(1)
  result[1:-1] &= row[:-2] == row[2:]
  return result
