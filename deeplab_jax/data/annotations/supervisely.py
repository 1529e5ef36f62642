"""Supervisely's projects: meta.json, and ann/ and img/ of each data set.

Later objects are drawn over earlier ones. Polygons may have holes and several
parts, bitmaps are packed PNGs; lines and points have no area. Points are whole
pixels, as Supervisely's SDK has them in projects that are downloaded: an
outline belongs to its object, that of a hole to the hole, and masks are those
that the SDK draws.
"""

from __future__ import annotations

import base64
import functools
import zlib
from typing import Any

import numpy as np

from deeplab_jax.data import headers
from deeplab_jax.data.annotations import geometry
from deeplab_jax.data.annotations.drawing import Loss, Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  export,
)
from deeplab_jax.data.annotations.files import (
  Files,
  split_of,
  understood,
  upright_size,
  without_suffix,
)
from deeplab_jax.data.annotations.naming import label_of, named_classes
from deeplab_jax.data.annotations.options import LISTED, Options
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "Supervisely"
_NO_AREA = ("point", "line", "polyline", "graph")
_DRAWN = (
  *("polygon", "multipolygon", "rectangle", "oriented_bbox"),
  *("bitmap", "alpha_mask"),
)
_MOST_BYTES = 1 << 28  # of a bitmap, unpacked


def fits(files: Files) -> bool:
  """Whether there is a meta.json with classes, and annotations."""
  return _meta(files) is not None and any(
    isinstance(document, dict)
    and isinstance(document.get("objects"), list)
    and isinstance(document.get("size"), dict)
    for document in files.documents.values()
  )


def _meta(files: Files) -> str | None:
  for path, document in files.documents.items():
    if path.rpartition("/")[2] == "meta.json" and isinstance(document, dict):
      classes = document.get("classes")
      if isinstance(classes, list) and all("title" in c for c in classes):
        return path
  return None


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  meta = _meta(files)
  where = files.tree.where(meta)
  with understood(where):
    classes = files.documents[meta]["classes"]
    names = [str(entry["title"]) for entry in classes]
    colors = {n: _color(e.get("color")) for n, e in zip(names, classes)}
    kinds = {n: str(e.get("shape")) for n, e in zip(names, classes)}
  colors = {name: color for name, color in colors.items() if color}
  listed, labels = named_classes(files, where, names, colors, is_ordered=True)
  painter = Painter(listed, options, LISTED)
  pictures, used = [], set()
  for path in files.pictures:
    if "img" not in path.split("/")[:-1]:
      continue
    file, annotation = files.tree.file(path), _annotation(files, path)
    document, losses = None, []
    if annotation is not None:
      document, losses = _document(files, annotation, kinds)
    here = files.tree.where(annotation or path)
    objects = functools.partial(
      _objects, files, annotation, file, labels, kinds
    )
    used.add(annotation)
    pictures.append(
      Picture(
        path,
        split_of(path),
        file,
        painter.mask(here, objects, losses),
        annotation is not None and document != [],
      )
    )
  faults = [
    BadExample(
      files.tree.where(path),
      "unknown-picture",
      "an annotation must have a picture of its name in img/, got none",
    )
    for path in files.ending(".json")
    if "ann" in path.split("/")[:-1] and path not in used
  ]
  return export(
    TITLE,
    files,
    pictures,
    options,
    listed=listed,
    painter=painter,
    faults=faults,
  )


def _color(text: Any) -> tuple[int, int, int] | None:
  """#rrggbb."""
  if isinstance(text, str) and len(text) == 7 and text[0] == "#":
    return tuple(bytes.fromhex(text[1:]))
  return None


def _annotation(files: Files, picture: str) -> str | None:
  """ds/ann/x.jpg.json, or ds/ann/x.json as older projects have it."""
  parts = picture.split("/")
  place = len(parts) - 1 - parts[::-1].index("img")
  path = "/".join([*parts[:place], "ann", *parts[place + 1 :]])
  for name in (f"{path}.json", f"{without_suffix(path)}.json"):
    if name in files.tree:
      return name
  return None


