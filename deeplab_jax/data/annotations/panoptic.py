"""COCO's panoptic format: a PNG of segments for each picture, and a json.

A segment's number is r + 256 g + 65536 b. Pixels of no segment (0) and crowds
are ignored: nothing is known of them, so no class is called background.
"""

from __future__ import annotations

import collections
import functools
from typing import Any

import numpy as np

from deeplab_jax.data.annotations import coco
from deeplab_jax.data.annotations.drawing import Drawing
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
  without_suffix,
)
from deeplab_jax.data.annotations.options import Options
from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.messages import printable

TITLE = "COCO panoptic"


def fits(files: Files) -> bool:
  """Whether one of the documents is of this format."""
  return any(map(_is_panoptic, files.documents.values()))


def _is_panoptic(document: Any) -> bool:
  return coco.is_coco(document) and coco.has_segments(document)


def read(files: Files, options: Options) -> Export:
  """The export in `files`."""
  documents = list(files.alike(_is_panoptic))
  listed, labels = coco.categories(files, documents, has_background=False)
  painter = Painter(listed, options)
  segments = _segment_files(files, documents)
  used = set(segments.values())
  pictures_of = Files(files.tree, lambda path: path not in used)
  pictures: list[Picture] = []
  faults = files.broken_beside(path for path, _ in documents)
  for path, document in documents:
    where, split = files.tree.where(path), split_of(path, is_document=True)
    with understood(where):
      by_image = _by_image(where, document, faults)
    for image in coco.images(where, document, faults):
      here = f"{where}, image {image['id']} ({image['file_name']})"
      found, file = locate(pictures_of, image["file_name"], split, here)
      annotation = by_image.get(image["id"])
      drawing_of = functools.partial(_nothing, image, file)
      if annotation is not None:
        mask = segments.get((path, annotation.get("file_name")))
        drawing_of = functools.partial(
          _drawing, here, image, file, annotation, labels, files, mask
        )
      mask = painter.mask_of(here, drawing_of)
      pictures.append(Picture(found, split, file, mask, annotation is not None))
  return export(
    TITLE,
    pictures_of,
    pictures,
    options,
    listed=listed,
    painter=painter,
    faults=faults,
    blank="ignored",
  )


def _by_image(
  where: str, document: Any, faults: list[BadExample]
) -> dict[Any, dict[str, Any]]:
  """The annotation of each image, by its id."""
  found = {}
  for key, of_image in coco.by_image(where, document, faults).items():
    found[key], *others = of_image
    for other in others:
      faults.append(
        BadExample(
          printable(f"{where}, annotation of {other.get('file_name')}"),
          "repeated-picture",
          f"an image must have one annotation, got another of image_id {key}",
        )
      )
  return found


def _segment_files(
  files: Files, documents: list[tuple[str, Any]]
) -> dict[tuple[str, str], str]:
  """The PNG of each annotation, by document and name.

  It is in the folder that is called as the document, or is the only one of its
  name among PNG files.
  """
  by_name = collections.defaultdict(list)
  for path in files.pictures:
    if path.lower().endswith(".png"):
      by_name[path.rpartition("/")[2]].append(path)
  found = {}
  for path, document in documents:
    folder = without_suffix(path).rpartition("/")[2]
    for annotation in document["annotations"]:
      name = str(annotation.get("file_name", ""))
      paths = by_name[name.replace("\\", "/").rpartition("/")[2]]
      near = [p for p in paths if f"/{folder}/" in f"/{p}"]
      if near or len(paths) == 1:
        found[path, annotation.get("file_name")] = (near or paths)[0]
  return {k: p for k, p in found.items() if is_picture(p)}


def _nothing(image: dict[str, Any], file: File) -> Drawing:
  """Of a picture without annotation nothing is known."""
  size = coco.size_of(image, file)
  return Drawing(np.full(size, IGNORE, np.uint8), (), collections.Counter())


def _drawing(
  where: str,
  image: dict[str, Any],
  file: File,
  annotation: dict[str, Any],
  labels: dict[Any, int],
  files: Files,
  path: str | None,
) -> Drawing:
  """The labels of one picture's segments."""
  if path is None:
    raise BadExample(
      printable(where),
      "missing-file",
      f"the segments {annotation.get('file_name')!r} must be there, the only "
      "PNG of that name or in a folder called as the json, got none",
    )
  codes = _codes(files.tree.file(path))
  size = coco.size_of(image, file)
  if codes.shape != size:
    raise BadExample(
      printable(where),
      "rle-size",
      f"segments must be of the picture's size {size[1]}x{size[0]}, got "
      f"{codes.shape[1]}x{codes.shape[0]} in {files.tree.where(path)}",
    )
  table, objects = {0: IGNORE}, collections.Counter()
  for segment in annotation["segments_info"]:
    here = printable(f"{where}, segment {segment['id']}")
    with understood(here):
      label = coco.label_of(here, segment["category_id"], labels)
      if coco.is_crowd(segment):
        label = IGNORE
    table[coco.number(segment["id"])] = label
    objects[label] += 1
  unknown = sorted(set(np.unique(codes).tolist()) - table.keys())
  if unknown:
    raise BadExample(
      printable(where),
      "unknown-segment",
      "the numbers of segments must be in segments_info, got "
      f"{masks.listed(unknown)} in {files.tree.where(path)}",
    )
  return Drawing(masks.remap(where, codes, table), (), objects)


def _codes(file: File) -> np.ndarray:
  """The number of the segment of each pixel, int (h, w)."""
  mask = masks.decode(file.where, file.read())
  pixels = mask.pixels
  if not mask.is_rgb:
    raise BadExample(
      file.where,
      "unsupported-mask",
      "segments must be in red, green and blue, got one band",
    )
  if pixels.ndim == 2:  # greys of three bands
    pixels = np.repeat(pixels[..., None], 3, -1)
  return masks.codes_of(pixels[..., ::-1])
