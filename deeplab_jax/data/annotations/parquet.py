"""Data sets of Hugging Face, as parquet files with pictures and masks.

Which columns are pictures is in the features that the files carry, or else in
the kinds of the columns. Masks may also be numbers, as rows of lists. Names of
classes are those of the features, of id2label.json, or of the user's
classes.txt. Files without masks, as of a test split, are left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet

from deeplab_jax.data.annotations.export import (
  Export,
  Picture,
  blank,
  export,
)
from deeplab_jax.data.annotations.files import (
  Files,
  png,
  split_of,
  understood,
)
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import class_lists
from deeplab_jax.data.builders.class_lists import ClassList
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.data.classes import IGNORE

TITLE = "Hugging Face parquet"
_IMAGES = re.compile(r"image|img|picture|pixel|photo|rgb", re.IGNORECASE)
_MASKS = re.compile(
  r"mask|label|annotation|seg|ground|^gt|target|class", re.IGNORECASE
)
_CLASSES = re.compile(r"class|label|categor|object|mask|annot|seg|name", re.I)
_NAMES = "id2label.json"


def fits(files: Files) -> bool:
  """Whether there are parquet files with two columns of pictures."""
  return _first(files) is not None


def without_masks(files: Files) -> BadExample | None:
  """The fault of parquet files that have no two such columns; None if there
  are no parquet files."""
  for path in files.ending(".parquet"):
    try:
      found = _open(files, path).schema_arrow.names
    except BadExample as fault:
      return fault
    return BadExample(
      files.tree.where(path),
      "ambiguous-columns",
      "must have a column of pictures and one of masks, which are pictures or "
      f"rows of lists of whole numbers, got {', '.join(found)}",
    )
  return None


def _first(files: Files) -> str | None:
  """The first of the files that have two columns of pictures."""
  for path in files.ending(".parquet"):
    if len(_picture_columns(files, path)) >= 2:
      return path
  return None


def _open(files: Files, path: str) -> pyarrow.parquet.ParquetFile:
  """A parquet file.

  Raises:
    BadExample: it is none.
  """
  try:
    return pyarrow.parquet.ParquetFile(
      pyarrow.BufferReader(_contents(files.tree.file(path)))
    )
  except (pyarrow.ArrowException, OSError) as error:
    raise BadExample(
      files.tree.where(path), "undecodable", f"must be parquet ({error})"
    ) from error


@functools.lru_cache(maxsize=2)
def _contents(file: File) -> bytes:
  return file.read()


def _features(files: Files, path: str) -> dict[str, Any]:
  """What Hugging Face's metadata say of the columns; nothing without them."""
  metadata = _open(files, path).schema_arrow.metadata or {}
  try:
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
  except (KeyError, ValueError, TypeError):
    return {}
  return features if isinstance(features, dict) else {}


def _picture_columns(files: Files, path: str) -> list[str]:
  """Names of the columns that hold pictures."""
  try:
    schema = _open(files, path).schema_arrow
    features = _features(files, path)
  except BadExample:
    return []
  found = [
    name
    for name, feature in features.items()
    if isinstance(feature, dict) and feature.get("_type") == "Image"
  ]
  found = found or [
    field.name
    for field in schema
    if pyarrow.types.is_binary(field.type)
    or pyarrow.types.is_large_binary(field.type)
    or (
      pyarrow.types.is_struct(field.type)
      and "bytes" in [inner.name for inner in field.type]
    )
  ]
  lists = {field.name: _depth(field.type) for field in schema}
  rows = [n for n, depth in lists.items() if depth == 2 and _MASKS.search(n)]
  if not any(map(_is_of_images, found)):
    found += [n for n, d in lists.items() if d in (2, 3) and _is_of_images(n)]
  return found + rows


def _is_of_images(name: str) -> bool:
  return bool(_IMAGES.search(name)) and not _MASKS.search(name)


def _depth(kind: Any) -> int:
  """Of how many lists, one in the other, whole numbers are; 0 for others."""
  depth = 0
  while hasattr(kind, "value_type"):
    if not (
      pyarrow.types.is_list(kind)
      or pyarrow.types.is_large_list(kind)
      or pyarrow.types.is_fixed_size_list(kind)
    ):
      return 0
    kind, depth = kind.value_type, depth + 1
  return depth * pyarrow.types.is_integer(kind)


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  paths = files.ending(".parquet")
  first = _first(files)
  image, mask = _columns(files, first)
  pictures, without = [], []
  for path in paths:
    if mask not in _open(files, path).schema_arrow.names:
      without.append(path)
      continue
    where = files.tree.where(path)
    with understood(where):
      rows = _rows(files, path, image, mask)
    pictures += [_picture(path, *row) for row in rows]
  listed = _listed(files, first, mask)
  lists = [n for n in class_lists.FILES if n in files.tree]
  return export(
    TITLE,
    files,
    pictures,
    options,
    listed=None if lists else listed,
    lists=lists,
    lines=(
      f"pictures are the column {image}, masks the column {mask}",
      *([f"left out, without masks: {', '.join(without)}"] if without else []),
    ),
  )


