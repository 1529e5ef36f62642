"""COCO's run lengths: of 0 and 1 in turn, down the columns of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pixels(
  counts: Sequence[int] | str | bytes, size: tuple[int, int]
) -> np.ndarray | None:
  """What run lengths cover, bool (h, w); None if they are of another size.

  Args:
    counts: lengths of runs, that of 0 first, or these as COCO packs them into
      text.
    size: height and width.

  Raises:
    ValueError: they are no run lengths.
  """
  if isinstance(counts, str):
    counts = counts.encode()
  runs = _unpacked(counts) if isinstance(counts, bytes) else np.array(counts)
  if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
    raise ValueError("run lengths that are no whole numbers")
  if (runs < 0).any() or runs.sum() != size[0] * size[1]:
    return None
  ones = np.arange(len(runs)) % 2 == 1
  return np.repeat(ones, runs).reshape(size, order="F")


def _unpacked(text: bytes) -> np.ndarray:
  """Runs in COCO's text.

  A character has 5 bits of a number, the lowest first, and one that says
  whether more follow; the highest bit of the last is the sign. From the fourth
  run on, numbers are differences to the run before the last.
  """
  codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
  if not len(codes):
    return codes
  if not ((codes >= 0) & (codes < 64)).all() or codes[-1] & 0x20:
    raise ValueError("run lengths that are damaged or cut off")
  last = np.flatnonzero(codes & 0x20 == 0)
  first = np.concatenate([[0], last[:-1] + 1])
  lengths = last - first + 1
  if lengths.max() > 12:
    raise ValueError("run lengths beyond 60 bits")
  place = np.arange(len(codes)) - np.repeat(first, lengths)
  runs = np.add.reduceat((codes & 0x1F) << 5 * place, first)
  runs -= np.where(codes[last] & 0x10, 1 << 5 * lengths, 0)
  for start in (1, 2):
    runs[start::2] = np.cumsum(runs[start::2])
  return runs
