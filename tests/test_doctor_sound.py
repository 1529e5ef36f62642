"""Sound data of any size, kind and class count has no error."""

import cv2
import numpy as np
import PIL.Image
import pytest

from deeplab_jax.data import build
from deeplab_jax.doctor import examine
from tests import doctor_scenes as scenes

_TWO = np.full(256, 255, np.uint8)
_TWO[0] = 0
_COLORS = np.random.default_rng(3).permutation(256 * 3).reshape(256, 3)
_COLORS = (_COLORS % 256).astype(np.uint8)
_COLORS[255] = 255


def _each_file(root, folder, change):
  for path in sorted((root / folder).iterdir()):
    change(path)


def _each_mask(root, change):
  def replace(path):
    scenes.save(path, change(np.array(PIL.Image.open(path))))

  _each_file(root, "masks", replace)


def _no_lists(root):
  for name in ("train.txt", "val.txt"):
    (root / name).unlink()


def _convert(mode):
  return lambda path: PIL.Image.open(path).convert(mode).save(path)


def _deep(path):
  PIL.Image.fromarray(np.array(PIL.Image.open(path)).astype(np.uint16)).save(
    path
  )


def _noise(classes):
  rng = np.random.default_rng(0)
  return lambda mask: rng.integers(0, classes, mask.shape).astype(np.uint8)


def _with_border(mask):
  """Objects (2) lined by a class of their own (1), two pixels wide."""
  inside = (mask == 1).astype(np.uint8)
  border = cv2.dilate(inside, np.ones((5, 5), np.uint8)) - inside
  return inside * 2 + border


def _in_voc_layout(root):
  (root / "images").rename(root / "JPEGImages")
  (root / "masks").rename(root / "SegmentationClass")
  (root / "ImageSets").mkdir()
  (root / "ImageSets/Segmentation").mkdir()
  for name in ("train.txt", "val.txt"):
    (root / name).rename(root / "ImageSets/Segmentation" / name)


# Name -> (arguments of scenes.write, what is then changed).
_SOUND = {
  "four classes": ({}, None),
  "no lists": ({}, _no_lists),
  "three images": ({"count": 3}, _no_lists),
  "one image": ({"count": 1}, _no_lists),
  "two images": ({"count": 2}, _no_lists),
  "black and white": (
    {"classes": 2},
    lambda r: _each_mask(r, lambda m: _TWO[m % 255]),
  ),
  "black and white, bits": (
    {"classes": 2},
    lambda r: _each_mask(r, lambda m: m % 255 > 0),
  ),
  "150 classes": ({"classes": 150, "size": (300, 400), "count": 4}, None),
  "150 classes, small": ({"classes": 150}, None),
  "255 classes": ({"classes": 255, "size": (300, 400), "count": 4}, None),
  "nothing ignored": ({}, lambda r: _each_mask(r, lambda m: m % 255)),
  "nothing ignored, by the list": (
    {},
    lambda r: (
      _each_mask(r, lambda m: m % 255),
      (r / "classes.yaml").write_text(
        "classes: [a, b, c, d]\nignore_label: null\n"
      ),
    ),
  ),
  "0 ignored": (
    {},
    lambda r: (
      (r / "classes.yaml").write_text(
        "classes: [a, b, c, d]\nignore_label: 0\n"
      )
      and _each_mask(r, lambda m: m % 255)
    ),
  ),
  "colours without a list": (
    {},
    lambda r: _each_mask(r, lambda m: _COLORS[m]),
  ),
  "16-bit masks": ({}, lambda r: _each_file(r, "masks", _deep)),
  "grey images": ({}, lambda r: _each_file(r, "images", _convert("L"))),
  "images with opaque alpha": (
    {},
    lambda r: _each_file(r, "images", _convert("RGBA")),
  ),
  "photographs as JPEG": ({"suffix": "jpg"}, None),
  "large": ({"size": (700, 900), "count": 4}, None),
  "small": ({"size": (21, 17)}, None),
  "long": ({"size": (8, 300)}, None),
  "one pixel high": ({"size": (1, 64)}, None),
  "noise for labels": ({}, lambda r: _each_mask(r, _noise(5))),
  "noise of many labels": ({}, lambda r: _each_mask(r, _noise(100))),
  "two labels of noise": ({}, lambda r: _each_mask(r, _noise(2))),
  "a class that lines another": ({}, lambda r: _each_mask(r, _with_border)),
  "the layout of VOC": ({}, _in_voc_layout),
}


@pytest.mark.parametrize("name", _SOUND)
def test_sound_folder_has_no_error(tmp_path, name):
  options, change = _SOUND[name]
  root = scenes.write(tmp_path / "mine", **options)
  if change:
    change(root)
  checkup = examine(scenes.config(root), overfit_steps=0)
  assert not checkup.errors, [(f.code, f.message) for f in checkup.errors]
  assert checkup.survey.facts


def test_sound_scenes_have_no_warning_either(tmp_path):
  """Else the tests of planted faults would prove little."""
  root = scenes.write(tmp_path / "mine")
  checkup = examine(scenes.config(root), overfit_steps=0)
  assert [f.code for f in checkup.findings] == []


def test_folder_in_voc_layout_of_real_images(shared, tmp_path):
  config = scenes.config(shared / "data/camvid")
  config.data.data_dir = str(tmp_path)
  config.model.atrous_rates = (1, 2, 3)  # of crops of 65
  checkup = examine(config, overfit_steps=0, limit=40)
  assert [f.code for f in checkup.findings] == ["unlisted-images"]  # test


@pytest.mark.parametrize(
  ("name", "folder", "splits"),
  [
    ("voc2012", "voc2012-sample", ("train", "val")),
    ("coco_voc", "coco-sample", ("", "")),
    ("cityscapes", "cityscapes-sample", ("train_fine", "train_fine")),
    ("ade20k", "ade20k-sample", ("val", "val")),
  ],
)
def test_sample_of_a_published_set_has_no_error(
  shared, tmp_path, name, folder, splits
):
  source = str(shared / "data" / folder)
  build.build(name, data_dir=str(tmp_path), manual_dir=source, partial=True)
  config = scenes.config(tmp_path, data__name=name, data__path="")
  config.data.update(data_dir=str(tmp_path))
  config.data.update(train_split=splits[0], eval_split=splits[1])
  checkup = examine(config, overfit_steps=0)
  assert not checkup.errors, [(f.code, f.message) for f in checkup.errors]
  assert len(checkup.survey.facts) == sum(
    checkup.survey.size_of(split) for split in ("train", "val")
  )