def _columns(files: Files, path: str) -> tuple[str, str]:
  """The column of the pictures and that of the masks.

  Raises:
    BadExample: several may be meant.
  """
  columns = _picture_columns(files, path)
  of_images = [c for c in columns if _is_of_images(c)]
  of_masks = [c for c in columns if _MASKS.search(c)]
  of_images = of_images or [c for c in columns if c not in of_masks]
  of_masks = of_masks or [c for c in columns if c not in of_images]
  if len(of_images) != 1 or len(of_masks) != 1:
    raise BadExample(
      files.tree.where(path),
      "ambiguous-columns",
      "must have one column of pictures and one of masks, got "
      f"{', '.join(columns)}",
    )
  return of_images[0], of_masks[0]


def _rows(
  files: Files, path: str, image: str, mask: str
) -> Iterator[tuple[str, str, File, File | None]]:
  """Name, place, picture and mask of each row; the mask is None if null."""
  where, file = files.tree.where(path), _open(files, path)
  number = 0
  for group in range(file.num_row_groups):
    table = file.read_row_group(group, [image, mask])
    names, there = _paths(table[image]), table[mask].is_valid().to_pylist()
    for row in range(table.num_rows):
      number += 1
      here = f"{where}, row {number}"
      cell = functools.partial(_cell, files, path, group, row, here)
      yield (
        names[row] or f"{number:07d}.png",
        here,
        File(here, functools.partial(cell, image)),
        File(here, functools.partial(cell, mask)) if there[row] else None,
      )


def _paths(column: Any) -> list[str | None]:
  """The names that pictures had as files, where they are known."""
  if not pyarrow.types.is_struct(column.type):
    return [None] * len(column)
  if "path" not in [field.name for field in column.type]:
    return [None] * len(column)
  chunks = [chunk.field("path").to_pylist() for chunk in column.chunks]
  return [path for chunk in chunks for path in chunk]


def _cell(
  files: Files, path: str, group: int, row: int, where: str, column: str
) -> bytes:
  """The bytes of a picture."""
  value = _column(files, path, group, column)[row].as_py()
  if isinstance(value, list):
    return _packed(f"{where}, {column}", value)
  if isinstance(value, dict):
    value = value.get("bytes")
  if not value:
    raise BadExample(
      f"{where}, {column}",
      "missing-picture",
      "pictures must be in the file, got a reference to another",
    )
  return value


def _packed(where: str, rows: list[list[Any]]) -> bytes:
  """A mask of numbers, or a picture (h, w, 3) or (3, h, w), as a PNG.

  Raises:
    BadExample: they are no bytes, in rows of one length.
  """
  with understood(where):
    numbers = np.array(rows, np.int64)
    if not numbers.size:
      raise ValueError("rows of no length")
    if numbers.ndim == 3 and numbers.shape[2] not in (1, 3):
      numbers = np.moveaxis(numbers, 0, 2)
    if numbers.ndim == 3 and numbers.shape[2] == 1:
      numbers = numbers[..., 0]
    if numbers.shape[2:] not in ((), (3,)):
      raise ValueError(f"{numbers.shape[2]} channels, not 1 or 3")
    if numbers.min() < 0 or numbers.max() > IGNORE:
      raise ValueError(f"numbers from {numbers.min()} to {numbers.max()}")
  return png(PIL.Image.fromarray(numbers.astype(np.uint8)))


@functools.lru_cache(maxsize=4)
def _column(files: Files, path: str, group: int, column: str) -> Any:
  """One column of a group of rows, of which several are read in turn."""
  return _open(files, path).read_row_group(group, [column])[column]


def _picture(
  path: str, name: str, where: str, image: File, mask: File | None
) -> Picture:
  split = split_of(path, is_document=True)
  suffix = name if "." in name else f"{name}.png"
  return Picture(
    f"{split or 'data'}/{suffix}",
    split,
    image,
    blank(image) if mask is None else mask,
    mask is not None,
  )


def _listed(files: Files, path: str, mask: str) -> ClassList | None:
  """The classes as the features or id2label.json name them; None if neither."""
  for place in files.ending(_NAMES):
    where = files.tree.where(place)
    with understood(where):
      names = {int(k): str(v) for k, v in files.json(place).items()}
    return _class_list(where, names)
  features = _features(files, path)
  found = dict(_class_labels("", features))
  own = {c: n for c, n in found.items() if c.split(".")[0] == mask}
  # A class that a whole picture has, once in a row, is none of its mask.
  likely = {c: n for c, n in found.items() if "." in c and _CLASSES.search(c)}
  for names in (own, likely):
    if len(names) == 1:
      (listed,) = names.values()
      return _class_list(files.tree.where(path), dict(enumerate(listed)))
  return None


def _class_labels(name: str, feature: Any) -> Iterator[tuple[str, list[str]]]:
  """Every list of classes in the features, with the name of its column."""
  if isinstance(feature, list):
    feature = dict(enumerate(feature))
  if not isinstance(feature, dict):
    return
  if feature.get("_type") == "ClassLabel":
    if 0 < len(feature.get("names", [])) <= IGNORE:
      yield name, feature["names"]
    return
  for key, value in feature.items():
    yield from _class_labels(f"{name}.{key}".lstrip("."), value)


def _class_list(where: str, names: dict[int, str]) -> ClassList:
  """Classes by number; 255 may be the ignored one."""
  names = {k: n for k, n in names.items() if k != IGNORE}
  if sorted(names) != list(range(len(names))):
    raise BadExample(
      where,
      "wrong-class-list",
      f"numbers of classes must be from 0 on, got {sorted(names)[:10]}",
    )
  class_lists.check_count(where, len(names))
  ordered = tuple(names[k] for k in sorted(names))
  return ClassList(where, ordered, (None,) * len(ordered), IGNORE, True)
