"""Data sets in object stores: published, and copied where they are used.

The stores are emulators on this machine, each before a server that has faults.
"""

import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from deeplab_jax import config as config_lib
from deeplab_jax import doctor, evaluate, plan, prepare, remote, train
from deeplab_jax.data import build, published, segmentation, staging
from deeplab_jax.data.source import open_dataset
from deeplab_jax.remote import Address, StoreError, store
from deeplab_jax.train import records
from deeplab_jax.train import run as run_lib
from tests import doctor_scenes, stores

_CONFIG = pathlib.Path(__file__).parent / "programs/tiny_config.py"
_SHARDS = 4


_BOTH = pytest.mark.parametrize("served", stores.SCHEMES, indirect=True)


@pytest.fixture(scope="module", params=["gs"])
def served(request):
  with stores.serve(request.param) as found:
    yield found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> pathlib.Path:
  """A user's folder of 8 and 4 pictures with masks."""
  root = doctor_scenes.write(tmp_path_factory.mktemp("scenes") / "mine")
  (root / "classes.txt").write_text("ground\nred\nblue\nyellow\n")
  return root


@pytest.fixture(scope="module")
def built(scenes) -> pathlib.Path:
  """The same as a data set in this machine's folders, of 4 files a split."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(tfds.download, "DownloadConfig", _in_shards)
    return open_dataset(_data(scenes, scenes.parent / "data")).directory


def _in_shards(**options):
  return _DOWNLOAD_CONFIG(num_shards=_SHARDS, **options)


_DOWNLOAD_CONFIG = tfds.download.DownloadConfig


@pytest.fixture
def bucket(served, monkeypatch, tmp_path) -> Address:
  """A folder of the bucket that is this test's own; no faults."""
  monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
  for name, value in served.environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "none"))
  monkeypatch.setattr(tfds.download, "DownloadConfig", _in_shards)
  retries = {"max_retries": 6, "initial_delay": "10ms", "max_delay": "50ms"}
  monkeypatch.setattr(store, "_RETRIES", retries)
  store.bucket.cache_clear()
  stores.set_faults(served)
  yield Address(f"{served.scheme}://bucket/{tmp_path.name}")
  stores.set_faults(served)
  for thread in threading.enumerate():
    if thread.name == "staging":
      thread.join()
  store.bucket.cache_clear()


@pytest.fixture
def put(built, bucket) -> Address:
  """The data set, published."""
  target = bucket / "folder" / built.parent.name / built.name
  published.upload(built, target, "rules 3, nodata None")
  return target


def _data(path, data_dir, **fields):
  config = config_lib.load(str(_CONFIG)).data
  config.update(name="folder", path=str(path), data_dir=str(data_dir), **fields)
  return config


def _open(put: Address):
  """As a host that has not got the folder."""
  return open_dataset(_data(put.parent.name, put.parent.parent.parent))


def _records(dataset, split="train") -> list[dict]:
  source = dataset.source(split)
  return [source.encoded(index) for index in range(len(source))]


def _one_line(caught) -> str:
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.fixture
def reads(monkeypatch) -> list[tuple]:
  """The names of the files that are read from the store, and from where on."""
  found, read = [], Address.read_bytes

  def read_bytes(self, begin=0, end=None):
    found.append((self.name, begin))
    return read(self, begin, end)

  monkeypatch.setattr(Address, "read_bytes", read_bytes)
  return found


# ------------------------------------------------------------------ publishing


@_BOTH
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
  expected = open_dataset(_data(scenes, scenes.parent / "data"))
  for path in (scenes, name):  # hosts with and without the folder
    found = open_dataset(_data(path, bucket))
    assert found.info == expected.info and not found.partial
    for split in ("train", "val"):
      assert _records(found, split) == _records(expected, split)
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
  assert len(open_dataset(_data(scenes, "")).train) == 8  # as $TFDS_DATA_DIR


@_BOTH
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
    _open(target)
  before, most = {*put} - {remote.UNFINISHED}, 1000
  put.clear()
  published.upload(built, target)
  assert put.pop() == published.INDEX and len(before) == 8
  assert sorted(published.read(target).files) == sorted([*before, *put])


