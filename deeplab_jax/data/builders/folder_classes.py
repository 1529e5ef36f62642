"""The classes of a user's folder, and how its masks write them.

A mask writes a class as a number or as a colour, and one picture can be saved
either way: in one band, indexed, or in red, green and blue. So all masks are
looked at before it is decided, for all of them alike, whether numbers or
colours count: the labels do not depend on the way of saving.

Where a list of classes gives colours (`class_lists`), these count if masks have
them, be it as greys of one band or as the palette of an index. Masks of black
and white alone are two classes. Else numbers are labels, 255 being ignored; and
in masks of colours without a list each colour is a class.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deeplab_jax.data.builders import class_lists, folder_masks, masks
from deeplab_jax.data.builders.class_lists import FILES, ClassList
from deeplab_jax.data.builders.faults import (
  BadExample,
  Remark,
  Report,
  refuse,
)
from deeplab_jax.data.builders.folder_masks import Found
from deeplab_jax.data.builders.masks import Mask
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE, bit_colors
from deeplab_jax.data.datasets import Color

__all__ = ["FILES", "FolderClasses", "find"]

_STRAY = 10  # values that never fill 3 x 3 pixels, from which they are noise
_BLACK, _WHITE = 0x000000, 0xFFFFFF


@dataclasses.dataclass(frozen=True)
class FolderClasses:
  """Classes, and how masks write them.

  Attributes:
    names: one per label.
    colors: one per label.
    ignore_label: as in `DatasetInfo`.
    by_color: whether the colours of masks count, not their numbers.
    labels: label of each number; or of each colour, by its code.
    ignores: the number that is ignored where `labels` has none for it.
    listed: the user's list; None if classes are what the masks hold.
    nodata: number of masks that means that nothing is known.
    counts: pixels (256,) of each label, by path of the mask; only of masks
      without fault.
    remarks: on masks, of what may be meant.
    infers_colors: whether each colour found was made a class.
    ignores_pixels: whether masks have the number that is ignored.
  """

  names: tuple[str, ...]
  colors: tuple[Color, ...]
  ignore_label: int | None
  by_color: bool
  labels: dict[int, int]
  ignores: int | None = None
  listed: ClassList | None = None
  nodata: float | None = None
  counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  remarks: tuple[Remark, ...] = ()
  infers_colors: bool = False
  ignores_pixels: bool = False

  def decode(self, file: str, encoded: bytes) -> Mask:
    """A mask of the folder, see `masks.decode`."""
    return masks.decode(file, encoded, self.nodata)

  def labels_of(self, file: str, mask: Mask) -> np.ndarray:
    """Labels uint8 (h, w) of one mask.

    Raises:
      BadExample: it has numbers or colours that are no class.
    """
    pixels = masks.codes_of(mask.pixels) if mask.is_colour else mask.pixels
    found = mask.counts()
    table = {value: self.label_of(mask, value) for value in found}
    wrong = sorted(v for v, label in table.items() if label is None)
    if wrong:
      raise self._refusal(file, mask, wrong)
    table.setdefault(0, 0)  # of pixels that are unknown, which are set below
    labels = masks.remap(file, pixels, table)
    if mask.unknown is not None and mask.unknown.any():
      if self.ignore_label is None:
        raise BadExample(
          file,
          "wrong-class-list",
          "ignore_label must not be null where masks declare no-data",
        )
      labels[mask.unknown] = self.ignore_label
    return labels

  def label_of(self, mask: Mask, value: int) -> int | None:
    """Label of a number, or of a colour's code; None if it has none."""
    if mask.is_colour:
      return self.labels.get(value) if self.by_color else None
    key = mask.color_of(value) if self.by_color else value
    label = self.labels.get(key)
    if label is None and value == self.ignores:
      return self.ignore_label
    return label

  def _refusal(self, file: str, mask: Mask, wrong: list[int]) -> BadExample:
    """Why `wrong` numbers or colours of a mask are no class."""
    if mask.is_colour and not self.by_color:
      problem = "a mask of colours needs classes.yaml with their classes"
      return BadExample(file, "colour-mask", f"{problem}, got none")
    if not self.by_color:
      allowed = set(self.labels) | {self.ignores} - {None}
      return BadExample(
        file,
        "id-out-of-range",
        f"values must be {masks.ranges(allowed)}, got {masks.listed(wrong)}"
        f"{_hint(wrong)}",
      )
    if self.listed is None and not mask.is_rgb:
      return BadExample(
        file,
        "mixed-masks",
        "masks must be all in colours or all indexed, got both",
      )
    codes = wrong if mask.is_colour else [mask.color_of(v) for v in wrong]
    shown = [
      f"the number {v}" if c is None else str(tuple(c.to_bytes(3)))
      for c, v in zip(codes[:5], wrong)
    ]
    return BadExample(
      file,
      "unlisted-colour",
      f"colours must be the {len(self.labels)} listed, got {', '.join(shown)}"
      f"{', ...' if wrong[5:] else ''}",
    )


