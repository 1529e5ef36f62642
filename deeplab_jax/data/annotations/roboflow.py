"""Roboflow's semantic masks: x_mask.png beside x.jpg, and _classes.csv.

The table gives the number of each class; train/, valid/ and test/ each have
one.
"""

from __future__ import annotations

import csv

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
_HEAD = ["pixel value", "class"]


def fits(files: Files) -> bool:
  """Whether a table gives the numbers of classes."""
  return any(_rows(files, path) for path in files.ending(_TABLE))


def _rows(files: Files, path: str) -> list[tuple[str, str]]:
  """Number and name of each class; none if the table is another one."""
  try:
    rows = list(csv.reader(files.tree.lines(path), skipinitialspace=True))
  except (BadExample, csv.Error):
    return []
  if not rows or [cell.strip().lower() for cell in rows[0]] != _HEAD:
    return []
  # Names are written as they are, with their commas.
  return [(row[0].strip(), ", ".join(row[1:]).strip()) for row in rows[1:]]


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  tables = {p: _rows(files, p) for p in files.ending(_TABLE)}
  tables = {path: rows for path, rows in tables.items() if rows}
  path = next(iter(tables))
  where = files.tree.where(path)
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
  names = {int(number): name for number, name in rows}
  if sorted(names) != list(range(len(rows))):
    raise ValueError(f"the numbers {sorted(names)}, not each from 0 on")
  check_count(where, len(names))
  ordered = tuple(names[number] for number in sorted(names))
  if len(set(ordered)) < len(ordered):
    raise ValueError("a class twice")
  return ClassList(
    where, ordered, (None,) * len(ordered), IGNORE, says_ignored=True
  )
