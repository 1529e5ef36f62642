"""YOLO's segments: a text file for each picture, classes in data.yaml.

A line is a class and the points of a polygon, as shares of the picture's width
and height. The text of images/a/x.jpg is labels/a/x.txt, or x.txt beside it,
whatever the case. A picture without text, or with an empty one, has no object.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml

from deeplab_jax.data.annotations import yolo_splits
from deeplab_jax.data.annotations.drawing import Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  export,
)
from deeplab_jax.data.annotations.files import (
  Files,
  understood,
  upright_size,
  without_suffix,
)
from deeplab_jax.data.annotations.naming import class_list
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "YOLO segments"
_SLACK = 1e-4  # by which rounded shares may be below 0 or above 1
_POSE = "kpt_shape"  # a field of data.yaml where lines hold boxes and points
_LOOKED_AT = 20  # texts that are read to recognise the format
_NUMBER = r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+|nan|inf)"
_LINE = re.compile(rf"[-+]?\d+(\.0*)?(\s+{_NUMBER}){{2,}}", re.IGNORECASE)


def fits(files: Files) -> bool:
  """Whether there are classes, pictures, and texts of numbers."""
  return _names_file(files) is not None and _has_lines(files)


def _has_lines(files: Files) -> bool:
  """Whether texts of pictures hold a class and numbers."""
  texts = _texts(files)
  found = [text for p in files.pictures if (text := _text_of(p, texts))]
  firsts = [_lines(files, path)[:1] for path in found[:_LOOKED_AT]]
  if not any(firsts):
    return bool(found)
  return any(_LINE.fullmatch(line) for lines in firsts for line in lines)


def without_names(files: Files) -> BadExample | None:
  """The fault of segments whose classes have no names; None if there are no
  segments."""
  if not _has_lines(files) or not any(map(_is_below_labels, _texts(files))):
    return None
  return BadExample(
    files.tree.origin,
    "no-names",
    f"{TITLE} must have a data.yaml with names, or classes.txt, got none",
  )


def _is_below_labels(path: str) -> bool:
  return "/labels/" in f"/{path}"


def _texts(files: Files) -> dict[str, str]:
  """Paths of the texts, by what they are in small letters."""
  return {path.lower(): path for path in files.ending(".txt")}


def _text_of(picture: str, texts: dict[str, str]) -> str | None:
  """The text of a picture; None if there is none."""
  stem = without_suffix(picture).lower()
  parts = stem.split("/")
  places = [
    "/".join([*parts[:i], "labels", *parts[i + 1 :]])
    for i in range(len(parts) - 2, -1, -1)
    if parts[i] == "images"
  ]
  found = (texts.get(f"{place}.txt") for place in [*places, stem])
  return next(filter(None, found), None)


def _names_file(files: Files) -> str | None:
  """The file of the names of classes: data.yaml, or else classes.txt."""
  paths = files.ending(".yaml", ".yml")
  own = {path for path in paths if path.rpartition("/")[2].startswith("data")}
  for path in sorted(paths, key=lambda path: (path not in own, len(path))):
    if isinstance(_yaml(files, path).get("names"), list | dict):
      return path
  texts = files.ending("classes.txt")
  return min(texts, key=len) if texts else None


def _yaml(files: Files, path: str) -> dict[str, Any]:
  """What a YAML file holds; nothing if it is none of this format."""
  try:
    fields = yaml.safe_load(files.tree.read(path))
  except (yaml.YAMLError, ValueError, RecursionError):
    return {}
  return fields if isinstance(fields, dict) else {}


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  path = _names_file(files)
  where = files.tree.where(path)
  fields = {} if path.endswith(".txt") else _yaml(files, path)
  if _POSE in fields:
    raise BadExample(
      where,
      "unread-format",
      f"this is of YOLO's keypoints ({_POSE}), which are no outlines: export "
      "segments",
    )
  with understood(where):
    names = _names(fields) if fields else files.tree.lines(path)
    listed, labels = class_list(where, names)
  painter = Painter(listed, options)
  texts, used = _texts(files), set()
  splits = yolo_splits.find(files, fields, where)
  pictures = []
  for picture in files.pictures:
    text = _text_of(picture, texts)
    used.add(text)
    split = splits.of(picture)
    if split is None:
      continue
    file = files.tree.file(picture)
    here = files.tree.where(text or picture)
    objects = functools.partial(_objects, files, file, text, labels)
    lines = _lines(files, text)
    pictures.append(
      Picture(picture, split, file, painter.mask(here, objects), bool(lines))
    )
  return export(
    TITLE,
    files,
    pictures,
    options,
    listed=listed,
    painter=painter,
    faults=[*splits.faults, *_alone(files, used)],
    lines=splits.lines,
  )


def _names(fields: dict[str, Any]) -> list[str]:
  """The names of data.yaml, in the order of their numbers."""
  names = fields["names"]
  if isinstance(names, dict):
    by_number = {int(number): name for number, name in names.items()}
    if sorted(by_number) != list(range(len(names))):
      raise ValueError(
        f"names of the numbers {sorted(by_number)}, not from 0 on"
      )
    names = [by_number[number] for number in sorted(by_number)]
  for name in names:
    if not isinstance(name, str | int | float) or isinstance(name, bool):
      raise ValueError(f"the name {name!r}: write names between quotes")
  if isinstance(count := fields.get("nc"), int) and count != len(names):
    raise ValueError(f"{len(names)} names, but nc: {count}")
  return [str(name) for name in names]


def _alone(files: Files, used: set[str | None]) -> Iterator[BadExample]:
  """The faults of texts that have no picture, in the folders of those used."""
  folders = {text.rpartition("/")[0] for text in used if text}
  for path in files.ending(".txt"):
    if path in used or path.rpartition("/")[0] not in folders:
      continue
    lines = _lines(files, path)
    if lines and _LINE.fullmatch(lines[0]):
      yield BadExample(
        files.tree.where(path),
        "unknown-picture",
        "a text must have a picture of its name, got none",
      )


def _lines(files: Files, path: str | None) -> list[str]:
  """The lines of a picture's text; none if it cannot be read, which is said
  when the picture is."""
  try:
    return files.tree.lines(path) if path else []
  except BadExample:
    return ["?"]


def _objects(
  files: Files, image: File, path: str | None, labels: Sequence[int]
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  size = upright_size(image.where, image.read())
  if path is None:
    return [], size
  where = files.tree.where(path)
  shapes = []
  for number, line in enumerate(files.tree.lines(path), 1):
    here = printable(f"{where}, line {number}")
    with understood(here):
      kind, *values = line.split()
      label = _label(here, kind, labels)
      shares = np.array(values, float)
      points = _points(here, shares) * size[::-1]
    shapes.append(Shape(f"line {number}", label, [points]))
  return shapes, size


def _label(where: str, kind: str, labels: Sequence[int]) -> int:
  number = float(kind)
  if not number.is_integer():
    raise ValueError(f"the class {kind}, no whole number")
  number = int(number)
  if not 0 <= number < len(labels):
    raise BadExample(
      where,
      "unknown-category",
      f"the class must be 0..{len(labels) - 1}, got {number}",
    )
  return labels[number]


def _points(where: str, shares: np.ndarray) -> np.ndarray:
  """The points (n, 2) of a line's numbers, all of 0..1."""
  if len(shares) == 4:
    raise BadExample(
      where,
      "no-outline",
      "a line must be a class and the points of a polygon, got a box",
    )
  if len(shares) % 2:
    raise ValueError(f"{len(shares)} numbers, which are no points")
  wrong = shares[~((shares >= -_SLACK) & (shares <= 1 + _SLACK))]
  if len(wrong):
    raise BadExample(
      where,
      "beyond-the-whole",
      f"points must be shares of the picture in 0..1, got {wrong[0]:g}",
    )
  return np.clip(shares, 0, 1).reshape(-1, 2)
