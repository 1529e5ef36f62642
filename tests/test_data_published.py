"""Data sets that are published in object stores, and what is damaged there."""

import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from deeplab_jax import prepare, remote
from deeplab_jax.data import build, published, rules
from deeplab_jax.data.source import open_dataset
from deeplab_jax.remote import Address, StoreError
from tests import annotation_scenes, stores
from tests.published_scenes import (
  BOTH,
  data_config,
  one_line,
  open_published,
  records_of,
)

pytest_plugins = ["tests.published_fixtures"]

_ONE_FILE = tfds.download.DownloadConfig


@BOTH
def test_prepare_publishes_and_another_host_reads_the_same(
  bucket, served, scenes, built, monkeypatch, capsys
):
  stores.set_faults(served, unavailable=0.05, torn=0.05, slow=0.02)
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", str(bucket)]
  assert prepare.main(command) == 0
  name = built.parent.name
  said = capsys.readouterr().out
  assert f"folder is in {bucket}/folder/{name}/1.1.0\n" in said
  assert f"--config.data.data_dir={bucket} --config.data.path={name}\n" in said
  place = bucket / "folder" / name / "1.1.0"
  names = {path.name for path in built.iterdir()}
  assert set(place.names()) == {*names, published.INDEX}
  cache = pathlib.Path(os.environ["DEEPLAB_CACHE"])
  assert not list(cache.glob("built/folder/*/1*"))  # the store has it

  monkeypatch.setattr(build, "build", None)  # as all is there
  assert prepare.main(command) == 0
  expected = open_dataset(data_config(scenes, scenes.parent / "data"))
  for path in (scenes, name):  # hosts with and without the folder
    found = open_dataset(data_config(path, bucket))
    assert found.info == expected.info and not found.partial
    for split in ("train", "val"):
      assert records_of(found, split) == records_of(expected, split)
      assert found.digests(split) == expected.digests(split)


def test_what_is_built_on_the_machine_is_published_as_it_is(
  bucket, scenes, built, monkeypatch
):
  data_dir = str(scenes.parent / "data")
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", data_dir)
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", str(bucket)]
  before = os.stat(built / "dataset_info.json").st_mtime_ns
  assert prepare.main(command) == 0
  assert os.stat(built / "dataset_info.json").st_mtime_ns == before
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(bucket))
  assert (
    len(open_dataset(data_config(scenes, "")).train) == 8
  )  # as $TFDS_DATA_DIR


@BOTH
def test_an_upload_that_was_cut_off_is_continued(bucket, built, monkeypatch):
  target = bucket / "folder" / built.parent.name / built.name
  write, put = Address.write_bytes, []

  def cut_off(self, content, new=False):
    if len(put) == most:
      raise StoreError("killed")
    put.append(self.name)
    return write(self, content, new)

  most = 9
  monkeypatch.setattr(Address, "write_bytes", cut_off)
  with pytest.raises(StoreError, match="killed"):
    published.upload(built, target)
  assert published.read(target) is None
  with pytest.raises(ValueError, match=r"data\.path must be a name that"):
    open_published(target)
  before, most = {*put} - {remote.UNFINISHED}, 1000
  put.clear()
  published.upload(built, target)
  assert put.pop() == published.INDEX and len(before) == 8
  assert sorted(published.read(target).files) == sorted([*before, *put])


def test_exports_read_by_other_rules_are_refused_as_they_are_built_anew(
  bucket, tmp_path, monkeypatch
):
  # In one file, as there are few pictures.
  monkeypatch.setattr(tfds.download, "DownloadConfig", _ONE_FILE)
  export = tmp_path / "export"
  annotation_scenes.roboflow(export)
  place = ["--manual_dir", str(export), "--data_dir", str(bucket)]
  assert prepare.main(["folder", *place]) == 0
  target = bucket / "folder" / (bucket / "folder").names()[0] / "1.1.0"
  index, local = (
    target / published.INDEX,
    build.directory("folder", "", str(export)),
  )
  now = f"exports, rules {rules._RULES['exports']}"
  assert json.loads(index.read_bytes())["reading"].endswith(now)
  assert len(open_published(target).train) == 3
  with monkeypatch.context() as later:
    later.setitem(rules._RULES, "exports", 99)
    with pytest.raises(ValueError, match=f"{now}.*exports, rules 99") as told:
      open_published(target)
    assert "publish the folder again" in one_line(told)
    with pytest.raises(ValueError, match="no prepared data set at"):
      open_dataset(data_config(export, bucket))
    assert build.directory("folder", "", str(export)) != local
    assert prepare.main(["folder", *place]) == 0  # beside the other
    assert len((bucket / "folder").names()) == 2
  old = json.loads(index.read_bytes()) | {"reading": "rules 3, nodata None"}
  index.write_bytes(json.dumps(old).encode())
  with pytest.raises(ValueError, match=f"None'.*asks for '.*{now}'"):
    open_published(target)  # of a program that did not say by which rules


