"""COCO's json of instances: polygons and run lengths.

Regions that are marked as crowd are ignored where no single object is. The
splits are in the names of the files, as instances_val2017.json, or of their
folders, as valid/_annotations.coco.json of Roboflow.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deeplab_jax.data.annotations import geometry, run_lengths
from deeplab_jax.data.annotations.drawing import Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  export,
  locate,
)
from deeplab_jax.data.annotations.files import (
  Files,
  split_of,
  understood,
  upright_size,
)
from deeplab_jax.data.annotations.naming import class_list
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "COCO json"
_LISTS = ("images", "annotations", "categories")
# Of crowds, as tools write them.
_MARKS = dict.fromkeys(("0", "0.0", "false"), False) | dict.fromkeys(
  ("1", "1.0", "true"), True
)
# What COCO's other files of annotations are called, before the split.
_OTHERS = re.compile(r"(image_info|person_keypoints|captions|labels|stuff)_")


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(_is_instances, files.documents.values()))


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  documents = _chosen(list(files.alike(_is_instances)))
  listed, labels = categories(files, documents)
  painter = Painter(listed, options)
  pictures: list[Picture] = []
  faults = files.broken_beside(path for path, _ in documents)
  for path, document in documents:
    where, split = files.tree.where(path), split_of(path, is_document=True)
    with understood(where):
      of_image = by_image(where, document, faults)
    for image in images(where, document, faults):
      pictures.append(
        _picture(files, where, split, image, of_image, painter, labels)
      )
  return export(
    TITLE,
    files,
    pictures,
    options,
    listed=listed,
    painter=painter,
    faults=faults,
  )


def _is_instances(document: Any) -> bool:
  if not is_coco(document):
    return False
  return not has_segments(document)


def has_segments(document: dict[str, Any]) -> bool:
  """Whether a document with COCO's lists is of panoptic segments."""
  firsts = document["annotations"][:1]
  return any(isinstance(a, dict) and "segments_info" in a for a in firsts)


def is_coco(document: Any) -> bool:
  """Whether a document has the lists of COCO's formats."""
  return isinstance(document, dict) and all(
    isinstance(document.get(name), list)
    and any(isinstance(e, dict) for e in document[name][:9] or [{}])
    for name in _LISTS
  )


