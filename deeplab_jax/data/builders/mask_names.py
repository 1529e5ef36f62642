"""How masks are called that are not called as their images.

x_mask.png, x.jpg.png, x_seg.png or mask_x.png for x.jpg, also x_gt.png for
x_image.jpg, mask_x.png for image_x.jpg, or x.png beside x.jpg: one pattern for
all files, which is found and said.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

# Endings of masks that lie beside their images.
_ENDINGS = (
  *("_mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt"),
  *("-mask", ".mask", "_annotation", "_labelids", "_labeltrainids", "_l"),
)
_Files = dict[str, str]


def matched(
  images: _Files, masks: _Files, suffixes: Sequence[str]
) -> tuple[_Files, _Files, str]:
  """Images and masks by names that they share, and the pattern in words.

  Args:
    images: their paths, by names that no mask has.
    masks: their paths, by name.
    suffixes: of files of pictures.

  Returns:
    What was given, and "", if there is no pattern.
  """
  best = images, masks, ""
  most = 0
  for ending, cut_image in [*_cuts(images), *_beginnings(images)]:
    for words, cut_mask in _mask_cuts(masks, suffixes):
      named = {cut_image(name): path for name, path in images.items()}
      masked = {cut_mask(name): path for name, path in masks.items()}
      whole = len(named) == len(images) and len(masked) == len(masks)
      count = len(named.keys() & masked.keys())
      if whole and count > most:
        most = count
        best = named, masked, f"masks are called {words} for {ending}"
  return best


def beside(files: _Files) -> tuple[_Files, _Files, str] | None:
  """The same of pictures in one place, of which some are masks; None if none.

  Masks of a pattern must be there for half of the images at least.
  """
  lower = {name.lower(): name for name in files}
  for ending in _ENDINGS:
    masks = {
      lower[low.removesuffix(ending)]: files[name]
      for low, name in lower.items()
      if low.endswith(ending) and low.removesuffix(ending) in lower
    }
    used = set(masks.values())
    images = {name: path for name, path in files.items() if path not in used}
    if masks and 2 * len(masks) >= len(images):
      return images, masks, f"masks are called *{ending} for *"
  return None


def png_beside(paths: Iterable[str]) -> tuple[_Files, _Files, str] | None:
  """The same of masks x.png beside x.jpg, where each .png is beside one."""
  images, masks = {}, {}
  for path in paths:
    stem, _, suffix = unicodedata.normalize("NFC", path).rpartition(".")
    (masks if suffix.lower() == "png" else images)[stem] = path
  if masks and masks.keys() <= images.keys() and 2 * len(masks) >= len(images):
    return images, masks, "masks are called *.png for *.jpg (or another suffix)"
  return None


def _cuts(names: Iterable[str]) -> list[tuple[str, Callable[[str], str]]]:
  """Ways to cut off an ending that all names have, the shortest first."""
  shared = _shared([name[::-1] for name in names])[::-1]
  starts = [match.start() for match in re.finditer(r"[-_. ]", shared)]
  endings = ["", *(shared[start:] for start in reversed(starts))]
  return [(f"*{end}", _without(end)) for end in endings]


def _mask_cuts(
  masks: _Files, suffixes: Sequence[str]
) -> list[tuple[str, Callable[[str], str]]]:
  """The same of masks: also a suffix of pictures, or a beginning."""

  def without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in suffixes else name

  cuts = _cuts(masks)
  cuts.append(("*.jpg (or another suffix)", without_suffix))
  return cuts + _beginnings(masks)


def _beginnings(names: Iterable[str]) -> list[tuple[str, Callable[[str], str]]]:
  """Ways to cut off a beginning that all names have in their folders."""
  shared = _shared([name.rpartition("/")[2] for name in names])
  ends = [match.end() for match in re.finditer(r"[-_. ]", shared)]
  return [(f"{shared[:end]}*", _behind(shared[:end])) for end in ends]


def _shared(names: Sequence[str]) -> str:
  """What all names begin with."""
  alike = itertools.takewhile(
    lambda letters: len(set(letters)) == 1, zip(*names)
  )
  return "".join(letters[0] for letters in alike)


def _without(ending: str) -> Callable[[str], str]:
  return lambda name: name.removesuffix(ending)


def _behind(beginning: str) -> Callable[[str], str]:
  def cut(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.removeprefix(beginning)

  return cut
