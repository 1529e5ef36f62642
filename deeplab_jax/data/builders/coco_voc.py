"""COCO instances as PASCAL VOC's 20 classes, for pretraining.

Of COCO 2017 (or 2014, whichever is in `manual_dir`) those images are kept that
hold more than 1000 pixels annotated with VOC's classes (DeepLabv3, section
4.1); all other categories are background. Regions that COCO marks as crowd are
ignored where no single object is annotated; of overlapping objects the smaller
is in front.
"""

import collections
import dataclasses
import json
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree, files_below
from deeplab_jax.data.classes import IGNORE, VOC

_MINIMUM_PIXELS = 1000
_VOC_NAMES = {
  "airplane": "aeroplane",
  "motorcycle": "motorbike",
  "couch": "sofa",
  "potted plant": "pottedplant",
  "dining table": "diningtable",
  "tv": "tvmonitor",
}
# The bucket behind images.cocodataset.org, whose certificate is S3's alone.
_SITE = "https://s3.amazonaws.com/images.cocodataset.org"
# As TFDS has them, url_checksums/coco.txt and coco2014.txt.
_SHA256 = {
  "annotations_trainval2014.zip": (
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"
  ),
  "annotations_trainval2017.zip": (
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"
  ),
  "train2014.zip": (
    "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"
  ),
  "train2017.zip": (
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
  ),
  "val2014.zip": (
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"
  ),
  "val2017.zip": (
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"
  ),
}
_IMAGES = {
  "train2014": 82783,
  "val2014": 40504,
  "train2017": 118287,
  "val2017": 5000,
}


@dataclasses.dataclass
class _Image:
  """One image's annotations with VOC's classes, and its size."""

  height: int
  width: int
  annotations: list[dict[str, Any]]


class CocoVoc(SegmentationBuilder, skip_registration=True):
  """Keys are the file names of the images."""

  name = "coco_voc"

  def open(self) -> dict[str, list]:
    year = self._year()
    annotations = self.find(
      _source("annotations", f"annotations_trainval{year}.zip"), "annotations"
    )
    self._trees: dict[str, Tree] = {}
    self._images: dict[str, dict[str, _Image]] = {}
    for split in ("train", "val"):
      part = f"{split}{year}"
      self._trees[split] = self.find(_source("zips", f"{part}.zip"), part)
      file = f"annotations/instances_{part}.json"
      instances = json.loads(annotations.read(file))
      self._check_images(annotations.where(file), part, instances)
      self._images[split] = _images(instances, part)
    return {split: list(images) for split, images in self._images.items()}

  def read(self, split: str, key: str) -> Example | None:
    tree, image = self._trees[split], self._images[split][key]
    mask = _rasterize(image)
    if np.count_nonzero((mask > 0) & (mask < IGNORE)) <= _MINIMUM_PIXELS:
      return None
    where = tree.where(key)
    return Example(where, tree.read(key), f"annotations of {where}", mask)

  def _year(self) -> int:
    """2014 if `manual_dir` holds that and no 2017, else 2017."""
    if self.manual_dir is None:
      return 2017
    names = " ".join(path.name for path in files_below(self.manual_dir))
    return 2014 if "2014" in names and "2017" not in names else 2017

  def _check_images(self, file: str, part: str, instances: dict) -> None:
    found = len(instances["images"])
    if found != _IMAGES[part] and not self.partial:
      raise ValueError(
        f"{file}: must list {_IMAGES[part]} images, got {found}; complete the "
        "download, or pass --partial for a sample"
      )


def _source(folder: str, file: str) -> Archive:
  return Archive(file, f"{_SITE}/{folder}/{file}", f"sha256:{_SHA256[file]}")


def _images(instances: dict[str, Any], folder: str) -> dict[str, _Image]:
  """Images that have annotations with VOC's classes, by path."""
  labels = {
    category["id"]: VOC.index(
      _VOC_NAMES.get(category["name"], category["name"])
    )
    for category in instances["categories"]
    if _VOC_NAMES.get(category["name"], category["name"]) in VOC
  }
  annotations = collections.defaultdict(list)
  for annotation in instances["annotations"]:
    if annotation["category_id"] in labels:
      label = labels[annotation["category_id"]]
      annotations[annotation["image_id"]].append(annotation | {"label": label})
  return {
    f"{folder}/{image['file_name']}": _Image(
      image["height"], image["width"], annotations[image["id"]]
    )
    for image in instances["images"]
    if image["id"] in annotations
  }


def _rasterize(image: _Image) -> np.ndarray:
  """Labels (h, w) uint8 of all annotations of one image."""
  mask = np.zeros((image.height, image.width), np.uint8)

  def order(annotation: dict[str, Any]) -> tuple:  # what is in front comes last
    return not annotation["iscrowd"], -annotation["area"]

  for annotation in sorted(image.annotations, key=order):
    label = IGNORE if annotation["iscrowd"] else annotation["label"]
    mask[_region(annotation["segmentation"], *mask.shape)] = label
  return mask


def _region(segmentation: Any, height: int, width: int) -> np.ndarray:
  """Pixels (h, w) bool of polygons or of a run-length encoding."""
  if isinstance(segmentation, list):
    polygons = coco_mask.frPyObjects(segmentation, height, width)
    encoded = coco_mask.merge(polygons)
  elif isinstance(segmentation["counts"], list):
    encoded = coco_mask.frPyObjects(segmentation, height, width)
  else:
    encoded = segmentation
  return coco_mask.decode(encoded).astype(bool)