def _kind(entry: dict[str, Any], kinds: dict[str, str]) -> str:
  """What an object was drawn with: as it says, or else its class, of `kinds`.

  Raises:
    KeyError: neither does.
  """
  own = entry.get("geometryType") or entry.get("shape")
  kind = own or kinds.get(str(entry.get("classTitle")), "any")
  if kind == "any":
    raise KeyError("geometryType")
  return kind


def _document(
  files: Files, path: str, kinds: dict[str, str]
) -> tuple[Any, list[Loss]]:
  """The objects of an annotation, and which of them have no area.

  None for a broken one, which is said when the picture is read.
  """
  try:
    with understood(files.tree.where(path)):
      objects = files.json(path)["objects"]
      losses = [
        Loss("no-area", _name(entry, number))
        for number, entry in enumerate(objects, 1)
        if _kind(entry, kinds) in _NO_AREA
      ]
  except ValueError:
    return None, []
  return objects, losses


def _name(entry: dict[str, Any], number: int) -> str:
  return f"object {entry.get('id', number)}"


def _objects(
  files: Files,
  path: str | None,
  image: File,
  labels: dict[str, int],
  kinds: dict[str, str],
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  if path is None:
    return [], upright_size(image.where, image.read())
  document = files.json(path)
  size = int(document["size"]["height"]), int(document["size"]["width"])
  shapes = []
  for number, entry in enumerate(document["objects"], 1):
    name = _name(entry, number)
    here = printable(f"{files.tree.where(path)}, {name}")
    with understood(here):
      label = label_of(here, str(entry["classTitle"]), labels)
      kind = _kind(entry, kinds)
      if kind not in _NO_AREA:
        shapes += shapes_of(name, label, kind, entry)
  return shapes, size


def shapes_of(
  name: str, label: int, kind: str, entry: dict[str, Any]
) -> list[Shape]:
  """One object, whatever `kind` it is of; of several polygons, each, as one may
  lie in a hole of another."""
  if kind == "multipolygon":
    return [_polygon(name, label, part) for part in entry["parts"]]
  return [_shape(name, label, kind, entry)]


def _polygon(name: str, label: int, points: dict[str, Any]) -> Shape:
  holes = [geometry.ring(hole) for hole in points.get("interior") or []]
  outer = geometry.ring(points["exterior"])
  return Shape(name, label, [outer], holes, of_pixels=True)


def _shape(name: str, label: int, kind: str, entry: dict[str, Any]) -> Shape:
  if kind in ("bitmap", "alpha_mask"):
    x, y = entry["bitmap"]["origin"]
    pixels = _bitmap(entry["bitmap"]["data"])
    return Shape(name, label, bitmap=pixels, corner=(int(x), int(y)))
  if kind == "oriented_bbox":
    corners = _turned(geometry.ring(entry["points"]), float(entry["angle"]))
    return Shape(name, label, [corners], of_pixels=True)
  if kind == "rectangle":
    corners = geometry.rectangle(*geometry.ring(entry["points"]["exterior"]))
    return Shape(name, label, [corners], of_pixels=True)
  if kind == "polygon":
    return _polygon(name, label, entry["points"])
  allowed = f"{', '.join((*_DRAWN, *_NO_AREA))}"
  raise ValueError(
    f"an object of the kind {kind!r}, which is none of {allowed}"
  )


def _turned(corners: np.ndarray, angle: float) -> np.ndarray:
  """The outline (4, 2) of a box of two corners, turned about its centre by an
  angle in radians."""
  corners = np.floor(corners)
  center = corners.sum(0) // 2  # a pixel
  box = geometry.rectangle(*corners) - center
  return geometry.turned(box, np.rad2deg(angle)) + center


def _bitmap(data: str) -> np.ndarray:
  """Pixels (h, w) bool of a PNG that is packed once more."""
  unpacker = zlib.decompressobj()
  png = unpacker.decompress(base64.b64decode(data), _MOST_BYTES)
  picture = headers.open_picture(png)
  pixels = np.asarray(picture)
  if picture.mode == "P":
    pixels = np.asarray(picture.convert("RGBA"))
  if pixels.ndim == 3:
    pixels = pixels[..., 3] if pixels.shape[2] == 4 else pixels.any(-1)
  return pixels > 0
