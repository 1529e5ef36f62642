"""Published data sets, copied to where they are used, and the doors to them."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import doctor, evaluate, plan, train
from deeplab_jax.data import published, segmentation, staging
from deeplab_jax.data.source import open_dataset
from deeplab_jax.remote import Address, StoreError
from deeplab_jax.train import records
from deeplab_jax.train import run as run_lib
from tests import stores, tiny_runs
from tests.cheap_step import make_cheap_step
from tests.published_scenes import (
  BOTH,
  data_config,
  one_line,
  open_published,
  records_of,
)

pytest_plugins = ["tests.published_fixtures"]


def test_records_are_read_as_soon_as_their_file_is_there(
  put, scenes, built, reads, monkeypatch
):
  """And batches are those of a data set that was there from the start."""
  monkeypatch.setattr(staging.Copy, "_work", lambda *_: None)  # only on demand
  dataset = open_published(put)
  train = dataset.train
  here = {path.name for path in dataset.directory.glob("[!.]*")}
  assert here == {p.name for p in built.iterdir() if "record" not in p.name}
  reads.clear()
  again = pickle.loads(pickle.dumps(train))  # as worker processes get it
  assert [again.encoded(i)["name"] for i in (4, 5)] == ["s08", "s09"]
  third = "folder-train.array_record-00002-of-00004"
  assert {name for name, _ in reads} == {third}
  expected = open_dataset(data_config(scenes, scenes.parent / "data"))
  for start in (0, 3):
    found, wanted = (
      segmentation.train_batches(
        x,
        data_config(scenes, ""),
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
  records_of(open_published(put))
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


@BOTH
def test_large_files_are_read_in_parts(put, built, reads, monkeypatch):
  monkeypatch.setattr(staging, "_PART", 10_000)
  dataset = open_published(put)
  records_of(dataset)
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
  dataset = open_published(put)
  free = sizes["train"] + sizes["val"] - 1
  monkeypatch.setattr(
    staging.shutil, "disk_usage", lambda _: usage._replace(free=free)
  )
  monkeypatch.setattr(staging.Copy, "_work", lambda *_: None)
  _ = dataset.train  # which fits alone
  with pytest.raises(ValueError, match="set DEEPLAB_CACHE to a folder") as told:
    _ = dataset.eval
  assert f"{put}: " in one_line(told) and "B are free; " in str(told.value)


def test_a_copy_that_is_damaged_is_told_from_what_is_published(put):
  dataset = open_published(put)
  records_of(dataset)
  for path in dataset.directory.glob("*-train.*record*"):
    path.write_bytes(bytes(path.stat().st_size))
  with pytest.raises(ValueError, match="folder and it is copied again"):
    records_of(open_published(put))
  shutil.rmtree(dataset.directory)
  records_of(open_published(put))


def test_copies_long_out_of_use_are_removed(put):
  folder = open_published(put).directory
  unused = folder.parent.with_name("unused_0")
  used = folder.parent.with_name("used_0")
  for root in (unused, used):
    root.mkdir()
    (root / ".used").touch()
    os.utime(root / ".used", (0, 0))
  with (used / ".used").open() as file:
    staging.fcntl.flock(file, staging.fcntl.LOCK_SH)  # by a long run
    open_published(put)
    assert used.is_dir() and not unused.exists() and folder.is_dir()


def _experiment(path, data_dir):
  config = config_lib.load(str(tiny_runs.CONFIG))
  config.update(steps=3, eval_first=False, checkpoint_every=3)
  config.data.update(name="folder", path=str(path), data_dir=str(data_dir))
  return config


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
  monkeypatch.setattr(run_lib, "make_train_step", make_cheap_step)
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
    assert "gs://no-such-bucket" in one_line(told), door