def _chosen(documents: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
  """Those of instances, where COCO's others of the same pictures lie beside."""
  chosen = [
    (path, document)
    for path, document in documents
    if not any("keypoints" in c for c in document["categories"])
    and not _OTHERS.match(path.rpartition("/")[2])
  ]
  return chosen or documents


def categories(
  files: Files,
  documents: Sequence[tuple[str, Any]],
  *,
  has_background: bool = True,
) -> tuple[Any, dict[Any, int]]:
  """The list of classes, in the order of their ids, and the label of each id.

  Raises:
    BadExample: documents disagree, or names are wrong.
  """
  names: dict[Any, str] = {}
  colors: dict[Any, Any] = {}
  for path, document in documents:
    where = files.tree.where(path)
    with understood(where):
      for category in document["categories"]:
        name, key = category["name"], number(category["id"])
        if name is None:
          raise ValueError(f"no name of category id {key}")
        colors[key] = _color(category.get("color"))
        if names.setdefault(key, name) != name:
          raise BadExample(
            where,
            "wrong-class-list",
            f"category id {key} must have one name in all files, got {name!r} "
            f"and {names[key]!r}",
          )
  with understood(files.tree.where(documents[0][0])):
    ids = sorted(names)
  listed, labels = class_list(
    files.tree.where(documents[0][0]),
    [names[key] for key in ids],
    [colors[key] for key in ids],
    has_background=has_background,
  )
  return listed, dict(zip(ids, labels))


def _color(color: Any) -> tuple[int, int, int] | None:
  """A category's colour, where it is one of panoptic's [r, g, b]."""
  if isinstance(color, list) and len(color) == 3:
    return tuple(int(v) for v in color)
  return None


def number(key: Any) -> Any:
  """An id, which some tools write as text."""
  return int(key) if isinstance(key, str) and key.isdecimal() else key


def images(
  where: str, document: Any, faults: list[BadExample]
) -> Iterator[dict[str, Any]]:
  """The entries of a document's images; one without id or name is a fault."""
  seen = set()
  for index, image in enumerate(document["images"]):
    try:
      with understood(f"{where}, image {index + 1} of the list"):
        key = image["id"] = number(image["id"])
        if key in seen:
          raise ValueError(f"the id {key} twice")
        seen.add(key)
        image.setdefault("file_name", image.get("coco_url"))
        if not isinstance(image["file_name"], str):
          raise KeyError("file_name")
    except BadExample as fault:
      faults.append(fault)
    else:
      yield image


def by_image(
  where: str, document: Any, faults: list[BadExample]
) -> dict[Any, list[dict[str, Any]]]:
  """Annotations by the id of their image; one of no image is a fault."""
  known = {number(image.get("id")) for image in document["images"]}
  found = collections.defaultdict(list)
  for index, annotation in enumerate(document["annotations"]):
    name = annotation.get("id", f"{index + 1} of the list")
    key = number(annotation.get("image_id"))
    if key in known:
      found[key].append(annotation)
    else:
      faults.append(
        BadExample(
          printable(f"{where}, annotation {name}"),
          "unknown-picture",
          "image_id must be one of the images listed, got "
          f"{annotation.get('image_id')!r}",
        )
      )
  return found


def _picture(
  files: Files,
  where: str,
  split: str,
  image: dict[str, Any],
  of_image: dict[Any, list[dict[str, Any]]],
  painter: Painter,
  labels: dict[Any, int],
) -> Picture:
  annotations = of_image.get(image["id"], [])
  where = f"{where}, image {image['id']} ({image['file_name']})"
  path, file = locate(files, image["file_name"], split, where)
  objects = functools.partial(_objects, where, image, file, annotations, labels)
  return Picture(
    path, split, file, painter.mask(where, objects), bool(annotations)
  )


def _objects(
  where: str,
  image: dict[str, Any],
  file: File,
  annotations: Sequence[dict[str, Any]],
  labels: dict[Any, int],
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  size = size_of(image, file)
  shapes = []
  for annotation in annotations:
    name = f"annotation {annotation.get('id')}"
    here = printable(f"{where}, {name}")
    with understood(here):
      label = label_of(here, annotation["category_id"], labels)
      crowd = is_crowd(annotation)
      rings, bitmap = _outline(here, annotation.get("segmentation"), size)
    shapes.append(Shape(name, label, rings, (), bitmap, is_crowd=crowd))
  return shapes, size


def size_of(image: dict[str, Any], file: File) -> tuple[int, int]:
  """Height and width of a picture, where they are not given those it has."""
  if image.get("height") and image.get("width"):
    return int(image["height"]), int(image["width"])
  return upright_size(file.where, file.read())


def is_crowd(annotation: dict[str, Any]) -> bool:
  """Whether an annotation is marked as a crowd.

  Raises:
    ValueError: it is marked with anything but 0 and 1.
  """
  mark = annotation.get("iscrowd") or 0
  if str(mark).lower() not in _MARKS:
    raise ValueError(f"iscrowd {mark!r}, not 0 or 1")
  return _MARKS[str(mark).lower()]


def label_of(where: str, category: Any, labels: dict[Any, int]) -> int:
  """The label of a category's id.

  Raises:
    BadExample: there is no such category.
  """
  category = number(category)
  if category not in labels:
    raise BadExample(
      where,
      "unknown-category",
      f"category_id must be one of {', '.join(map(str, labels))}, got "
      f"{category!r}",
    )
  return labels[category]


def _outline(
  where: str, segmentation: Any, size: tuple[int, int]
) -> tuple[list[np.ndarray], np.ndarray | None]:
  """Polygons, or what run lengths (rle) cover."""
  if isinstance(segmentation, list) and any(x != [] for x in segmentation):
    if isinstance(segmentation[0], dict) and len(segmentation) == 1:
      return _outline(where, segmentation[0], size)
    if not isinstance(segmentation[0], list):  # one polygon, without a list
      segmentation = [segmentation]
    return [geometry.ring(polygon) for polygon in segmentation], None
  if not segmentation or isinstance(segmentation, list):
    raise BadExample(
      where, "no-outline", "must have a segmentation, got a box or nothing"
    )
  height, width = (int(side) for side in segmentation["size"])
  if (height, width) != size:
    raise BadExample(
      where,
      "rle-size",
      f"run lengths must be of the picture's size {size[1]}x{size[0]}, got "
      f"{width}x{height}",
    )
  pixels = run_lengths.pixels(segmentation["counts"], size)
  if pixels is None:
    raise BadExample(
      where,
      "rle-size",
      f"run lengths must add up to {size[1]}x{size[0]} pixels, got others",
    )
  return [], pixels