def _hint(wrong: list[int]) -> str:
  """For a number that is hardly a class: negative, or beyond 8 bits."""
  odd = [value for value in wrong if not 0 <= value <= IGNORE]
  return masks.nodata_hint(odd[0]) if len(odd) == 1 else ""


def find(
  tree: Tree,
  paths: Sequence[str],
  nodata: float | None = None,
  report: Report = refuse,
  listed: ClassList | None = None,
  by_windows: bool = False,
) -> FolderClasses:
  """The classes of the folder `tree` whose masks are the files `paths`.

  Args:
    tree: the user's files.
    paths: of the masks. One that cannot be read is left to the build.
    nodata: number of masks that means that nothing is known.
    report: gets each fault after which one can go on.
    listed: the classes, where they are known; None reads the folder's list.
    by_windows: whether masks are large, and are read part by part if they can.

  Raises:
    BadExample: a list of classes is wrong, or none can be inferred.
  """
  listed = listed or class_lists.read(tree)
  found = folder_masks.scan(tree, paths, nodata, by_windows)
  if listed is None:
    classes = _inferred(tree, list(found.values()), report)
  elif listed.rgb:
    classes = _by_colors(listed, list(found.values()))
  else:
    classes = _by_names(listed, list(found.values()))
  if not classes.by_color:
    _check_palettes(found.values(), report)
  says_none = listed is not None and listed.says_ignored
  declares = any(f.declares for f in found.values())
  if classes.ignore_label is None and declares and not says_none:
    classes = dataclasses.replace(classes, ignore_label=IGNORE)
  return dataclasses.replace(
    classes,
    listed=listed,
    nodata=nodata,
    counts=_counts(classes, found),
    ignores_pixels=any(_ignores(classes, f) for f in found.values()),
    remarks=tuple(_remarks(classes, found.values())),
  )


def _counts(
  classes: FolderClasses, found: dict[str, Found]
) -> dict[str, np.ndarray]:
  """Pixels (256,) of each label, by path, of masks that only have labels."""
  counts = {}
  for path, f in found.items():
    labels = {v: classes.label_of(f.mask, v) for v in f.counts}
    if None in labels.values():
      continue
    counts[path] = np.zeros(256, np.int64)
    for value, label in labels.items():
      counts[path][label] += f.counts[value]
    if f.declares and classes.ignore_label is not None:
      counts[path][classes.ignore_label] += f.declares
  return counts


def _ignores(classes: FolderClasses, found: Found) -> bool:
  """Whether a mask has the number that is ignored."""
  number, label = classes.ignores, classes.ignore_label
  is_there = number is not None and number in found.counts
  return is_there and classes.label_of(found.mask, number) == label


# ------------------------------------------------------------ with a list


