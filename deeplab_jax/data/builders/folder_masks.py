"""What all masks of a user's folder hold, before anything is decided."""

import dataclasses
import functools
from collections.abc import Sequence

import tqdm

from deeplab_jax.data.builders import blending, masks
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.builders.blending import Blending
from deeplab_jax.data.builders.faults import BadExample
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
  tree: Tree, paths: Sequence[str], nodata: float | None
) -> dict[str, Found]:
  """What each mask that can be read holds, by path."""
  look = functools.partial(_look, tree, nodata)
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
  counts = mask.counts()
  if len(counts) > _MOST_VALUES:
    counts = {value: counts[value] for value in sorted(counts)[:_MOST_VALUES]}
  declares = 0 if mask.unknown is None else int(mask.unknown.sum())
  codes = masks.codes_of(mask.pixels) if mask.is_colour else mask.pixels
  solid = frozenset(masks.solid(codes)[:_MOST_VALUES])
  sample = dataclasses.replace(mask, pixels=mask.pixels[:1, :1], unknown=None)
  meeting = blending.measure(mask.pixels)
  return Found(file, sample, counts, declares, solid, meeting)
