"""ImageNet from tars within a tar, a flat tar, and folders."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from deeplab_jax.data import build
from deeplab_jax.data.builders.checks import BadExample
from deeplab_jax.data.datasets import DATASETS
from tests.archives import pack


def _records(data_dir, split):
  folder = build.directory("imagenet2012", str(data_dir))
  builder = tfds.builder_from_directory(folder)
  return builder.as_data_source(
    split, decoders={"image": tfds.decode.SkipDecoding()}
  )


@pytest.fixture(scope="module")
def sample(shared):
  root = shared / "data/imagenet-sample"
  lines = (root / "labels.txt").read_text().splitlines()
  return root, dict(line.rsplit(" ", 1) for line in lines)


def test_classes_are_the_sorted_wordnet_ids(shared):
  synsets = (shared / "data/imagenet-sample/synsets.txt").read_text()
  expected = [line.split("\t")[1] for line in synsets.splitlines()]
  assert list(DATASETS["imagenet2012"].class_names) == expected


def test_extracted_folder(sample, tmp_path):
  root, labels = sample
  build.build(
    "imagenet2012",
    data_dir=str(tmp_path),
    manual_dir=str(root),
    partial=True,
  )
  records = _records(tmp_path, "val")
  assert len(records) == len(labels) == 199
  for i in (0, 100, 198):
    path = f"val/{records[i]['name'].decode()}.JPEG"
    assert records[i]["label"] == int(labels[path])
    assert records[i]["image"] == (root / path).read_bytes()


def test_official_archives(sample, tmp_path):
  root, labels = sample
  paths = sorted(labels)[:4]
  manual = tmp_path / "manual"
  for path in paths:  # a tar for each class, in the tar of the training images
    wnid = path.split("/")[1]
    pack(root / "val" / wnid, tmp_path / f"train/{wnid}.tar")
  pack(tmp_path / "train", manual / "ILSVRC2012_img_train.tar")
  flat = tmp_path / "val"
  flat.mkdir()
  for i, path in enumerate(paths):
    numbered = flat / f"ILSVRC2012_val_{i + 1:08d}.JPEG"
    numbered.write_bytes((root / path).read_bytes())
  pack(flat, manual / "ILSVRC2012_img_val.tar")
  build.build(
    "imagenet2012",
    data_dir=str(tmp_path / "data"),
    manual_dir=str(manual),
    partial=True,
  )
  train = _records(tmp_path / "data", "train")
  assert [r["label"] for r in train] == [int(labels[path]) for path in paths]
  assert [r["image"] for r in train] == [(root / p).read_bytes() for p in paths]
  # The first four validation images of ILSVRC 2012 are of these classes.
  wnids = ("n01751748", "n09193705", "n02105855", "n04263257")
  names = DATASETS["imagenet2012"].class_names
  val = _records(tmp_path / "data", "val")
  assert [names[int(r["label"])] for r in val] == list(wnids)


def test_unknown_folder_is_named(tmp_path, sample):
  root, labels = sample
  image = (root / next(iter(labels))).read_bytes()
  folder = tmp_path / "manual/val/n99999999"
  folder.mkdir(parents=True)
  (folder / "x.JPEG").write_bytes(image)
  with pytest.raises(BadExample, match=r"x\.JPEG: its folder must be one of"):
    build.build(
      "imagenet2012",
      data_dir=str(tmp_path / "data"),
      manual_dir=str(tmp_path / "manual"),
      partial=True,
    )


def test_splits_have_the_official_sizes(sample, tmp_path):
  root, _ = sample
  (tmp_path / "manual").mkdir()
  (tmp_path / "manual/val").symlink_to(root / "val")
  (tmp_path / "manual/train").symlink_to(root / "val")
  with pytest.raises(ValueError, match=r"train must have 1281167 .* got 199"):
    build.build(
      "imagenet2012",
      data_dir=str(tmp_path),
      manual_dir=str(tmp_path / "manual"),
    )
  assert np.sum(list(DATASETS["imagenet2012"].splits.values())) == 1331167
