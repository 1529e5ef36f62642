"""YOLO's segments: a text file for each picture, classes in data.yaml.

A line is a class and the points of a polygon, as shares of the picture's width
and height. The text of images/a/x.jpg is labels/a/x.txt, or x.txt beside it. A
picture without text, or with an empty one, has no object.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml

from deeplab_jax.data.annotations.drawing import Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  class_list,
  export,
)
from deeplab_jax.data.annotations.files import (
  Files,
  split_of,
  understood,
  upright_size,
  without_suffix,
)
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "YOLO segments"
_SLACK = 1e-4  # by which rounded shares may be below 0 or above 1
_LOOKED_AT = 20  # texts that are read to recognise the format
_LINE = re.compile(r"\d+( +[-+.\deE]+)+")
_NO_LABELS = ("classes.txt", "notes.txt", "readme")


def fits(files: Files) -> bool:
  """Whether there are classes, pictures, and texts of numbers."""
  return _names_file(files) is not None and _has_lines(files)


def _has_lines(files: Files) -> bool:
  """Whether texts of pictures hold a class and numbers."""
  texts = set(files.ending(".txt"))
  found = [t for t in map(_text_of, files.pictures) for t in t if t in texts]
  for path in found[:_LOOKED_AT]:
    try:
      lines = files.tree.lines(path)
    except BadExample:
      continue
    if lines:
      return _LINE.fullmatch(lines[0]) is not None
  return bool(found)


def _text_of(picture: str) -> tuple[str, ...]:
  """Where the text of a picture may be."""
  stem = without_suffix(picture)
  parts = stem.split("/")
  places = [
    "/".join([*parts[:i], "labels", *parts[i + 1 :]])
    for i in range(len(parts) - 2, -1, -1)
    if parts[i].lower() == "images"
  ]
  return tuple(f"{place}.txt" for place in [*places, stem])


def _names_file(files: Files) -> str | None:
  """The file of the names of classes: data.yaml, or else classes.txt."""
  for path in sorted(files.ending(".yaml", ".yml"), key=len):
    if "names" in _yaml(files, path):
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
  with understood(where):
    names = fields["names"] if fields else files.tree.lines(path)
    if isinstance(names, dict):
      numbers = sorted(map(int, names))
      if numbers != list(range(len(numbers))):
        raise ValueError(f"names of the numbers {numbers}, not from 0 on")
      names = [
        value for _, value in sorted((int(k), v) for k, v in names.items())
      ]
    listed, labels = class_list(where, names)
  painter = Painter(listed, options)
  texts = set(files.ending(".txt"))
  pictures = []
  for picture in files.pictures:
    text = next((t for t in _text_of(picture) if t in texts), None)
    file = files.tree.file(picture)
    here = files.tree.where(text or picture)
    objects = functools.partial(_objects, files, file, text, labels)
    lines = _lines(files, text)
    split = _split(files, fields, picture)
    pictures.append(
      Picture(picture, split, file, painter.mask(here, objects), bool(lines))
    )
  return export(TITLE, files, pictures, options, listed=listed, painter=painter)


def _split(files: Files, fields: dict[str, Any], picture: str) -> str:
  """The split of a picture: as data.yaml says, or else its folders."""
  for split in ("train", "val", "test"):
    for place in _places(fields.get(split)):
      if place.endswith(".txt"):
        if picture in _listed(files, place):
          return split
      elif f"/{place}/" in f"/{picture}":
        return split
  return split_of(picture)


def _places(entry: Any) -> Iterator[str]:
  """The folders or lists of an entry of data.yaml, below any folder."""
  for place in entry if isinstance(entry, list) else [entry]:
    if isinstance(place, str):
      parts = place.replace("\\", "/").split("/")
      cleaned = "/".join(part for part in parts if part not in ("", ".", ".."))
      if cleaned:
        yield cleaned


@functools.lru_cache(maxsize=16)
def _listed(files: Files, place: str) -> frozenset[str]:
  """The pictures in a list that data.yaml names."""
  paths = [p for p in files.paths if f"/{p}".endswith(f"/{place}")]
  lines = files.tree.lines(paths[0]) if paths else []
  return frozenset(filter(None, map(files.find, lines)))


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
  number = int(kind)
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
