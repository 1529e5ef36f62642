"""CVAT's "Segmentation mask": VOC's layout, with labelmap.txt.

Masks hold the colours of labelmap.txt. The lists in ImageSets/Segmentation are
the splits if they are called so; default.txt is all pictures.
"""

from __future__ import annotations

import re

from deeplab_jax.data.annotations.export import (
  Export,
  Picture,
  blank,
  export,
  locate,
)
from deeplab_jax.data.annotations.files import (
  Files,
  composed,
  split_of,
  understood,
  without_suffix,
)
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.class_lists import ClassList, check_count
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.classes import IGNORE

TITLE = "CVAT segmentation masks"
_MAP = "labelmap.txt"
# Name, colour, and perhaps names of parts and of actions.
_LINE = re.compile(r"(.+?)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(:[^:]*){0,2}")
_IGNORED = "ignored", (224, 224, 192)  # as Datumaro writes VOC's
_MASKS, _OBJECTS = "SegmentationClass", "SegmentationObject"


def fits(files: Files) -> bool:
  """Whether there is a labelmap.txt with colours, and masks."""
  path = _map(files)
  return path is not None and any(_MASKS in p.split("/") for p in files.paths)


def _map(files: Files) -> str | None:
  for path in sorted(files.ending(_MAP), key=len):
    try:
      lines = _entries(files, path)
    except BadExample:
      continue
    if any(map(_LINE.fullmatch, lines)):
      return path
  return None


def _entries(files: Files, path: str) -> list[str]:
  return [line for line in files.tree.lines(path) if line[0] != "#"]


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  path = _map(files)
  with understood(files.tree.where(path)):
    listed = _classes(files, path)
  drawn = [p for p in files.pictures if _MASKS in p.split("/")[:-1]]
  images = Files(
    files.tree,
    lambda p: not {_MASKS, _OBJECTS} & set(p.split("/")[:-1]),
  )
  by_name = {_name(p): p for p in drawn}
  pictures = []
  splits = _splits(files)
  for name in splits or by_name:
    where = files.tree.where(by_name.get(name, name))
    split = splits.get(name, "")
    found, file = locate(images, name, split, where)
    color = listed.colors[0]
    mask = by_name.get(name) or by_name.get(without_suffix(name))
    pictures.append(
      Picture(
        found,
        split,
        file,
        blank(file, color) if mask is None else files.tree.file(mask),
        mask is not None,
      )
    )
  return export(TITLE, images, pictures, options, listed=listed)


def _name(path: str) -> str:
  """What a mask and its picture share."""
  return composed(without_suffix(path).partition(f"{_MASKS}/")[2])


def _splits(files: Files) -> dict[str, str]:
  """The split of each name in the lists; none without lists."""
  splits = {}
  for path in files.ending(".txt"):
    if "/segmentation/" in f"/{path}".lower():
      split = split_of(path.rpartition("/")[2], is_document=True)
      for line in files.tree.lines(path):
        splits[composed(line)] = split
  return splits


def _classes(files: Files, path: str) -> ClassList:
  """The classes with their colours; the black one, or "background", is 0.
  VOC's colour of what is ignored is no class."""
  where = files.tree.where(path)
  colors: dict[str, tuple[int, ...]] = {}
  for line in _entries(files, path):
    found = _LINE.fullmatch(line)
    color = tuple(map(int, found.groups()[1:4])) if found else ()
    if found is None or max(color) > 255:
      raise ValueError(f"the line {line!r}, not as name:red,green,blue::")
    if found[1] in colors or color in colors.values():
      raise ValueError(f"a class or a colour twice, in the line {line!r}")
    colors[found[1]] = color
  ignored = [n for n, color in colors.items() if (n, color) == _IGNORED]
  colors = {n: color for n, color in colors.items() if n not in ignored}
  if not any(color == (0, 0, 0) for color in colors.values()):
    colors = {"background": (0, 0, 0)} | colors
  first = [n for n, color in colors.items() if color == (0, 0, 0)]
  names = [*first, *(n for n in colors if n not in first)]
  check_count(where, len(names))
  codes = [masks.code_of(colors[name]) for name in names]
  return ClassList(
    where,
    tuple(names),
    tuple(colors[name] for name in names),
    IGNORE,
    says_ignored=True,
    rgb={code: label for label, code in enumerate(codes)}
    | {masks.code_of(_IGNORED[1]): IGNORE for _ in ignored},
  )
