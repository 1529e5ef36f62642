"""Roboflow's semantic masks: x_mask.png beside x.jpg, and _classes.csv.

The table gives the number of each class; train/, valid/ and test/ each have
one.
"""

from __future__ import annotations

import csv
import re

from deeplab_jax.data.annotations.export import (
  Export,
  Picture,
  blank,
  export,
)
from deeplab_jax.data.annotations.files import (
  Files,
  split_of,
  understood,
  without_suffix,
)
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders.class_lists import ClassList, check_count
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.classes import IGNORE

TITLE = "Roboflow semantic masks"
_TABLE = "_classes.csv"
_MASK = "_mask"
_NUMBER = re.compile(r"\d+(\.0*)?")
_CLASSIFIED = "filename"  # what the table of another format begins with


def fits(files: Files) -> bool:
  """Whether there are a table of classes, and masks."""
  has_masks = any(without_suffix(p).endswith(_MASK) for p in files.pictures)
  return any(
    _cells(files, path) and (has_masks or _rows(files, path))
    for path in files.ending(_TABLE)
  )


def _cells(files: Files, path: str) -> list[list[str]]:
  """The rows of a table; none if it is that of another format."""
  try:
    lines = files.tree.lines(path)
    comma = max(",;\t", key=lambda mark: sum(mark in line for line in lines))
    table = csv.reader(lines, delimiter=comma, skipinitialspace=True)
    rows = [[cell.strip() for cell in row] for row in table]
  except (BadExample, csv.Error):
    return []
  return [] if rows and rows[0][0].lower() == _CLASSIFIED else rows


def _rows(files: Files, path: str) -> list[tuple[str, str]]:
  """Number and name of each class; none if the table is no such list.

  The numbers are the first column or, after the names, the last; there may be
  a line above them.
  """
  cells = _cells(files, path)
  rows = cells if _places(cells) else cells[1:]
  for place in _places(rows):
    # Names are written as they are, with their commas.
    names = (row[1:] if place == 0 else row[:-1] for row in rows)
    return [(row[place], ", ".join(name)) for row, name in zip(rows, names)]
  return []


def _places(rows: list[list[str]]) -> list[int]:
  """In which columns, the first or the last, each row has a number."""
  return [
    place
    for place in (0, -1)
    if rows and all(len(r) > 1 and _NUMBER.fullmatch(r[place]) for r in rows)
  ]


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  tables = {p: _rows(files, p) for p in files.ending(_TABLE)}
  path = max(tables, key=lambda path: bool(tables[path]))
  where = files.tree.where(path)
  if not tables[path]:
    raise BadExample(
      where,
      "wrong-class-list",
      "each line must be the number and the name of a class, as '0, road', got "
      "others",
    )
  for other, rows in tables.items():
    if rows != tables[path]:
      raise BadExample(
        files.tree.where(other),
        "wrong-class-list",
        f"must have the classes of {where}, got others",
      )
  with understood(where):
    listed = _classes(where, tables[path])
  folders = {path.rpartition("/")[0] for path in tables}
  own = [p for p in files.pictures if p.rpartition("/")[0] in folders]
  of_stem = {without_suffix(p): p for p in own}
  pictures = [
    _picture(files, path, of_stem)
    for path in own
    if not _is_mask(path, of_stem)
  ]
  images = Files(files.tree, lambda p: not _is_mask(p, of_stem))
  faults = [
    BadExample(
      files.tree.where(path),
      "unknown-picture",
      "a mask must have an image of its name, without _mask, beside it, got "
      "none",
    )
    for path in own
    if _is_mask(path, of_stem)
    and without_suffix(path).removesuffix(_MASK) not in of_stem
  ]
  return export(TITLE, images, pictures, options, listed=listed, faults=faults)


def _is_mask(path: str, of_stem: dict[str, str]) -> bool:
  return without_suffix(path).endswith(_MASK) and path in of_stem.values()


def _picture(files: Files, path: str, of_stem: dict[str, str]) -> Picture:
  file = files.tree.file(path)
  mask = of_stem.get(without_suffix(path) + _MASK)
  return Picture(
    path,
    split_of(path),
    file,
    blank(file) if mask is None else files.tree.file(mask),
    mask is not None,
  )


def _classes(where: str, rows: list[tuple[str, str]]) -> ClassList:
  """The classes in the order of their numbers, which begin with 0."""
  names = {int(float(number)): name for number, name in rows}
  if sorted(names) != list(range(len(rows))):
    raise ValueError(f"the numbers {sorted(names)}, not each from 0 on")
  check_count(where, len(names))
  ordered = tuple(names[number] for number in sorted(names))
  if len(set(ordered)) < len(ordered):
    raise ValueError("a class twice")
  return ClassList(
    where, ordered, (None,) * len(ordered), IGNORE, says_ignored=True
  )
