"""Formats that are recognised but not read, and what to export instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deeplab_jax.data.annotations.files import Files
from deeplab_jax.data.builders.faults import BadExample

_HEAD = 4096  # bytes of an XML file that are looked at
_LOOKED_AT = 8  # XML files that are looked at
_COCO = "COCO json"
_MASKS = "COCO json, or masks as PNG of class numbers"


def fault(files: Files) -> BadExample | None:
  """The fault of a folder that another tool's format is in; None if none is."""
  for path, document in files.documents.items():
    for name, (fits, instead) in _OF_JSON.items():
      if fits(document):
        return _unread(files, path, name, instead)
  for path in files.ending(".xml")[:_LOOKED_AT]:
    head = files.tree.read(path)[:_HEAD]
    for name, (marks, instead) in _OF_XML.items():
      if all(mark in head for mark in marks):
        return _unread(files, path, name, instead)
  for path in files.ending(".names"):
    return _unread(
      files,
      path,
      "YOLO 1.1 (obj.names)",
      "polygons, as CVAT's 'Ultralytics YOLO Segmentation' or 'COCO 1.0' has",
    )
  return None


def _unread(files: Files, path: str, name: str, instead: str) -> BadExample:
  return BadExample(
    files.tree.where(path),
    "unread-format",
    f"this is {name}, which is not read: export {instead}",
  )


def _entry(document: Any, *fields: str) -> bool:
  """Whether a document is an object with some fields."""
  return isinstance(document, dict) and all(f in document for f in fields)


def _listed(*fields: str) -> Callable[[Any], bool]:
  """Whether a document is a list of objects that have some fields."""

  def fits(document: Any) -> bool:
    return isinstance(document, list) and any(
      _entry(entry, *fields) for entry in document[:1]
    )

  return fits


def _having(*fields: str) -> Callable[[Any], bool]:
  """Whether a document is an object with some fields."""
  return lambda document: _entry(document, *fields)


def _objects(document: Any, *fields: str) -> bool:
  """Whether a document has a list of objects that have some fields."""
  objects = document.get("objects") if isinstance(document, dict) else None
  return _listed(*fields)(objects)


def _is_via(document: Any) -> bool:
  if _entry(document, "_via_img_metadata") or not isinstance(document, dict):
    return _entry(document, "_via_img_metadata")
  return any(
    _entry(value, "filename", "regions")
    for value in list(document.values())[:1]
  )


def _is_darwin(document: Any) -> bool:
  return _entry(document, "annotations") and (
    _entry(document.get("item"), "slots")
    or _entry(document.get("image"), "filename")
  )


def _is_dataloop(document: Any) -> bool:
  return _entry(document, "annotations", "filename") and (
    "itemId" in document or "datasetId" in document or "_id" in document
  )


# Name of the format -> what tells it, and what to export in its place.
_OF_JSON: dict[str, tuple[Callable[[Any], bool], str]] = {
  "VGG Image Annotator's json": (_is_via, "annotations as COCO from it"),
  "V7 Darwin's json": (_is_darwin, _MASKS),
  "SuperAnnotate's json": (_having("metadata", "instances"), _COCO),
  "Hasty's json": (_having("project_name", "label_classes"), _MASKS),
  "Dataloop's json": (_is_dataloop, _COCO),
  "a Label Studio annotation without its task": (
    _having("result", "task"),
    "'JSON' from Label Studio, or give the files of its target storage",
  ),
  "Labelbox's json": (_listed("Labeled Data"), _MASKS),
  "Labelbox's rows": (_listed("data_row"), _MASKS),
  "Encord's json": (_listed("label_hash", "data_units"), _COCO),
  "Scalabel's json (BDD100K)": (_listed("name", "labels"), "its masks"),
  "Segments.ai's release": (
    lambda d: _entry(d, "dataset") and _entry(d["dataset"], "samples"),
    "COCO json (panoptic or instances)",
  ),
  "Datumaro's json": (_having("items", "categories"), _COCO),
  "GeoJSON": (_having("type", "features"), "rasters of class numbers"),
  "polygons of Cityscapes or Mapillary": (
    lambda d: _objects(d, "label", "polygon"),
    "the masks of class numbers that the data set has beside them",
  ),
  "a list of COCO's results": (
    _listed("image_id", "category_id"),
    "COCO json with images, annotations and categories",
  ),
  "COCO json without categories": (
    lambda d: _entry(d, "images", "annotations") and "categories" not in d,
    "it with its categories",
  ),
  "COCO json without annotations": (
    lambda d: _entry(d, "images", "categories") and "annotations" not in d,
    "that of a split that is annotated",
  ),
}
_OF_XML: dict[str, tuple[tuple[bytes, ...], str]] = {
  "CVAT for images (XML)": (
    (b"<annotations", b"<image"),
    "'COCO 1.0' or 'Segmentation mask 1.1' from CVAT",
  ),
  "CVAT for video (XML)": (
    (b"<annotations", b"<track"),
    "'COCO 1.0' or 'Segmentation mask 1.1' from CVAT",
  ),
  "CVAT's XML": (
    (b"<annotations", b"<meta"),
    "'COCO 1.0' or 'Segmentation mask 1.1' from CVAT",
  ),
  "LabelMe's XML": ((b"<annotation", b"<polygon"), "LabelMe json"),
  "Pascal VOC's XML of boxes": (
    (b"<annotation", b"<bndbox"),
    "SegmentationClass/ with masks: boxes say nothing of pixels",
  ),
}
