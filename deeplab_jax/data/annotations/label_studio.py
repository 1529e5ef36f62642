"""Label Studio's json, in full or minimal (JSON_MIN).

Polygons, rectangles and ellipses are in percent of the picture; strokes of a
brush are run lengths of Label Studio's own, bitmasks are PNGs. Of a task with
several annotations (in JSON_MIN: rows of one id) the first that is not
cancelled counts, a ground truth before others. Later regions are drawn over
earlier ones.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from deeplab_jax.data import headers
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
_NO_AREA = ("keypointlabels", "vectorlabels")
_OUTLINES = ("points", "rle", "imageDataURL", "radiusX", "width")
_LOOKED_AT = 20  # tasks of a document that are read to recognise the format


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(_is_tasks, files.documents.values()))


def _is_tasks(document: Any) -> bool:
  if not isinstance(document, list) or not document:
    return False
  tasks = [task for task in document if isinstance(task, dict)]
  is_full = any(
    isinstance(task.get("data"), dict)
    and ("annotations" in task or "completions" in task)
    for task in tasks[:_LOOKED_AT]
  )
  return is_full or any(map(_regions_of_minimal, tasks))


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
  tasks = [task for path, document in found for task in _tasks(path, document)]
  read_of = [_understood(files, *task) for task in tasks]
  names = {n for regions, *_ in read_of for r in regions for n in _names(r)}
  if not names:
    for fault in (fault for *_, fault in read_of if fault):
      raise fault
  where = files.tree.where(found[0][0])
  listed, labels = named_classes(files, where, names)
  painter = Painter(listed, options, LISTED)
  pictures = []
  for (path, name, task, _), read_one in zip(tasks, read_of):
    regions, losses, fault = read_one
    where, split = f"{files.tree.where(path)}, {name}", split_of(path, True)
    picture, file = _image(files, task, regions, split, where)
    objects = functools.partial(_objects, where, regions, file, labels, fault)
    mask = painter.mask(where, objects, losses)
    is_annotated = bool(regions or losses or fault)
    pictures.append(Picture(picture, split, file, mask, is_annotated))
  return export(TITLE, files, pictures, options, listed=listed, painter=painter)


# Document, name for messages, task, and further rows of the same task.
_Task = tuple[str, str, Any, list[dict[str, Any]]]


def _tasks(path: str, document: list[Any]) -> Iterator[_Task]:
  """The tasks of a document; of JSON_MIN, which has a row for each annotation,
  the first row of each with the others."""
  rows: dict[Any, _Task] = {}
  for index, task in enumerate(document):
    is_minimal = isinstance(task, dict) and "data" not in task
    key = task.get("id", index + 1) if isinstance(task, dict) else index + 1
    if is_minimal and "id" in task and key in rows:
      rows[key][3].append(task)
      continue
    found = path, f"task {key}", task, []
    if is_minimal:
      rows[key] = found
    yield found


def _understood(
  files: Files, path: str, name: str, task: Any, others: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[Loss], BadExample | None]:
  """Regions and losses of a task, or why they cannot be read."""
  try:
    with understood(f"{files.tree.where(path)}, {name}"):
      regions, losses = _regions(task)
      losses += [
        Loss("several-annotations", f"annotation {row.get('annotation_id')}")
        for row in others
      ]
      list(map(_names, regions))
  except BadExample as fault:
    return [], [], fault
  return regions, losses, None


def _image(
  files: Files,
  task: Any,
  regions: list[dict[str, Any]],
  split: str,
  where: str,
) -> tuple[str, File]:
  """Path and file of a task's picture; reading it is refused if the task does
  not name one.

  The picture is that which is there, of several the one in the field that
  regions are drawn on.
  """
  values = task.get("data", task) if isinstance(task, dict) else {}
  values = values if isinstance(values, dict) else {}
  texts = {k: v for k, v in values.items() if isinstance(v, str)}
  likely = {
    key: text
    for key, text in texts.items()
    if is_picture(text.partition("?")[0]) or is_picture(text)
  }
  names = {k: _original(files, t) for k, t in (likely or texts).items()}
  there = {k: n for k, n in names.items() if _is_there(files, n)} or names
  drawn_on = {region.get("to_name") for region in regions}
  chosen = {k: n for k, n in there.items() if k in drawn_on} or there
  if len(set(chosen.values())) == 1:
    return locate(files, next(iter(chosen.values())), split, where)
  got = ", ".join(chosen.values()) or f"the fields {', '.join(values) or '-'}"

  def refuse() -> bytes:
    raise BadExample(
      printable(where),
      "ambiguous-picture" if chosen else "missing-picture",
      printable(f"a task must name one picture, got {got}"),
    )

  return f"{where.rpartition(', ')[2]}.png", File(printable(where), refuse)


def _original(files: Files, name: str) -> str:
  """What a task calls its picture.

  An upload has a few letters and a hyphen in front of the name it had.
  """
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
  task: Any,
) -> tuple[list[dict[str, Any]], list[Loss]]:
  """The regions of a task, and what of it has no area or is not taken."""
  if not isinstance(task.get("data"), dict):
    found, losses = _regions_of_minimal(task), []
  else:
    done = task.get("annotations", task.get("completions")) or []
    done = [a for a in done if not (a.get("was_cancelled") or a.get("skipped"))]
    done.sort(key=lambda a: not a.get("ground_truth"))
    found = done[0]["result"] if done else []
    losses = [
      Loss("several-annotations", f"annotation {a.get('id')}") for a in done[1:]
    ]
  losses += [
    Loss("no-area", f"region {r.get('id', i)}")
    for i, r in enumerate(found, 1)
    if any(name in {**r, **_value(r)} for name in _NO_AREA)
  ]
  named = [r for r in found if _names(r)]
  known = {r.get("id") for r in named}
  losses += [
    Loss("no-class", f"region {r.get('id', i)}")
    for i, r in enumerate(found, 1)
    if r not in named and r.get("id") not in known and _is_unnamed(r)
  ]
  return named, losses


def _is_unnamed(region: dict[str, Any]) -> bool:
  """Whether a region has an outline and nothing that says what it is.

  Of what else is asked about a region (choices, text) there is a result with
  the same outline.
  """
  value = _value(region)
  lists = [k for k, v in value.items() if isinstance(v, list) and v]
  is_asked = set(lists) - {"points", "rle"}
  return any(name in value for name in _OUTLINES) and not is_asked


def _value(region: dict[str, Any]) -> dict[str, Any]:
  """What a region is, which JSON_MIN does not put into a field of its own."""
  return region.get("value", region)


def _names(region: dict[str, Any]) -> list[str]:
  """The classes of a region that has an area, whatever it was drawn with."""
  return [
    str(name)
    for kind, names in _value(region).items()
    if kind.endswith("labels") and kind not in _NO_AREA
    for name in names or []
  ]


def _objects(
  where: str,
  regions: list[dict[str, Any]],
  image: File,
  labels: dict[str, int],
  fault: BadExample | None,
) -> tuple[list[Shape], tuple[int, int]]:
  """The objects of one picture, and its height and width."""
  if fault is not None:
    raise BadExample(fault.file, fault.code, fault.problem)
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
      names = _names(region)
      if len(names) > 1:
        raise ValueError(f"several classes of a region: {', '.join(names)}")
      label = label_of(here, names[0], labels)
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
  value = _value(region)
  scale = np.array(size[::-1]) / 100
  if "imageDataURL" in value:
    return Shape(name, label, bitmap=_bitmask(where, value, size))
  if "rle" in value:
    pixels = decode_brush(value["rle"], size)
    if pixels is None:
      raise _other_size(where, "run lengths", size, "others")
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


def _bitmask(
  where: str, value: dict[str, Any], size: tuple[int, int]
) -> np.ndarray:
  """Pixels (h, w) bool of a PNG in a data URL: those that are not clear."""
  data = base64.b64decode(value["imageDataURL"].partition(",")[2])
  picture = headers.open_picture(data)
  if picture.size != size[::-1]:
    got = "x".join(map(str, picture.size))
    raise _other_size(where, "a bitmask", size, got)
  return np.asarray(picture.convert("RGBA"))[..., 3] > 0


def _other_size(
  where: str, what: str, size: tuple[int, int], got: str
) -> BadExample:
  return BadExample(
    where,
    "rle-size",
    f"{what} must be of the picture's size {size[1]}x{size[0]}, got {got}",
  )


def _check(where: str, points: np.ndarray) -> None:
  """Refuses points that are no percent of the picture."""
  wrong = points[~((points >= -_SLACK) & (points <= 100 + _SLACK))]
  if len(wrong):
    raise BadExample(
      where,
      "beyond-the-whole",
      f"points must be percent of the picture in 0..100, got {wrong[0]:g}",
    )
