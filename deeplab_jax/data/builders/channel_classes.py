"""The overlapping classes of a user's folder, and how masks write them.

A plane has 0 where its class is not, one other number where it is, and 255
where nobody knows. Where no plane has any other number than 255, that is what
says that a class is there, unless classes.yaml says `ignore_label: 255`. A file
of the class `ignore` or `void` ignores its pixels for all classes.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from deeplab_jax.data import headers
from deeplab_jax.data.builders import channel_masks, class_lists, masks
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.builders.channel_layout import ALL, ChannelLayout
from deeplab_jax.data.builders.channel_masks import UNKNOWN
from deeplab_jax.data.builders.class_lists import ClassList
from deeplab_jax.data.builders.faults import (
  BadExample,
  Remark,
  Report,
  refuse,
)
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE, bit_colors
from deeplab_jax.data.datasets import Color
from deeplab_jax.messages import printable

_IGNORED = ("ignore", "ignored", "void")
_SHOWN = 8  # classes that a remark names

Counts = dict[int, int]  # pixels of each number of a plane


@dataclasses.dataclass(frozen=True)
class ChannelClasses:
  """Classes, and how masks write them.

  Attributes:
    names: one per class.
    colors: one per class.
    layout: of the folder.
    nodata: number of masks that means that nothing is known.
    present: the number that says that a class is there, one per class.
    ignored: the number that says that nobody knows; None is none.
    counts: of each plane of the file, by its path; only of sound ones.
  """

  names: tuple[str, ...]
  colors: tuple[Color, ...]
  layout: ChannelLayout
  nodata: float | None
  present: tuple[int, ...]
  ignored: int | None
  counts: Mapping[str, list[Counts]]

  def read(self, tree: Tree, name: str) -> np.ndarray:
    """Labels uint8 (h, w, classes) of the image `name`: 0, 1, 255.

    Raises:
      BadExample: a file is unusable.
    """
    label, ignored = None, None
    for class_name, path in self.layout.files[name].items():
      file = tree.where(path)
      planes = _decode(tree, self.layout, name, path, self.nodata)
      if label is None:
        label = np.zeros((*planes.shape[:2], len(self.names)), np.uint8)
      if planes.shape[:2] != label.shape[:2]:
        raise BadExample(
          file,
          "mask-size",
          f"masks of an image must have one size, got {_size(planes)} and "
          f"{_size(label)}",
        )
      if class_name == ALL:
        for index in range(len(self.names)):
          label[..., index] = self._labels(file, planes[..., index], index)
      elif (index := self.index_of(class_name)) is not None:
        label[..., index] = self._labels(file, planes[..., 0], index)
      else:
        ignored = planes[..., 0] != 0
    if ignored is not None:
      label[ignored] = IGNORE
    return label

  def _labels(self, file: str, plane: np.ndarray, index: int) -> np.ndarray:
    table = {0: 0, self.present[index]: 1, UNKNOWN: IGNORE}
    if self.ignored is not None:
      table.setdefault(self.ignored, IGNORE)
    found = np.unique(plane).tolist()
    wrong = [value for value in found if value not in table]
    if wrong:
      raise _not_two_valued(file, self.names[index], found)
    return masks.remap(file, plane, table)

  def index_of(self, class_name: str) -> int | None:
    """Which class a file is of; None of one that says what is ignored."""
    found = [_plain(name) for name in self.names]
    plain = _plain(class_name)
    return found.index(plain) if plain in found else None

  def pixels(self, name: str) -> np.ndarray:
    """Pixels int64 (classes, 3) of an image: absent, present and ignored.

    Files that were not sound count nothing, nor does a file of ignored pixels.
    """
    found = np.zeros((len(self.names), 3), np.int64)
    for class_name, path in self.layout.files.get(name, {}).items():
      index = None if class_name == ALL else self.index_of(class_name)
      planes = self.counts.get(path, ())
      for i, counts in enumerate(planes[: len(self.names)]):
        place = i if class_name == ALL else index
        for value, number in counts.items() if place is not None else ():
          is_there = value == self.present[place]
          found[place, 0 if value == 0 else 1 if is_there else 2] += number
    return found

  def remarks(self) -> Iterator[Remark]:
    """What was found, and what may be meant."""
    ways = [f"{p} ({n} files)" for p, n in self.layout.patterns.items()]
    names = ", ".join(self.names[:_SHOWN]) + ", ..." * (
      len(self.names) > _SHOWN
    )
    values = sorted(set(self.present))
    says = f"{masks.listed(values)} is there"
    if self.ignored is not None:
      says += f", {self.ignored} is ignored"
    detail = f"{', '.join(ways)}; {len(self.names)} classes, {names}; {says}"
    yield Remark("overlapping-masks", "", detail)
    if self.layout.is_by_class:
      yield from self._missing()

  def _missing(self) -> Iterator[Remark]:
    for index, class_name in enumerate(self.names):
      without = sum(
        index not in map(self.index_of, files)
        for files in self.layout.files.values()
      )
      if without:
        detail = f"{class_name}: {without} of {len(self.layout.files)} images"
        yield Remark("class-file-missing", "", detail)


def find(
  tree: Tree,
  layout: ChannelLayout,
  nodata: float | None = None,
  report: Report = refuse,
) -> ChannelClasses:
  """The classes of the folder `tree`.

  Args:
    tree: the user's files.
    layout: of them.
    nodata: number of masks that means that nothing is known.
    report: gets each fault after which one can go on.

  Raises:
    BadExample: a list of classes is wrong, or masks contradict it or each other
      throughout.
  """
  listed = class_lists.read(tree)
  counts = _scan(tree, layout, nodata)
  if layout.is_by_class:
    names = _named(tree, layout, listed, report)
  else:
    names = _numbered(tree, layout, listed, counts, report)
  class_lists.check_count(tree.origin, len(names))
  drawn = bit_colors(len(names) + 1)[1:]  # none is black: that is no class
  given = listed.colors if listed else (None,) * len(names)
  colors = tuple(own or other for own, other in zip(given, drawn))
  classes = ChannelClasses(
    names, colors, layout, nodata, (1,) * len(names), IGNORE, counts
  )
  return _with_meaning(tree, classes, listed, report)


def _scan(
  tree: Tree, layout: ChannelLayout, nodata: float | None
) -> dict[str, list[Counts]]:
  """What each plane of each file holds; broken files are left to the build."""

  def look(entry):
    name, _, path = entry
    try:
      planes = _decode(tree, layout, name, path, nodata)
    except BadExample:
      return None
    found = (
      np.unique(p, return_counts=True) for p in np.moveaxis(planes, -1, 0)
    )
    return [dict(zip(v.tolist(), n.tolist())) for v, n in found]

  entries = list(layout.used())
  results = in_order(functools.partial(look), entries)
  return {e[2]: r for e, r in zip(entries, results) if r is not None}


def _decode(
  tree: Tree, layout: ChannelLayout, name: str, path: str, nodata: float | None
) -> np.ndarray:
  file, encoded = tree.where(path), tree.read(path)
  if layout.is_by_class:
    return channel_masks.decode_class(file, encoded, nodata)
  size = None
  if path.lower().endswith(".npy"):
    header = headers.read(tree.read(layout.layout.images[name]))
    size = header and header.size
  return channel_masks.decode_channels(file, encoded, size, nodata)


def _named(
  tree: Tree, layout: ChannelLayout, listed: ClassList | None, report: Report
) -> tuple[str, ...]:
  """The classes of files of one class each."""
  first: dict[str, tuple[str, str]] = {}
  for _, class_name, path in layout.used():
    first.setdefault(_plain(class_name), (class_name, path))
  if listed is None:
    ignored = set(_IGNORED)
    found = [name for plain, (name, _) in first.items() if plain not in ignored]
    return tuple(sorted(map(printable, found)))
  known = {_plain(name) for name in listed.names} | set(_IGNORED)
  for plain, (class_name, path) in first.items():
    if plain not in known:
      report(
        BadExample(
          tree.where(path),
          "unlisted-class",
          f"classes must be of {listed.file}, {', '.join(listed.names)}, got "
          f"{class_name!r}",
        )
      )
  return listed.names


def _numbered(
  tree: Tree,
  layout: ChannelLayout,
  listed: ClassList | None,
  counts: dict[str, list[Counts]],
  report: Report,
) -> tuple[str, ...]:
  """The classes of files of all classes: as many as most have channels."""
  found = [len(planes) for planes in counts.values()]
  number = max(sorted(set(found)), key=found.count, default=0)
  if listed is not None:
    number = len(listed.names)
  elif number in (2, 4) and all(_is_opaque(p) for p in counts.values()):
    number -= 1
  for _, _, path in layout.used():
    channels = len(counts.get(path, ()))
    # Pictures have 1 to 4 channels, whatever the number of classes.
    is_filler = channels <= 4 and all(
      len(plane) == 1 for plane in counts.get(path, ())[number:]
    )
    fits = channels == number or (channels > number and is_filler)
    if path in counts and not fits:
      report(
        BadExample(
          tree.where(path),
          "wrong-channels",
          f"a mask must have {number} channels, one per class"
          f"{f' of {listed.file}' if listed else ' as most have'}, got "
          f"{channels}",
        )
      )
      del counts[path]
  if listed is not None:
    return listed.names
  return tuple(f"class_{i}" for i in range(number))


def _is_opaque(planes: list[Counts]) -> bool:
  """Whether the last of the channels is 255 throughout."""
  return len(planes) in (2, 4) and planes[-1].keys() == {IGNORE}


def _with_meaning(
  tree: Tree,
  classes: ChannelClasses,
  listed: ClassList | None,
  report: Report,
) -> ChannelClasses:
  """The same, told what numbers mean by all that there are."""
  ignored = IGNORE
  if listed is not None and listed.says_ignored:
    ignored = listed.ignore_label
  found = [set() for _ in classes.names]
  for path, index, counts in _planes(classes):
    found[index] |= counts.keys() - {0, UNKNOWN}
    if len(counts.keys() - {0, UNKNOWN, ignored}) > 1:
      file = tree.where(path)
      report(_not_two_valued(file, classes.names[index], list(counts)))
  others = [values - {ignored} for values in found]
  for path, index, counts in _planes(classes):
    if len(others[index]) > 1:
      value = max(counts.keys() - {0, UNKNOWN, ignored}, default=0)
      if value and value != min(others[index]):
        report(_other_number(tree.where(path), classes, index, others))
  says = listed is not None and listed.says_ignored
  if not any(others) and not says:  # 255 is all that there is
    return dataclasses.replace(
      classes, present=(IGNORE,) * len(found), ignored=None
    )
  used = min(set().union(*others), default=1)
  doubtful = [i for i, values in enumerate(found) if values == {ignored}]
  if doubtful and not says:
    for path, index, counts in _planes(classes):
      if index in doubtful and ignored in counts:
        report(_doubtful(tree.where(path), classes.names[index], used))
  present = tuple(min(values, default=used) for values in others)
  return dataclasses.replace(classes, present=present, ignored=ignored)


def _planes(classes: ChannelClasses) -> Iterator[tuple[str, int, Counts]]:
  """Path, class and numbers of every plane that is of a class."""
  for _, class_name, path in classes.layout.used():
    for index, counts in enumerate(classes.counts.get(path, ())):
      place = index if class_name == ALL else classes.index_of(class_name)
      if place is not None and place < len(classes.names):
        yield path, place, counts


def _not_two_valued(file: str, name: str, values: list[int]) -> BadExample:
  shown = masks.listed([v for v in values if v != UNKNOWN])
  return BadExample(
    file,
    "not-two-valued",
    f"a mask of the class {name} must have 0 and one other number, and 255 "
    f"where it is to be ignored, got {shown}",
  )


def _other_number(
  file: str, classes: ChannelClasses, index: int, others: list[set[int]]
) -> BadExample:
  return BadExample(
    file,
    "mixed-masks",
    f"masks of the class {classes.names[index]} must write it by one number, "
    f"got {masks.listed(sorted(others[index]))} in all",
  )


def _doubtful(file: str, name: str, used: int) -> BadExample:
  return BadExample(
    file,
    "mixed-masks",
    f"masks must write what is there alike, got 255 for {name}, and {used} for "
    "others; if 255 is to be ignored, say so with ignore_label: 255 in "
    "classes.yaml",
  )


def _plain(name: str) -> str:
  """A name without what files and lists write in several ways."""
  return re.sub(r"[\s_-]+", "_", printable(name).strip().casefold())


def _size(planes: np.ndarray) -> str:
  return f"{planes.shape[1]}x{planes.shape[0]}"
