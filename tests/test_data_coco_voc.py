"""COCO instances as VOC classes."""

import json

import cv2
import numpy as np
import PIL.Image
import pytest

from deeplab_jax.data import build
from deeplab_jax.data.classes import VOC
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset
from tests.archives import pack

_SAME = {"bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"}
_SAME |= {"cow", "dog", "horse", "person", "sheep", "train"}
_TO_VOC = {name: name for name in _SAME} | {
  "airplane": "aeroplane",
  "motorcycle": "motorbike",
  "couch": "sofa",
  "potted plant": "pottedplant",
  "dining table": "diningtable",
  "tv": "tvmonitor",
}


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  root = tmp_path_factory.mktemp("coco")
  sample, manual = shared / "data/coco-sample", root / "manual"
  pack(sample, manual / "annotations_trainval2017.zip", "annotations")
  for part in ("train2017", "val2017"):
    pack(sample, manual / f"{part}.zip", part)
  build.build(
    "coco_voc", data_dir=str(root), manual_dir=str(manual), partial=True
  )
  return str(root)


def _sources(data_dir):
  folder = build.directory("coco_voc", data_dir)
  for split in ("train", "val"):
    source = Dataset(folder, DATASETS["coco_voc"]).source(split)
    yield split, {source[i]["name"]: source[i] for i in range(len(source))}


def _instances(shared, split):
  path = shared / f"data/coco-sample/annotations/instances_{split}2017.json"
  return json.loads(path.read_text())


def _runs(segmentation):
  """Pixels of an uncompressed run-length encoding: columns, zeros first."""
  counts = segmentation["counts"]
  flat = np.repeat(np.arange(len(counts)) % 2, counts)
  return flat.reshape(segmentation["size"], order="F").astype(bool)


def test_every_class_of_voc_has_its_category():
  assert set(_TO_VOC.values()) == set(VOC[1:])


def test_kept_images_hold_enough_of_voc_s_classes(data_dir, shared):
  for split, examples in _sources(data_dir):
    instances = _instances(shared, split)
    names = {c["id"]: c["name"] for c in instances["categories"]}
    area = {image["id"]: 0.0 for image in instances["images"]}
    for annotation in instances["annotations"]:
      is_voc = names[annotation["category_id"]] in _TO_VOC
      if is_voc and not annotation["iscrowd"]:
        area[annotation["image_id"]] += annotation["area"]
    for image in instances["images"]:
      name = f"{split}2017/{image['file_name']}"
      # Summed areas count overlaps twice: certain only away from the limit.
      if area[image["id"]] > 3000:
        assert name in examples
      if area[image["id"]] < 900:
        assert name not in examples
    for example in examples.values():
      labels = example["label"]
      assert ((labels > 0) & (labels < 255)).sum() > 1000


def test_images_and_labels_are_those_of_the_source(data_dir, shared):
  for split, examples in _sources(data_dir):
    instances = _instances(shared, split)
    names = {c["id"]: c["name"] for c in instances["categories"]}
    for image in instances["images"]:
      example = examples.get(f"{split}2017/{image['file_name']}")
      if example is None:
        continue
      assert example["label"].shape == (image["height"], image["width"])
      path = shared / f"data/coco-sample/{split}2017/{image['file_name']}"
      np.testing.assert_array_equal(
        example["image"], cv2.imread(str(path))[..., ::-1]
      )
      present = {
        VOC.index(_TO_VOC[names[a["category_id"]]])
        for a in instances["annotations"]
        if a["image_id"] == image["id"]
        and names[a["category_id"]] in _TO_VOC
        and not a["iscrowd"]
      }
      assert set(np.unique(example["label"])) <= {0, 255} | present


def test_crowds_are_ignored_where_no_object_is(data_dir, shared):
  crowds = 0
  for split, examples in _sources(data_dir):
    instances = _instances(shared, split)
    names = {c["id"]: c["name"] for c in instances["categories"]}
    files = {i["id"]: i["file_name"] for i in instances["images"]}
    for annotation in instances["annotations"]:
      name = f"{split}2017/{files[annotation['image_id']]}"
      if not annotation["iscrowd"] or name not in examples:
        continue
      label = examples[name]["label"]
      region = _runs(annotation["segmentation"])
      if names[annotation["category_id"]] in _TO_VOC:
        assert (label[region] != 0).all() and (label[region] == 255).any()
        crowds += 1
  assert crowds > 0


def _rectangle(x, y, width, height):
  corners = [x, y, x + width, y, x + width, y + height, x, y + height]
  return {
    "segmentation": [corners],
    "area": width * height,
    "iscrowd": 0,
  }


@pytest.fixture
def drawn(tmp_path):
  """A small COCO whose masks can be written down by hand."""
  crowd = {
    "segmentation": {"size": [50, 60], "counts": [0, 500, 2500]},
    "area": 500,
    "iscrowd": 1,
  }
  annotations = {
    1: [
      _rectangle(0, 0, 40, 40) | {"category_id": 1},
      _rectangle(10, 10, 5, 5) | {"category_id": 18},  # in front: smaller
      _rectangle(41, 0, 9, 9) | {"category_id": 21},  # not a class of VOC
      crowd | {"category_id": 1},
    ],
    2: [_rectangle(0, 0, 40, 25) | {"category_id": 1}],  # 1000 pixels
    3: [  # 1001 pixels
      _rectangle(0, 0, 40, 25) | {"category_id": 1},
      _rectangle(45, 0, 1, 1) | {"category_id": 1},
    ],
    4: [],
  }
  instances = {
    "images": [
      {"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 60}
      for i in annotations
    ],
    "annotations": [
      annotation | {"image_id": i}
      for i, several in annotations.items()
      for annotation in several
    ],
    "categories": [
      {"id": 1, "name": "person"},
      {"id": 18, "name": "dog"},
      {"id": 21, "name": "elephant"},
    ],
  }
  root = tmp_path / "source"
  (root / "annotations").mkdir(parents=True)
  for part in ("train2014", "val2014"):
    (root / part).mkdir()
    path = root / f"annotations/instances_{part}.json"
    path.write_text(json.dumps(instances))
    for i in annotations:
      PIL.Image.new("RGB", (60, 50)).save(root / part / f"{i}.jpg")
  return root


def test_masks_and_the_1000_pixel_rule_by_hand(drawn, tmp_path):
  build.build(
    "coco_voc", data_dir=str(tmp_path), manual_dir=str(drawn), partial=True
  )
  (_, examples), _ = _sources(str(tmp_path))
  assert list(examples) == ["train2014/1.jpg", "train2014/3.jpg"]
  expected = np.zeros((50, 60), np.uint8)
  expected[:, :10] = 255  # the crowd: the first 500 pixels, column by column
  expected[:40, :40] = VOC.index("person")
  expected[10:15, 10:15] = VOC.index("dog")
  np.testing.assert_array_equal(examples["train2014/1.jpg"]["label"], expected)


def test_incomplete_annotations_are_refused(drawn, tmp_path):
  message = r"instances_train2014\.json: must list 82783 images, got 4"
  with pytest.raises(ValueError, match=message):
    build.build("coco_voc", data_dir=str(tmp_path), manual_dir=str(drawn))