def test_what_cannot_be_published_is_refused(bucket, scenes, capsys):
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", str(bucket)]
  assert prepare.main([*command, "--channels=3", "--tile=64"]) == 1
  assert "--tile cannot be published to" in capsys.readouterr().err
  command[-1] = "az://bucket/data"
  assert prepare.main(command) == 1
  assert "must begin with gs:// or s3://" in capsys.readouterr().err


# --------------------------------------------------------------------- staging


def test_records_are_read_as_soon_as_their_file_is_there(
  put, scenes, built, reads, monkeypatch
):
  """And batches are those of a data set that was there from the start."""
  monkeypatch.setattr(staging.Copy, "_work", lambda *_: None)  # only on demand
  dataset = _open(put)
  train = dataset.train
  here = {path.name for path in dataset.directory.glob("[!.]*")}
  assert here == {p.name for p in built.iterdir() if "record" not in p.name}
  reads.clear()
  again = pickle.loads(pickle.dumps(train))  # as worker processes get it
  assert [again.encoded(i)["name"] for i in (4, 5)] == ["s08", "s09"]
  third = "folder-train.array_record-00002-of-00004"
  assert {name for name, _ in reads} == {third}
  expected = open_dataset(_data(scenes, scenes.parent / "data"))
  for start in (0, 3):
    found, wanted = (
      segmentation.train_batches(
        x,
        _data(scenes, ""),
        batch_size=2,
        seed=1,
        padding_value=(0,) * 3,
        start_step=start,
      )
      for x in (dataset, expected)
    )
    for _ in range(3):
      one, other = next(found), next(wanted)
      assert one["name"] == other["name"]
      np.testing.assert_array_equal(one["image"], other["image"])