def _by_names(listed: ClassList, found: list[Found]) -> FolderClasses:
  """Numbers are labels, unless two classes are black and white."""
  ignores_white = listed.says_ignored and listed.ignore_label is not None
  if len(listed.names) == 2 and not ignores_white and _black_and_white(found):
    return _two(listed.names)
  return _by_numbers(listed.names, listed.ignore_label, found)


def _by_colors(listed: ClassList, found: list[Found]) -> FolderClasses:
  """Colours count where masks have those listed; else numbers do.

  Where masks have neither throughout, what more of them have.
  """
  names, ignore = listed.names, listed.ignore_label
  drawn = zip(listed.colors, bit_colors(len(names)))
  colors = tuple(given or other for given, other in drawn)
  by_color = FolderClasses(names, colors, ignore, True, listed.rgb, ignore)
  by_number = _by_numbers(names, ignore, found)
  by_number = dataclasses.replace(by_number, colors=colors, listed=listed)
  for f in found:
    if f.mask.is_colour or _is_contradicted(by_number, f):
      return by_color
  of_color, of_number = (_suited(c, found) for c in (by_color, by_number))
  return by_color if of_color >= of_number else by_number


def _is_contradicted(classes: FolderClasses, found: Found) -> bool:
  """Whether a palette gives a number the listed colour of another class."""
  rgb = classes.listed.rgb
  shown = {v: rgb.get(found.mask.color_of(v)) for v in found.counts}
  return bool(found.mask.palette) and any(
    label not in (None, classes.label_of(found.mask, v))
    for v, label in shown.items()
  )


def _suited(classes: FolderClasses, found: Sequence[Found]) -> tuple[int, int]:
  """How many masks have labels throughout, and how many pixels have one."""
  masks_suited = pixels_suited = 0
  for f in found:
    labels = [classes.label_of(f.mask, v) for v in f.counts]
    masks_suited += None not in labels
    pixels_suited += sum(
      n for n, label in zip(f.counts.values(), labels) if label is not None
    )
  return masks_suited, pixels_suited


def _by_numbers(
  names: tuple[str, ...], ignore_label: int | None, found: Sequence[Found]
) -> FolderClasses:
  """Classes whose masks hold labels."""
  labels = {label: label for label in range(len(names))}
  return FolderClasses(
    names,
    _palette(found, len(names)),
    ignore_label,
    False,
    labels,
    ignore_label,
  )


def _palette(found: Sequence[Found], count: int) -> tuple[Color, ...]:
  """The first colours of the first mask's palette, or else of VOC's."""
  for colors in (f.mask.palette[:count] for f in found[:1]):
    if len(set(colors)) == count:
      return colors
  return bit_colors(count)


def _black_and_white(found: Sequence[Found]) -> bool:
  """Whether masks are black and white, however they are saved."""
  colors = set().union(*(f.colors() for f in found))
  return colors == {_BLACK, _WHITE}


def _two(names: tuple[str, ...]) -> FolderClasses:
  """Black is the first class, white the second; nothing is ignored."""
  labels = {_BLACK: 0, _WHITE: 1}
  return FolderClasses(names, bit_colors(2), None, True, labels)


# --------------------------------------------------------- without a list


def _inferred(tree: Tree, found: list[Found], report: Report) -> FolderClasses:
  """What the masks hold."""
  has_colours = any(f.mask.is_colour for f in found)
  if has_colours and 2 * sum(f.mask.is_rgb for f in found) > len(found):
    return _each_color(tree, found, report)
  if _black_and_white(found):
    return _two(("background", "foreground"))
  numbered = [f for f in found if not f.mask.is_colour]
  used = set().union(*(f.counts for f in numbered)) - {IGNORE}
  largest = max(used, default=0)
  for f in numbered:
    _check_numbers(f, largest)
  _check_strays(numbered, report)
  names = tuple(f"class_{i}" for i in range(largest + 1))
  classes = _by_numbers(names, IGNORE, numbered)
  if len(names) > 2 * len(used) > 0:  # more classes without a pixel than with
    for f in numbered:
      if largest in f.counts:
        report(_grey_levels(f, used))
  return classes