# Files, and the kinds of rules by which they are read.
_KINDS = {
  "masks": (["images/a.png", "masks/a.png", "classes.yaml", "train.txt"], []),
  "coco": (["a.json", "a.png"], ["exports"]),
  "yolo": (["images/a.PNG", "labels/a.txt", "classes.txt"], ["exports"]),
  "yolo names": (["a.png", "my.yml"], ["exports"]),
  "storage": (["a.png", "export/12"], ["exports"]),
  "numbered": (
    ["images/train2017/a.png", "masks/train2017/a.png", "images/val_2/b.png"],
    ["numbered splits"],
  ),
  "rasters": (["images/a.TIF", "masks/a.tiff", "readme.txt"], ["TIFFs"]),
}


@pytest.mark.parametrize("case", _KINDS)
def test_rules_are_those_of_the_kinds_of_files(case):
  paths, kinds = _KINDS[case]
  found = [words.partition(",")[0] for words in rules.rules_of(paths)]
  assert found == kinds


def test_what_cannot_be_published_is_refused(bucket, scenes, capsys):
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", str(bucket)]
  assert prepare.main([*command, "--channels=3", "--tile=64"]) == 1
  assert "--tile cannot be published to" in capsys.readouterr().err
  command[-1] = "az://bucket/data"
  assert prepare.main(command) == 1
  assert "must begin with gs:// or s3://" in capsys.readouterr().err


@BOTH
def test_what_is_damaged_in_the_store_is_named(put, built, capsys):
  record, index = "folder-train.array_record-00001-of-00004", published.INDEX
  whole = (put / record).read_bytes()
  for bad in (whole[:-1], whole[:1], bytes(len(whole)), whole[::-1]):
    (put / record).write_bytes(bad)
    with pytest.raises(ValueError, match="is not what was published") as told:
      records_of(open_published(put))
    assert str(put / record) in one_line(told)
    assert "delete it and run again the command" in str(told.value)
  (put / record).write_bytes(whole)
  records_of(open_published(put))  # whoever came before left nothing bad

  content = (put / index).read_bytes()
  newer = json.loads(content) | {"format": 99}
  outside = json.loads(content)
  outside["files"]["../x"] = [1, "0"]
  for bad in (
    content[:-9],
    b"[]",
    b"\xff",
    b'{"format": 1}',
    newer,
    outside,
  ):
    text = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    (put / index).write_bytes(text)
    with pytest.raises(ValueError, match="must list what is published") as told:
      open_published(put)
    assert str(put / index) in one_line(told)
  (put / index).write_bytes(content)

  for name in (record, "features.json"):
    (put / name).unlink()
    with pytest.raises(ValueError, match="must be there, as publ") as x:
      open_published(put)
    assert str(put / name) in one_line(x) or "and 1 more" in str(x.value)


def test_a_damaged_data_set_is_published_again(put, scenes, built):
  (put / "features.json").unlink()
  data_dir = str(put.parent.parent.parent)
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", data_dir]
  assert prepare.main(command) == 0
  expected = open_dataset(data_config(scenes, scenes.parent / "data"))
  assert records_of(open_published(put)) == records_of(expected)


def test_what_is_published_anew_is_not_mixed_with_the_old(
  put, built, scenes, tmp_path
):
  before = open_published(put)
  old = records_of(before)
  root = shutil.copytree(scenes, tmp_path / "new")
  for path in (root / "images").iterdir():
    PIL.Image.fromarray(255 - np.array(PIL.Image.open(path))).save(path)
  other = open_dataset(data_config(root, tmp_path / "data"))
  published.upload(other.directory, put, "rules 3, nodata None")
  after = open_published(put)
  assert after.directory != before.directory
  assert records_of(after) == records_of(other) != old == records_of(before)


def test_another_reading_of_a_published_folder_is_refused(put):
  data = data_config(put.parent.name, put.parent.parent.parent, nodata=7.0)
  with pytest.raises(
    ValueError, match="was published as 'rules 3, nodata N"
  ) as x:
    open_dataset(data)
  assert "asks for 'rules 3, nodata 7.0'" in one_line(x)


def test_what_is_not_published_is_said_with_the_command(put, scenes, tmp_path):
  bucket = put.parent.parent.parent
  (bucket / "camvid/1.0.0" / published.INDEX).write_bytes(b"1")
  data = data_config("", bucket)
  data.name = "camvid"
  with pytest.raises(ValueError, match=rf"camvid --data_dir {bucket}$") as told:
    open_dataset(data)
  assert "other versions of this program: 1.0.0" in str(told.value)
  with pytest.raises(ValueError, match=f"that is there: {put.parent.name}"):
    open_dataset(data_config("mine_0123456789ab", bucket))
  with pytest.raises(ValueError, match=r"archive .*, or the name that"):
    open_dataset(data_config("mine", bucket))
  root = shutil.copytree(scenes, tmp_path / "other")
  with pytest.raises(
    ValueError, match=f"--manual_dir {root} --data_dir {bucket}"
  ):
    open_dataset(data_config(root, bucket))