def test_processes_of_a_host_share_one_copy(put, reads, monkeypatch, capfd):
  reads.clear()
  read = Address.read_bytes

  def slowly(self, *part):
    if part:
      staging.time.sleep(0.02)
    return read(self, *part)

  monkeypatch.setattr(Address, "read_bytes", slowly)
  index = published.read(put)
  results = []

  def process():  # each has files of its own, which is what locks look at
    copy = staging.Copy(put, index)
    copy.begin(index.files)
    for name in index.files:
      copy.require(name)
    results.append(copy.folder)

  threads = [threading.Thread(target=process) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  (folder,) = set(results)
  names = [name for name, _ in reads if name != published.INDEX]
  assert sorted(names) == sorted(index.files)  # each once
  assert {p.name for p in folder.glob("[!.]*")} == index.files.keys()
  reads.clear()
  _records(_open(put))
  assert {name for name, _ in reads} == {published.INDEX}


_DIES = """
import fcntl, pathlib, sys, time
partial = open(sys.argv[1], "a+b")
fcntl.flock(partial, fcntl.LOCK_EX)
partial.write(pathlib.Path(sys.argv[2]).read_bytes()[: int(sys.argv[3])])
partial.flush()
print("half", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("left", ["good", "bad"])
def test_what_a_dead_process_left_is_continued(put, built, reads, left):
  name = "folder-val.array_record-00001-of-00004"
  copy = staging.Copy(put, published.read(put))
  content = built / name
  half = content.stat().st_size // 2
  if left == "bad":
    content = built / "folder-val.array_record-00000-of-00004"
  partial = str(copy.folder / f".{name}.partial")
  command = [sys.executable, "-c", _DIES, partial, str(content), str(half)]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
    other.stdout.readline()
    waiting = threading.Thread(target=copy.require, args=(name,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()  # for the other one
    other.send_signal(signal.SIGKILL)
    waiting.join(20)
  assert not waiting.is_alive()
  assert (copy.folder / name).read_bytes() == (built / name).read_bytes()
  begins = [begin for read, begin in reads if read == name]
  assert begins == ([half] if left == "good" else [half, 0])


@_BOTH
def test_large_files_are_read_in_parts(put, built, reads, monkeypatch):
  monkeypatch.setattr(staging, "_PART", 10_000)
  dataset = _open(put)
  _records(dataset)
  for path in built.glob("*-train*record*"):
    copied = dataset.directory / path.name
    assert copied.read_bytes() == path.read_bytes()
    begins = [begin for name, begin in reads if name == path.name]
    assert begins == list(range(0, path.stat().st_size, 10_000))


def test_too_little_space_is_told_before_anything_is_copied(
  put, reads, monkeypatch
):
  index = published.read(put)
  sizes = {
    split: sum(f.size for n, f in index.files.items() if f"{split}.array" in n)
    for split in ("train", "val")
  }
  usage = shutil.disk_usage("/")
  dataset = _open(put)
  free = sizes["train"] + sizes["val"] - 1
  monkeypatch.setattr(
    staging.shutil, "disk_usage", lambda _: usage._replace(free=free)
  )
  monkeypatch.setattr(staging.Copy, "_work", lambda *_: None)
  _ = dataset.train  # which fits alone
  with pytest.raises(ValueError, match="set DEEPLAB_CACHE to a folder") as told:
    _ = dataset.eval
  assert f"{put}: " in _one_line(told) and "B are free; " in str(told.value)


# ---------------------------------------------------------------------- damage


@_BOTH
def test_what_is_damaged_in_the_store_is_named(put, built, capsys):
  record, index = "folder-train.array_record-00001-of-00004", published.INDEX
  whole = (put / record).read_bytes()
  for bad in (whole[:-1], whole[:1], bytes(len(whole)), whole[::-1]):
    (put / record).write_bytes(bad)
    with pytest.raises(ValueError, match="is not what was published") as told:
      _records(_open(put))
    assert str(put / record) in _one_line(told)
    assert "delete it and run again the command" in str(told.value)
  (put / record).write_bytes(whole)
  _records(_open(put))  # whoever came before left nothing bad

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
      _open(put)
    assert str(put / index) in _one_line(told)
  (put / index).write_bytes(content)

  for name in (record, "features.json"):
    (put / name).unlink()
    with pytest.raises(ValueError, match="must be there, as publ") as x:
      _open(put)
    assert str(put / name) in _one_line(x) or "and 1 more" in str(x.value)


def test_a_copy_that_is_damaged_is_told_from_what_is_published(put):
  dataset = _open(put)
  _records(dataset)
  for path in dataset.directory.glob("*-train.*record*"):
    path.write_bytes(bytes(path.stat().st_size))
  with pytest.raises(ValueError, match="folder and it is copied again"):
    _records(_open(put))
  shutil.rmtree(dataset.directory)
  _records(_open(put))


def test_a_damaged_data_set_is_published_again(put, scenes, built):
  (put / "features.json").unlink()
  data_dir = str(put.parent.parent.parent)
  command = ["folder", "--manual_dir", str(scenes), "--data_dir", data_dir]
  assert prepare.main(command) == 0
  expected = open_dataset(_data(scenes, scenes.parent / "data"))
  assert _records(_open(put)) == _records(expected)


def test_what_is_published_anew_is_not_mixed_with_the_old(
  put, built, scenes, tmp_path
):
  before = _open(put)
  old = _records(before)
  root = shutil.copytree(scenes, tmp_path / "new")
  for path in (root / "images").iterdir():
    PIL.Image.fromarray(255 - np.array(PIL.Image.open(path))).save(path)
  other = open_dataset(_data(root, tmp_path / "data"))
  published.upload(other.directory, put, "rules 3, nodata None")
  after = _open(put)
  assert after.directory != before.directory
  assert _records(after) == _records(other) != old == _records(before)


def test_another_reading_of_a_published_folder_is_refused(put):
  data = _data(put.parent.name, put.parent.parent.parent, nodata=7.0)
  with pytest.raises(
    ValueError, match="was published as 'rules 3, nodata N"
  ) as x:
    open_dataset(data)
  assert "asks for 'rules 3, nodata 7.0'" in _one_line(x)


def test_what_is_not_published_is_said_with_the_command(put, scenes, tmp_path):
  bucket = put.parent.parent.parent
  (bucket / "camvid/1.0.0" / published.INDEX).write_bytes(b"1")
  data = _data("", bucket)
  data.name = "camvid"
  with pytest.raises(ValueError, match=rf"camvid --data_dir {bucket}$") as told:
    open_dataset(data)
  assert "other versions of this program: 1.0.0" in str(told.value)
  with pytest.raises(ValueError, match=f"that is there: {put.parent.name}"):
    open_dataset(_data("mine_0123456789ab", bucket))
  with pytest.raises(ValueError, match="folder of images and masks, or the"):
    open_dataset(_data("mine", bucket))
  root = shutil.copytree(scenes, tmp_path / "other")
  with pytest.raises(
    ValueError, match=f"--manual_dir {root} --data_dir {bucket}"
  ):
    open_dataset(_data(root, bucket))


def test_copies_long_out_of_use_are_removed(put):
  folder = _open(put).directory
  unused = folder.parent.with_name("unused_0")
  used = folder.parent.with_name("used_0")
  for root in (unused, used):
    root.mkdir()
    (root / ".used").touch()
    os.utime(root / ".used", (0, 0))
  with (used / ".used").open() as file:
    staging.fcntl.flock(file, staging.fcntl.LOCK_SH)  # by a long run
    _open(put)
    assert used.is_dir() and not unused.exists() and folder.is_dir()


# ----------------------------------------------------------------------- doors


def _experiment(path, data_dir):
  config = config_lib.load(str(_CONFIG))
  config.update(steps=3, eval_first=False, checkpoint_every=3)
  config.data.update(name="folder", path=str(path), data_dir=str(data_dir))
  return config


def _cheap_step(*_):
  """A training step that is not compiled: its loss tells the batch."""

  def step(state, batch):
    names = ("gradient_norm", "learning_rate", "cross_entropy")
    loss = jnp.mean(batch["image"]) + 1000 * jnp.mean(batch["label"])
    metrics = dict.fromkeys(names, 1.0) | {"loss": loss}
    return state.replace(step=state.step + 1), metrics

  return step


def _rows(workdir) -> list[dict]:
  return [
    {name: x for name, x in row.items() if "per_second" not in name}
    for row in records.read(workdir / "metrics.jsonl")
  ]


_DOORS = {
  "train": lambda config, run: train.train_and_evaluate(
    config, run, evaluating=False
  ),
  "eval": lambda config, run: evaluate.report(run, config),
  "doctor": lambda config, run: doctor.examine(config, overfit_steps=0),
  "plan": lambda config, run: plan.make_plan(config, plan.local_machine()),
}


def test_every_door_takes_an_address(
  put, served, scenes, built, tmp_path, monkeypatch
):
  monkeypatch.setattr(run_lib, "make_train_step", _cheap_step)
  monkeypatch.setattr(plan, "compile_step", lambda *_: None)
  stores.set_faults(served, unavailable=0.03)
  here = _experiment(scenes, scenes.parent / "data")
  there = _experiment(put.parent.name, put.parent.parent.parent)
  found, expected = (
    {door: call(config, tmp_path / name) for door, call in _DOORS.items()}
    for name, config in (("there", there), ("here", here))
  )
  assert _rows(tmp_path / "there") == _rows(tmp_path / "here")
  assert np.array_equal(*(x["eval"].confusion for x in (found, expected)))
  assert found["plan"].model == expected["plan"].model
  checkups = found["doctor"], expected["doctor"]
  assert not any(checkup.errors for checkup in checkups)
  counts = [checkup.survey.counts["train"] for checkup in checkups]
  np.testing.assert_array_equal(*counts)

  stores.set_faults(served)
  there.data.data_dir = "gs://no-such-bucket/data"
  for door, call in _DOORS.items():
    workdir = tmp_path / ("new" if door == "train" else "there")
    with pytest.raises(StoreError, match="no such bucket") as told:
      call(there, workdir)
    assert "gs://no-such-bucket" in _one_line(told), door
