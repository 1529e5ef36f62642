"""What all masks of a user's folder hold, before anything is decided."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tqdm

from deeplab_jax.data.builders import blending, mask_windows, masks
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.builders.blending import Blending
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.mask_windows import Windows
from deeplab_jax.data.builders.masks import Mask
from deeplab_jax.data.builders.trees import Tree

_MOST_VALUES = 4096  # of a mask that are kept: there cannot be more classes


@dataclasses.dataclass(frozen=True)
class Found:
  """What one mask holds.

  Attributes:
    file: of the mask, for messages.
    mask: the mask, without its pixels but one.
    counts: pixels of each of its numbers, or of the code of each colour.
    declares: how many pixels are declared as no-data.
    solid: the numbers or codes that fill a square of 3 x 3 pixels somewhere.
    blending: how its regions meet.
  """

  file: str
  mask: Mask
  counts: dict[int, int]
  declares: int
  solid: frozenset[int]
  blending: Blending

  def colors(self) -> set[int | None]:
    """Codes of the colours that its pixels look like; None is no colour."""
    if self.mask.is_colour:
      return set(self.counts)
    return {self.mask.color_of(number) for number in self.counts}


def scan(
  tree: Tree,
  paths: Sequence[str],
  nodata: float | None,
  by_windows: bool = False,
) -> dict[str, Found]:
  """What each mask that can be read holds, by path; large ones may be read
  `by_windows`."""
  look = functools.partial(_look, tree, nodata)
  if by_windows:
    look = functools.partial(_look_through, tree, nodata)
  results = tqdm.tqdm(
    in_order(look, paths), "masks", len(paths), leave=False, disable=None
  )
  return {p: found for p, found in zip(paths, results) if found is not None}


def _look(tree: Tree, nodata: float | None, path: str) -> Found | None:
  file = tree.where(path)
  try:
    mask = masks.decode(file, tree.read(path), nodata)
  except BadExample:
    return None
  codes = masks.codes_of(mask.pixels) if mask.is_colour else mask.pixels
  solid = set(masks.solid(codes))
  meeting = blending.measure(mask.pixels)
  return _found(file, mask, mask.counts(), _declared(mask), solid, meeting)


def _found(
  file: str,
  mask: Mask,
  counts: dict[int, int],
  declares: int,
  solid: set[int],
  meeting: Blending,
) -> Found:
  """See `Found`; of too many values only the first are kept."""
  if len(counts) > _MOST_VALUES:
    counts = {value: counts[value] for value in sorted(counts)[:_MOST_VALUES]}
  sample = dataclasses.replace(mask, pixels=mask.pixels[:1, :1], unknown=None)
  kept = frozenset(sorted(solid)[:_MOST_VALUES])
  return Found(file, sample, counts, declares, kept, meeting)


def _declared(mask: Mask) -> int:
  """How many pixels are declared as no-data."""
  return 0 if mask.unknown is None else int(mask.unknown.sum())


def _look_through(tree: Tree, nodata: float | None, path: str) -> Found | None:
  """As `_look`, strip by strip where the mask allows it."""
  try:
    with mask_windows.opened(tree, path, nodata) as windows:
      if windows is not None:
        return _of_strips(tree.where(path), windows)
  except BadExample:
    return None
  return _look(tree, nodata, path)


def _of_strips(file: str, windows: Windows) -> Found:
  """What `_look` finds in the mask as a whole, where a strip may be grey and
  another have colours."""
  (height, width), is_rgb = windows.size, windows.header.bands == 3
  row_step, column_step = blending.step(height), blending.step(width)
  counts, solid, declares = collections.Counter(), set(), 0
  rows, columns, samples, top = [], [], [], 0
  for above, mask in windows.strips(shared=2):
    samples.append(mask)
    pixels = _codes(mask, is_rgb)
    solid |= set(masks.solid(pixels))
    known = slice(above, None)
    own = pixels[known]
    declared = None if mask.unknown is None else mask.unknown[known]
    declares += 0 if declared is None else int(declared.sum())
    values = own if declared is None else own[~declared]
    counts.update(dict(zip(*(x.tolist() for x in _unique(values)))))
    rows.append(own[-top % row_step :: row_step])
    columns.append(own[:, ::column_step])
    top += len(own)
    samples = [_first(samples)]
  meeting = blending.of_lines(
    *(_bands(np.concatenate(lines), is_rgb) for lines in (rows, columns))
  )
  mask, found = samples[0], dict(sorted(counts.items()))
  if is_rgb and not mask.is_colour:  # greys are numbers
    found = {code & 255: count for code, count in found.items()}
    solid = {code & 255 for code in solid}
  return _found(file, mask, found, declares, solid, meeting)


def _first(samples: list[Mask]) -> Mask:
  """A pixel of the first mask that has colours, or else of the first."""
  chosen = next((m for m in samples if m.is_colour), samples[0])
  return dataclasses.replace(
    chosen, pixels=chosen.pixels[:1, :1].copy(), unknown=None
  )


def _codes(mask: Mask, is_rgb: bool) -> np.ndarray:
  """Numbers (h, w), or the codes of colours, those of greys as well."""
  if mask.is_colour:
    return masks.codes_of(mask.pixels)
  return mask.pixels.astype(np.int32) * 0x010101 if is_rgb else mask.pixels


def _unique(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Different values, and how often each is there."""
  if values.dtype != np.uint8:
    return np.unique(values, return_counts=True)
  counts = np.bincount(values.ravel(), minlength=256)
  found = np.flatnonzero(counts)
  return found, counts[found]


def _bands(codes: np.ndarray, is_rgb: bool) -> np.ndarray:
  """The colours (h, w, 3) of codes; numbers stay as they are."""
  if not is_rgb:
    return codes
  return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)
