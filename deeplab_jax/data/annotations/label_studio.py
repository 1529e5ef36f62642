"""Label Studio's json, in full or minimal (JSON_MIN), or a file an annotation,
as it writes them to cloud storage.

Polygons, rectangles and ellipses are in percent of the picture; strokes of a
brush are run lengths of Label Studio's own, bitmasks are PNGs. Of a task with
several annotations (in JSON_MIN: rows of one id; in cloud storage: files of one
task) the first that is not cancelled counts, a ground truth before others.
Later regions are drawn over earlier ones.
"""

from __future__ import annotations

import base64
import functools
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
from deeplab_jax.data.annotations.tasks import (
  is_document,
  names_of,
  regions_of,
  tasks_of,
  value_of,
)
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.messages import printable

TITLE = "Label Studio json"
_SLACK = 0.01  # percent by which rounded points may be outside


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(is_document, files.documents.values()))


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  found = list(files.alike(is_document))
  tasks = tasks_of(found)
  read_of = [_understood(files, *task) for task in tasks]
  names = {n for regions, *_ in read_of for r in regions for n in names_of(r)}
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
  return export(
    TITLE,
    files,
    pictures,
    options,
    listed=listed,
    painter=painter,
    faults=files.broken_beside(path for path, _ in found),
    lines=_predicted([task for _, _, task, _ in tasks], pictures),
  )


def _predicted(tasks: list[Any], pictures: list[Picture]) -> tuple[str, ...]:
  """What is said of tasks that nobody annotated, but a model."""
  count = sum(
    isinstance(task, dict)
    and not picture.is_annotated
    and bool(task.get("predictions"))
    for task, picture in zip(tasks, pictures)
  )
  said = f"{count} pictures have predictions alone, which are not read"
  return (said,) if count else ()


def _understood(
  files: Files, path: str, name: str, task: Any, others: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[Loss], BadExample | None]:
  """Regions and losses of a task, or why they cannot be read."""
  try:
    with understood(f"{files.tree.where(path)}, {name}"):
      regions, losses = regions_of(task)
      losses += [
        Loss("several-annotations", f"annotation {row.get('annotation_id')}")
        for row in others
      ]
      list(map(names_of, regions))
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
      own = _size(region, image)
      size = size or own
      if own != size:
        raise ValueError(
          f"the size {own[1]}x{own[0]}, others {size[1]}x{size[0]}"
        )
      if region.get("image_rotation") or 0:
        raise ValueError("a picture turned in the tool")
      names = names_of(region)
      if len(names) > 1:
        raise ValueError(f"several classes of a region: {', '.join(names)}")
      label = label_of(here, names[0], labels)
      shapes.append(_shape(here, name, label, region, size))
  return shapes, size or upright_size(image.where, image.read())


def _size(region: dict[str, Any], image: File) -> tuple[int, int]:
  """Height and width of the picture, which old exports do not say."""
  if region.get("original_height") and region.get("original_width"):
    return int(region["original_height"]), int(region["original_width"])
  return upright_size(image.where, image.read())


def _shape(
  where: str,
  name: str,
  label: int,
  region: dict[str, Any],
  size: tuple[int, int],
) -> Shape:
  """One object, whatever it was drawn with."""
  value = value_of(region)
  scale = np.array(size[::-1]) / 100
  if "imageDataURL" in value:
    return Shape(name, label, bitmap=_bitmask(where, value, size))
  if "rle" in value:
    pixels = decode_brush(value["rle"], size)
    if pixels is None:
      raise _other_size(where, "run lengths", size, "others")
    return Shape(name, label, bitmap=pixels)
  if "points" in value:
    points = geometry.ring(value["points"])
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
