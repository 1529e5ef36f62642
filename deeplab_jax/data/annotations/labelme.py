"""LabelMe: a json of shapes for each picture.

Later shapes are drawn over earlier ones. Lines are 10 pixels wide, as LabelMe
makes masks of them; points have no area. labels.txt, if there is one, orders
the classes; shapes of the class `__ignore__` are ignored.
"""

from __future__ import annotations

import base64
import functools
import posixpath
from typing import Any

import numpy as np

from deeplab_jax.data.annotations import geometry
from deeplab_jax.data.annotations.drawing import Loss, Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  export,
  locate,
)
from deeplab_jax.data.annotations.files import (
  Files,
  composed,
  is_picture,
  split_of,
  understood,
  upright_size,
  without_suffix,
)
from deeplab_jax.data.annotations.naming import label_of, named_classes
from deeplab_jax.data.annotations.options import LISTED, Options
from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "LabelMe json"
_WIDTH = 10.0  # of lines
_NO_AREA = ("point", "points")
# What outlines are called; the last two by X-AnyLabeling, which writes these
# files as well.
_OUTLINES = (
  *("polygon", "rectangle", "oriented_rectangle", "rotation", "quadrilateral"),
)
_DERIVED = "label_names.txt"  # beside pictures that labelme_export_json makes


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(_is_labelme, files.documents.values()))


def _is_labelme(document: Any) -> bool:
  return (
    isinstance(document, dict)
    and isinstance(document.get("shapes"), list)
    and "imagePath" in document
  )


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  found = {path: _trimmed(value) for path, value in files.alike(_is_labelme)}
  names = {
    str(shape["label"])
    for document in found.values()
    for shape in document["shapes"]
    if isinstance(shape, dict) and _has_label(shape)
  }
  listed, labels = named_classes(files, files.tree.where(min(found)), names)
  painter = Painter(listed, options, LISTED)
  pictures = [
    _picture(files, path, document, labels, painter)
    for path, document in found.items()
  ]
  pictures += [
    _broken(files, path)
    for path in files.broken
    if path.rpartition("/")[0] in {p.rpartition("/")[0] for p in found}
  ]
  annotated = {picture.path for picture in pictures}
  stems = {without_suffix(path) for path in found}
  derived = {p.rpartition("/")[0] for p in files.ending(f"/{_DERIVED}")}
  for path in files.pictures:
    is_free = without_suffix(path) not in stems and path not in annotated
    if is_free and path.rpartition("/")[0] not in derived:
      file = files.tree.file(path)
      mask = painter.mask(file.where, functools.partial(_nothing, file))
      pictures.append(Picture(path, split_of(path), file, mask, False))
  return export(TITLE, files, pictures, options, listed=listed, painter=painter)


def _trimmed(document: dict[str, Any]) -> dict[str, Any]:
  """A document without the copy of its picture, which is large."""
  kept = ("shapes", "imagePath", "imageHeight", "imageWidth")
  return {name: document.get(name) for name in kept}


def _has_label(shape: dict[str, Any]) -> bool:
  return str(shape.get("label") or "").strip() != ""


def _nothing(file: File) -> tuple[list[Shape], tuple[int, int]]:
  return [], upright_size(file.where, file.read())


def _broken(files: Files, path: str) -> Picture:
  """A json that cannot be read, beside others that can."""
  where = files.tree.where(path)

  def refuse() -> bytes:
    return files.json(path)  # which raises

  file, stem = File(where, refuse), without_suffix(path)
  name = next(iter(files.of_stem(stem)), f"{stem}.jpg")
  return Picture(name, split_of(path), file, file)


def _picture(
  files: Files,
  path: str,
  document: dict[str, Any],
  labels: dict[str, int],
  painter: Painter,
) -> Picture:
  where, split = files.tree.where(path), split_of(path)
  name, file = _image(files, path, str(document["imagePath"]))
  objects = functools.partial(_objects, where, document, file, labels)
  mask = painter.mask(where, objects, _without_area(document))
  return Picture(name, split, file, mask, bool(document["shapes"]))


def _image(files: Files, path: str, name: str) -> tuple[str, File]:
  """The picture of a document: as it says, of its name, or the copy in it."""
  folder = path.rpartition("/")[0]
  there = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
  for candidate in (
    *(composed(there), there),
    *files.of_stem(without_suffix(path)),
  ):
    if candidate in files.tree and is_picture(candidate):
      return candidate, files.tree.file(candidate)
  found, file = locate(files, name, split_of(path), files.tree.where(path))
  if found in files.tree:
    return found, file

  def copy() -> bytes:
    data = files.json(path).get("imageData")
    with understood(files.tree.where(path)):
      return _unpacked(data) if data else file.read()

  return posixpath.join(folder, posixpath.basename(there)), File(
    file.where, copy
  )


def _unpacked(text: str) -> bytes:
  """A file that is written as text, perhaps as a data URL."""
  return base64.b64decode(text.rpartition(",")[2])


def _without_area(document: dict[str, Any]) -> list[Loss]:
  """Points, which a mask cannot show."""
  return [
    Loss("no-area", f"shape {number}")
    for number, shape in enumerate(document["shapes"], 1)
    if isinstance(shape, dict) and shape.get("shape_type") in _NO_AREA
  ]


def _objects(
  where: str,
  document: dict[str, Any],
  image: File,
  labels: dict[str, int],
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  height, width = document["imageHeight"], document["imageWidth"]
  if height and width:
    size = int(height), int(width)
  else:
    size = upright_size(image.where, image.read())
  shapes = []
  for number, shape in enumerate(document["shapes"], 1):
    here = printable(f"{where}, shape {number}")
    with understood(here):
      if not _has_label(shape):
        raise ValueError("a shape without label")
      label = label_of(here, str(shape["label"]), labels)
      kind = shape.get("shape_type") or "polygon"
      if kind not in _NO_AREA:
        shapes.append(_shape(here, f"shape {number}", label, kind, shape))
  return shapes, size


def _shape(
  where: str, name: str, label: int, kind: str, shape: dict[str, Any]
) -> Shape:
  """One object, whatever it was drawn with."""
  points = geometry.ring(shape["points"])
  if kind == "mask":
    return _bitmap(where, name, label, points, shape.get("mask"))
  if kind == "circle":
    if len(points) != 2:
      raise ValueError(f"a circle of {len(points)} points, not 2")
    center, edge = points
    radius = float(np.hypot(*(edge - center)))
    return Shape(name, label, [geometry.ellipse(center, (radius, radius))])
  if kind in ("line", "linestrip"):
    parts = geometry.strip(points, _WIDTH)
    return Shape(name, label, parts, is_line=True)
  if kind == "rectangle" and len(points) == 2:
    return Shape(name, label, [geometry.rectangle(*points)])
  if kind in _OUTLINES:
    return Shape(name, label, [points])
  raise ValueError(f"a shape of the kind {kind!r}")


def _bitmap(
  where: str, name: str, label: int, points: np.ndarray, encoded: str | None
) -> Shape:
  """A shape of pixels, in the box that two points enclose."""
  if not encoded:
    raise ValueError("a mask without pixels")
  pixels = masks.decode(where, _unpacked(encoded)).pixels > 0
  (left, top), (right, bottom) = points.astype(int).tolist()
  box = bottom - top + 1, right - left + 1
  if pixels.shape != box:
    raise BadExample(
      where,
      "rle-size",
      f"a mask must be of the size of its box {box[1]}x{box[0]}, got "
      f"{pixels.shape[1]}x{pixels.shape[0]}",
    )
  return Shape(name, label, bitmap=pixels, corner=(left, top))
