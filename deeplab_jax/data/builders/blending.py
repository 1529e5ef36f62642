"""Masks that were resized or compressed as if they were photographs.

Smoothing puts values between those of two regions along their boundary: 0, 4,
9, 12 where there was 0, 0, 12, 12. A sound mask goes from region to region at
once, or through thin parts of any value.
"""

import dataclasses

import numpy as np

_THIN = 3  # pixels; a run this short may be the product of smoothing
_FEWEST = 10  # blended ends that are no accident
_LINES = 128  # rows, and columns, looked at


@dataclasses.dataclass(frozen=True)
class Blending:
  """How the regions of one mask end, along rows and columns.

  Attributes:
    ends: how often a region ends with room for values between it and the next.
    thin: how often a thin part follows.
    blended: how often that lies, in value, between its neighbours.
    between: how many different values such parts have.
  """

  ends: int
  thin: int
  blended: int
  between: int

  @property
  def share(self) -> float:
    """Blended ends of all: up to 0.06 in masks of CamVid, Cityscapes, ADE20K
    and VOC, 0.25 to 1 after a smooth resize."""
    return self.blended / max(self.ends, 1)

  @property
  def is_suspect(self) -> bool:
    """Whether the mask was smoothed. Of noise a third is between by chance."""
    blended = self.blended
    return blended >= _FEWEST and self.share > 0.12 and 2 * blended > self.thin

  def __str__(self) -> str:
    """What to say of a mask that is suspect."""
    return (
      f"{self.share:.0%} of its boundaries pass through values between "
      f"({self.between} of them)"
    )


def measure(mask: np.ndarray) -> Blending:
  """Looks at some rows and columns of values (h, w) or colours (h, w, 3)."""
  return of_lines(mask[:: step(len(mask))], mask[:, :: step(mask.shape[1])])


def step(count: int) -> int:
  """Of `count` rows, or columns, `measure` looks at each so-manyth."""
  return max(count // _LINES, 1)


def of_lines(rows: np.ndarray, columns: np.ndarray) -> Blending:
  """What `measure` finds in some rows (n, w) or (n, w, 3) of a mask, and in
  some columns (h, n) or (h, n, 3)."""
  across, along = (
    lines.reshape(*lines.shape[:2], -1).astype(np.int32)
    for lines in (rows, columns)
  )
  parts = [_of_lines(across), _of_lines(along.transpose(1, 0, 2))]
  ends, thin, blended = np.sum([counts for counts, _ in parts], axis=0).tolist()
  between = np.concatenate([found for _, found in parts])
  return Blending(ends, thin, blended, len(np.unique(between, axis=0)))


def _of_lines(values: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
  """(ends, thin, blended) of `Blending`, and the values between."""
  run, row, length = _runs(values)
  is_thin = length <= _THIN
  is_end = ~is_thin[:-1] & (row[:-1] == row[1:])
  is_blended = is_end & (_is_between(run, row) & is_thin)[1:]
  has_room = np.abs(run[:-1] - run[1:]).max(1, initial=0) >= 2
  counts = (
    int((is_end & has_room | is_blended).sum()),
    int((is_end & is_thin[1:]).sum()),
    int(is_blended.sum()),
  )
  return counts, np.unique(run[1:][is_blended], axis=0)


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
