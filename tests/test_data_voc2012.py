"""PASCAL VOC 2012 with SBD, from archives built of the sample."""

import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
import scipy.io

from deeplab_jax.data import build
from deeplab_jax.data.builders.voc2012 import sbd_only
from deeplab_jax.data.classes import VOC
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset
from tests.archives import pack

_INFO = DATASETS["voc2012"]
_NEW = ("2008_900001", "2008_900002")  # in SBD, not labelled by VOC
_TEST = "2008_900003"


def _mask(voc, name):
  return np.array(PIL.Image.open(voc / f"SegmentationClass/{name}.png"))


def _write_sbd(path, labels):
  """One .mat file in SBD's structure."""
  present = np.unique(labels[labels > 0])[:, None]
  boundaries = np.empty((20, 1), object)
  for i in range(20):
    boundaries[i, 0] = np.zeros(labels.shape, bool)
  contents = {
    "Boundaries": boundaries,
    "Segmentation": labels,
    "CategoriesPresent": present,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(path, {"GTcls": contents}, do_compression=True)


@pytest.fixture(scope="module")
def manual_dir(shared, tmp_path_factory):
  """The three official archives, made from the sample."""
  root = tmp_path_factory.mktemp("voc")
  sample = shared / "data/voc2012-sample"
  shutil.copytree(sample / "VOCdevkit", root / "files/VOCdevkit")
  voc = root / "files/VOCdevkit/VOC2012"
  lists = voc / "ImageSets/Segmentation"
  for folder in voc.rglob(""):
    folder.chmod(0o755)
  train, val = (
    (lists / f"{split}.txt").read_text().split() for split in ("train", "val")
  )
  images = voc / "JPEGImages"
  for new, old in zip((*_NEW, _TEST), val):
    shutil.copy(images / f"{old}.jpg", images / f"{new}.jpg")
  sbd = root / "sbd/benchmark_RELEASE/dataset/cls"
  for new, old in zip(_NEW, val):
    labels = _mask(voc, old)
    _write_sbd(sbd / f"{new}.mat", np.where(labels == 255, 0, labels))
  for name in (train[0], val[0]):  # VOC's own masks must win
    _write_sbd(sbd / f"{name}.mat", np.full_like(_mask(voc, name), 3))
  test = root / "test/VOCdevkit/VOC2012"
  (test / "ImageSets/Segmentation").mkdir(parents=True)
  (test / "ImageSets/Segmentation/test.txt").write_text(f"{_TEST}\n")
  (test / "JPEGImages").mkdir()
  (images / f"{_TEST}.jpg").rename(test / f"JPEGImages/{_TEST}.jpg")
  manual = root / "manual"
  pack(root / "files", manual / "VOCtrainval_11-May-2012.tar")
  pack(root / "sbd", manual / "benchmark.tgz")
  pack(root / "test", manual / "VOC2012test.tar")
  return manual


@pytest.fixture(scope="module")
def folder(manual_dir):
  data_dir = str(manual_dir.parent / "data")
  build.build(
    "voc2012", data_dir=data_dir, manual_dir=str(manual_dir), partial=True
  )
  return build.directory("voc2012", data_dir)


def _source(folder, split):
  return Dataset(folder, _INFO).source(split)


def _names(folder, split):
  source = _source(folder, split)
  return [source[i]["name"] for i in range(len(source))]


@pytest.mark.parametrize("split", ["train", "val"])
def test_archives_read_back_equal_to_the_source(folder, manual_dir, split):
  voc = manual_dir.parent / "files/VOCdevkit/VOC2012"
  listed = (voc / f"ImageSets/Segmentation/{split}.txt").read_text().split()
  assert _names(folder, split) == listed
  source = _source(folder, split)
  for i in range(0, len(source), 7):
    example = source[i]
    image = cv2.imread(str(voc / f"JPEGImages/{example['name']}.jpg"))
    np.testing.assert_array_equal(example["image"], image[..., ::-1])
    np.testing.assert_array_equal(example["label"], _mask(voc, example["name"]))


def test_train_aug_joins_sbd_and_keeps_voc_s_masks(folder, manual_dir):
  voc = manual_dir.parent / "files/VOCdevkit/VOC2012"
  lists = voc / "ImageSets/Segmentation"
  train = (lists / "train.txt").read_text().split()
  val = (lists / "val.txt").read_text().split()
  assert _names(folder, "train_aug") == [*train, *_NEW]
  source = _source(folder, "train_aug")
  np.testing.assert_array_equal(source[0]["label"], _mask(voc, train[0]))
  for i, old in enumerate(val[: len(_NEW)]):
    expected = _mask(voc, old)
    np.testing.assert_array_equal(
      source[len(train) + i]["label"], np.where(expected == 255, 0, expected)
    )


def test_trainval_is_both(folder):
  assert _names(folder, "trainval") == _names(folder, "train") + _names(
    folder, "val"
  )


def test_test_images_have_nothing_labelled(folder):
  source = _source(folder, "test")
  assert len(source) == 1 and source[0]["name"] == _TEST
  assert (source[0]["label"] == 255).all()
  assert source[0]["label"].shape == source[0]["image"].shape[:2]


def test_rule_reproduces_the_official_train_aug(shared):
  lists = shared / "data/voc2012-sample/lists"
  official = {
    path.stem: set(path.read_text().split()) for path in lists.glob("*.txt")
  }
  train, val = official["train"], official["val"]
  # SBD labels 11355 images; which of them VOC labels too does not matter.
  sbd = (official["train_aug"] - train) | set(sorted(train | val)[::2])
  extra = sbd_only(sbd, train, val)
  assert train | set(extra) == official["train_aug"]
  assert not train & set(extra)
  assert len(train) + len(extra) == 10582
  assert {
    split: len(official[split]) for split in ("train", "val", "test")
  } == {split: _INFO.splits[split] for split in ("train", "val", "test")}
  assert len(extra) == _INFO.splits["sbd"]


def test_extracted_folder_needs_no_archive(shared, tmp_path):
  manual_dir = str(shared / "data/voc2012-sample")
  build.build(
    "voc2012", data_dir=str(tmp_path), manual_dir=manual_dir, partial=True
  )
  folder = build.directory("voc2012", str(tmp_path))
  assert len(_source(folder, "train")) == 46
  assert len(_source(folder, "train_aug")) == 46  # the sample has no SBD
  assert len(_source(folder, "val")) == 50


def test_sample_is_refused_without_partial(manual_dir, tmp_path):
  with pytest.raises(
    ValueError, match=r"May-2012\.tar: its sha256 must be e14f76"
  ):
    build.build("voc2012", data_dir=str(tmp_path), manual_dir=str(manual_dir))


def test_missing_sbd_names_the_archive(shared, tmp_path):
  message = r"must have benchmark\.tgz from https://www2\.eecs"
  with pytest.raises(ValueError, match=message):
    build.build(
      "voc2012",
      data_dir=str(tmp_path),
      manual_dir=str(shared / "data/voc2012-sample"),
    )


def test_broken_mat_file_is_named(manual_dir, tmp_path):
  sbd = tmp_path / "sbd/dataset/cls"
  sbd.mkdir(parents=True)
  (sbd / f"{_NEW[0]}.mat").write_bytes(b"MATLAB 5.0" + bytes(300))
  manual = tmp_path / "manual"
  pack(tmp_path / "sbd", manual / "benchmark.tgz")
  (manual / "VOCtrainval_11-May-2012.tar").symlink_to(
    manual_dir / "VOCtrainval_11-May-2012.tar"
  )
  with pytest.raises(ValueError, match=rf"{_NEW[0]}\.mat: must hold GTcls"):
    build.build(
      "voc2012",
      data_dir=str(tmp_path),
      manual_dir=str(manual),
      partial=True,
    )


def test_classes_and_colours_are_voc_s():
  assert VOC[15] == "person" and len(VOC) == 21
  assert _INFO.colors[1] == (128, 0, 0)
  assert _INFO.colors[15] == (192, 128, 128)
  assert _INFO.colors[20] == (0, 64, 128)