def _check_numbers(found: Found, largest: int) -> None:
  """Refuses numbers that cannot be labels, with the mask that has them."""
  negative = sorted(value for value in found.counts if value < 0)
  if negative:
    raise BadExample(
      found.file,
      "id-out-of-range",
      f"values must be 0..254, 255, got {masks.listed(negative)}"
      f"{_hint(negative)}",
    )
  if largest > IGNORE and largest in found.counts:
    reason = f" for the value {largest}{_hint([largest])}"
    class_lists.check_count(found.file, largest + 1, reason)


def _grey_levels(found: Found, used: set[int]) -> BadExample:
  return BadExample(
    found.file,
    "grey-levels",
    f"values must be class numbers from 0 without large gaps, got "
    f"{masks.ranges(used)} in all masks",
  )


def _check_strays(found: Sequence[Found], report: Report) -> None:
  """Reports masks of many values that occur in specks only."""
  solid = frozenset().union(*(f.solid for f in found))
  strays = set().union(*(f.counts for f in found)) - solid - {IGNORE}
  if not solid or len(strays) < max(_STRAY, 2 * len(solid)):
    return
  for f in sorted(found, key=lambda f: -len(strays & f.counts.keys())):
    if count := len(strays & f.counts.keys()):
      report(
        BadExample(
          f.file,
          "stray-ids",
          f"values must fill areas, as {len(solid)} do in all masks, got "
          f"{count} that do nowhere",
        )
      )


def _each_color(
  tree: Tree, found: list[Found], report: Report
) -> FolderClasses:
  """A class for each colour of the masks, in the order of the codes."""
  rgb = [f for f in found if f.mask.is_rgb]
  _check_strays(rgb, report)
  codes = sorted(set().union(*(f.colors() for f in rgb)))
  if len(codes) > IGNORE:
    raise BadExample(
      tree.origin,
      "too-many-colours",
      f"masks of colours must have at most {IGNORE} of them, got "
      f"{len(codes)}; were they resized with smoothing?",
    )
  colors = tuple(tuple(code.to_bytes(3)) for code in codes)
  names = tuple(f"color_{code:06x}" for code in codes)
  labels = {code: label for label, code in enumerate(codes)}
  return FolderClasses(names, colors, IGNORE, True, labels, infers_colors=True)


# ------------------------------------------------------------ what is odd


def _check_palettes(found: Sequence[Found], report: Report) -> None:
  """Reports masks in whose palette a colour has another number than before."""
  first: dict[int, int] = {}
  for f in found:
    if not f.mask.palette:
      continue
    used = {f.mask.color_of(v): v for v in f.counts}
    moved = [c for c, v in used.items() if first.setdefault(c, v) != v]
    if len(used) == len(f.counts) and moved and None not in used:
      color = tuple(moved[0].to_bytes(3))
      report(
        BadExample(
          f.file,
          "palettes-differ",
          f"one colour must have one number in all masks, got {used[moved[0]]} "
          f"for {color}, which is {first[moved[0]]} in others",
        )
      )


def _remarks(classes: FolderClasses, found: Sequence[Found]):
  """Smoothed labels, declared no-data, and palettes in another order."""
  for f in found:
    if f.blending.is_suspect:
      yield Remark("blended-labels", f.file, str(f.blending))
    if f.declares:
      said = f"{f.declares} pixels are declared as no-data"
      yield Remark("declared-nodata", f.file, said)
    if not classes.by_color or not f.mask.palette:
      continue
    for value in f.counts:
      label = classes.label_of(f.mask, value)
      if label not in (None, value, classes.ignore_label):
        said = f"{value} has the colour of {classes.names[label]} ({label})"
        yield Remark("palette-order", f.file, said)
        break
