"""Label Studio's json, in full or minimal (JSON_MIN).

Polygons, rectangles and ellipses are in percent of the picture; strokes of a
brush are run lengths of Label Studio's own. Of a task with several annotations
the first that is not cancelled counts, a ground truth before others. Later
regions are drawn over earlier ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from deeplab_jax.data.annotations import geometry
from deeplab_jax.data.annotations.brush import decode_brush
from deeplab_jax.data.annotations.drawing import Loss, Shape
from deeplab_jax.data.annotations.export import (
  Export,
  Painter,
  Picture,
  export,
  locate,
  ring,
)
from deeplab_jax.data.annotations.files import (
  Files,
  is_picture,
  split_of,
  understood,
  upright_size,
)
from deeplab_jax.data.annotations.naming import label_of, named_classes
from deeplab_jax.data.annotations.options import LISTED, Options
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "Label Studio json"
_SLACK = 0.01  # percent by which rounded points may be outside
_LABELS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")
_NO_AREA = ("keypointlabels", "vectorlabels")


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(_is_tasks, files.documents.values()))


def _is_tasks(document: Any) -> bool:
  if not isinstance(document, list) or not document:
    return False
  first = document[0]
  if not isinstance(first, dict):
    return False
  is_full = isinstance(first.get("data"), dict) and (
    "annotations" in first or "completions" in first
  )
  return is_full or any(
    _regions_of_minimal(task) for task in document if isinstance(task, dict)
  )


def _regions_of_minimal(task: dict[str, Any]) -> list[dict[str, Any]]:
  """The regions of a task of JSON_MIN, whatever their field is called."""
  return [
    region
    for value in task.values()
    if isinstance(value, list)
    for region in value
    if isinstance(region, dict) and "original_width" in region
  ]


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  found = list(files.alike(_is_tasks))
  tasks = []
  for path, document in found:
    for index, task in enumerate(document):
      where = f"{files.tree.where(path)}, task {_id(task, index)}"
      with understood(where):
        regions, losses = _regions(task)
      tasks.append((path, where, task, regions, losses))
  names = {n for *_, regions, _ in tasks for r in regions for n in _names(r)}
  where = files.tree.where(found[0][0])
  listed, labels = named_classes(files, where, names)
  painter = Painter(listed, options, LISTED)
  pictures = []
  for path, where, task, regions, losses in tasks:
    split = split_of(path, is_document=True)
    name, file = locate(files, _image_name(files, task), split, where)
    objects = functools.partial(_objects, where, regions, file, labels)
    mask = painter.mask(where, objects, losses)
    is_annotated = bool(regions) or bool(losses)
    pictures.append(Picture(name, split, file, mask, is_annotated))
  return export(TITLE, files, pictures, options, listed=listed, painter=painter)


def _id(task: Any, index: int) -> Any:
  return task.get("id", index + 1) if isinstance(task, dict) else index + 1


def _image_name(files: Files, task: dict[str, Any]) -> str:
  """What a task calls its picture.

  An upload has a few letters and a hyphen in front of the name it had.
  """
  values = task["data"] if isinstance(task.get("data"), dict) else task
  texts = [v for v in values.values() if isinstance(v, str)]
  likely = [
    t for t in texts if is_picture(t.partition("?")[0]) or is_picture(t)
  ]
  name = (likely or texts or ["?"])[0]
  base = name.replace("\\", "/").rpartition("/")[2]
  original = base.partition("-")[2]
  if original and not _is_there(files, name) and _is_there(files, original):
    return original
  return name


def _is_there(files: Files, name: str) -> bool:
  try:
    return files.find(name) is not None
  except BadExample:  # several
    return True


def _regions(
  task: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[Loss]]:
  """The regions of a task, and what of it has no area or is not taken."""
  if not isinstance(task.get("data"), dict):
    found, losses = _regions_of_minimal(task), []
  else:
    done = task.get("annotations", task.get("completions")) or []
    done = [a for a in done if not a.get("was_cancelled")]
    done.sort(key=lambda a: not a.get("ground_truth"))
    found = done[0]["result"] if done else []
    losses = [
      Loss("several-annotations", f"annotation {a.get('id')}") for a in done[1:]
    ]
  losses += [
    Loss("no-area", f"region {r.get('id', i)}")
    for i, r in enumerate(found, 1)
    if any(name in {**r, **r.get("value", {})} for name in _NO_AREA)
  ]
  return [r for r in found if list(_names(r))], losses


def _names(region: dict[str, Any]) -> Iterator[str]:
  """The classes of a region that has an area."""
  value = region.get("value", region)
  for kind in _LABELS:
    yield from value.get(kind) or []


def _objects(
  where: str,
  regions: list[dict[str, Any]],
  image: File,
  labels: dict[str, int],
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  size, shapes = None, []
  for number, region in enumerate(regions, 1):
    name = f"region {region.get('id', number)}"
    here = printable(f"{where}, {name}")
    with understood(here):
      own = int(region["original_height"]), int(region["original_width"])
      size = size or own
      if own != size:
        raise ValueError(
          f"the size {own[1]}x{own[0]}, others {size[1]}x{size[0]}"
        )
      if region.get("image_rotation") or 0:
        raise ValueError("a picture turned in the tool")
      (label,) = (label_of(here, n, labels) for n in _names(region))
      shapes.append(_shape(here, name, label, region, size))
  return shapes, size or upright_size(image.where, image.read())


def _shape(
  where: str,
  name: str,
  label: int,
  region: dict[str, Any],
  size: tuple[int, int],
) -> Shape:
  """One object, whatever it was drawn with."""
  value = region.get("value", region)
  scale = np.array(size[::-1]) / 100
  if "rle" in value:
    pixels = decode_brush(value["rle"], size)
    if pixels is None:
      raise BadExample(
        where,
        "rle-size",
        f"run lengths must be of the picture's size {size[1]}x{size[0]}, got "
        "others",
      )
    return Shape(name, label, bitmap=pixels)
  if "points" in value:
    points = ring(value["points"])
    _check(where, points)
    return Shape(name, label, [np.clip(points, 0, 100) * scale])
  corner = np.array([value["x"], value["y"]], float)
  turn = float(value.get("rotation") or 0)
  if "radiusX" in value:
    radii = np.array([value["radiusX"], value["radiusY"]], float)
    _check(where, corner[None])
    outline = geometry.ellipse(corner * scale, radii * scale, turn)
    return Shape(name, label, [outline])
  extent = np.array([value["width"], value["height"]], float)
  _check(
    where, np.array([corner, corner + extent]) if not turn else corner[None]
  )
  box = geometry.rectangle((0, 0), extent * scale)
  return Shape(name, label, [geometry.turned(box, turn) + corner * scale])


def _check(where: str, points: np.ndarray) -> None:
  """Refuses points that are no percent of the picture."""
  wrong = points[~((points >= -_SLACK) & (points <= 100 + _SLACK))]
  if len(wrong):
    raise BadExample(
      where,
      "beyond-the-whole",
      f"points must be percent of the picture in 0..100, got {wrong[0]:g}",
    )
