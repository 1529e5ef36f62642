"""Object stores: what is kept there, through kills and faults of the network.

The stores are emulators on this machine, each before a server that has faults.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import checkpoints, compare, goodput, predict, remote
from deeplab_jax.checkpoints import fetching, wholeness
from deeplab_jax.models import BACKBONES, DeepLab
from deeplab_jax.remote import Address, StoreError
from deeplab_jax.train import initialize, lock, remote_lock
from tests import stores
from tests.random_variables import random_variables
from tests.tiny_backbone import TINY

_REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module", params=stores.SCHEMES)
def served(request):
  with stores.serve(request.param) as found:
    yield found


@pytest.fixture
def bucket(served, monkeypatch, tmp_path) -> Iterator[Address]:
  with stores.folder_of_test(served, tmp_path, monkeypatch) as found:
    yield found


def test_objects_are_as_files_are(bucket):
  place = bucket / "a b/é#%[.png"
  assert not place.exists() and not bucket.is_dir()
  with pytest.raises(FileNotFoundError) as caught:
    place.read_bytes()
  assert caught.value.filename == str(place)
  place.write_bytes(b"1")
  place.write_bytes(b"2")
  assert place.read_bytes() == b"2" == place.open("rb").read()
  assert place.is_file() and not place.is_dir() and bucket.is_dir()
  assert (bucket / "a b").is_dir() and not (bucket / "a").exists()
  assert bucket.below() == ["a b/é#%[.png"] and bucket.names() == ["a b"]
  assert (place.name, place.stem, place.suffix) == ("é#%[.png", "é#%[", ".png")
  assert place.parent.parent == bucket == Address(f"{bucket}/")
  assert place.parents[1] == bucket
  place.unlink()
  assert not place.exists()


def test_faults_of_the_network_are_tried_again(bucket, served):
  stores.set_faults(served, unavailable=0.2, torn=0.1, throttled=0.1)
  contents = {f"{i}": os.urandom(1 + 500 * i) for i in range(20)}
  for name, content in contents.items():
    (bucket / name).write_bytes(content)
  for name, content in contents.items():
    assert (bucket / name).read_bytes() == content
  assert bucket.names() == sorted(contents)


@pytest.mark.parametrize(
  ("faults", "says"),
  [
    ({"refused": 1}, "no permission: check the credentials"),
    ({"unavailable": 1}, "the store throttles or is away"),
    ({"throttled": 1}, "the store throttles or is away"),
  ],
)
def test_a_store_that_does_not_serve_ends_in_a_line_before_any_work(
  bucket, served, faults, says
):
  stores.set_faults(served, **faults)
  with (
    pytest.raises(StoreError, match=says) as caught,
    lock.only_writer(bucket),
  ):
    pytest.fail("it got the lock")
  assert "\n" not in str(caught.value) and str(bucket) in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(bucket, served):
  missing = Address(f"{served.scheme}://no-such-bucket/run")
  with pytest.raises(StoreError, match="no such bucket") as caught:
    missing.below()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("address", "says"),
  [
    ("http://bucket/run", "must begin with gs:// or s3://, got http://bucket"),
    ("az://bucket/run", "must begin with gs:// or s3://"),
    ("gs://", "an address must be gs://BUCKET/..."),
    ("gs:///run", "an address must be gs://BUCKET/..."),
    ("gs://bucket/a/../b", "must not hold"),
  ],
)
def test_wrong_addresses_are_refused_in_a_line(address, says):
  with pytest.raises(ValueError, match=says) as caught:
    checkpoints.local_path(address)
  assert "\n" not in str(caught.value)


def test_slashes_that_a_path_took_are_put_back():
  assert remote.as_path(pathlib.Path("gs://b/c")) == Address("gs://b/c")
  assert isinstance(remote.as_path("gs.d/c:/e"), pathlib.Path)


# ------------------------------------------------------------------ one writer


def test_a_second_run_is_refused_while_the_first_lives(bucket, monkeypatch):
  monkeypatch.setattr(remote_lock, "_BEAT", 0.2)
  monkeypatch.setattr(remote_lock, "_LOOK", 0.1)
  this = remote_lock._machine()
  with lock.only_writer(bucket) as still_held:
    still_held()
    for machine in (this, "another"):
      monkeypatch.setattr(remote_lock, "_machine", lambda m=machine: m)
      pattern = rf"in use by another run \(process {os.getpid()} on .*heard of"
      with (
        pytest.raises(ValueError, match=pattern) as caught,
        lock.only_writer(bucket),
      ):
        pytest.fail("it got the lock")
      assert "\n" not in str(caught.value), machine
    monkeypatch.setattr(remote_lock, "_machine", lambda: this)
  assert bucket.below() == []


def test_a_dead_run_of_this_machine_keeps_no_lock(bucket, caplog):
  held, _ = remote_lock.acquire(bucket / "lock")
  held._ended.set()  # as if killed: nothing is removed
  content = json.loads((bucket / "lock").read_bytes())
  content |= {"process": 2**22 + 1}
  (bucket / "lock").write_bytes(json.dumps(content).encode())
  with lock.only_writer(bucket):
    pass
  assert "was cut off (process 4194305 on " in caplog.text


def test_a_silent_run_of_another_machine_is_waited_for_and_then_dead(
  bucket, monkeypatch
):
  held, _ = remote_lock.acquire(bucket / "lock")
  held._ended.set()
  monkeypatch.setattr(remote_lock, "_DEAD", 0.3)
  monkeypatch.setattr(remote_lock, "_LOOK", 0.1)
  monkeypatch.setattr(remote_lock, "_machine", lambda: "another")
  with (
    lock.only_writer(bucket),
    # It was not dead, only slow: it must not write any more.
    pytest.raises(StoreError, match="taken over by another run"),
  ):
    held.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff"])
def test_a_damaged_lock_is_no_lock(bucket, content, monkeypatch):
  monkeypatch.setattr(remote_lock, "_DEAD", 0.2)
  monkeypatch.setattr(remote_lock, "_LOOK", 0.1)
  (bucket / "lock").write_bytes(content or b" ")
  with lock.only_writer(bucket):
    pass


# ----------------------------------------------------------------------- steps


def _step(folder: pathlib.Path, name: str) -> pathlib.Path:
  step = folder / name
  (step / "variables").mkdir(parents=True)
  for name in ("d", "e"):
    (step / "variables" / name).write_bytes(os.urandom(100))
  wholeness.write_checksums(step)
  return step


def test_a_step_counts_once_all_of_it_is_there(bucket, tmp_path, monkeypatch):
  mirror = fetching.Mirror(bucket, 0)
  mirror.publish(_step(tmp_path, "5"), "checkpoints", "5")
  assert mirror.steps("checkpoints") == [bucket / "checkpoints/5"]
  six = _step(tmp_path, "6")
  for count in range(1, 5):  # of the writes before that at which it is killed
    left = iter([None] * count)
    write = Address.write_bytes

    def cut_off(self, content, new=False, left=left, write=write):
      next(left)
      return write(self, content, new)

    with monkeypatch.context() as patch:
      patch.setattr(Address, "write_bytes", cut_off)
      with pytest.raises((StopIteration, RuntimeError)):
        mirror.publish(six, "checkpoints", "6")
    names = [step.name for step in mirror.steps("checkpoints")]
    assert names == ["5"], count
  mirror.open("checkpoints", writes=True)  # the next start clears what is left
  assert (bucket / "checkpoints").names() == ["5"]
  copy = mirror.fetch("checkpoints", "5")
  assert wholeness.fault(copy, "variables") is None


def test_what_is_damaged_in_the_store_is_found(bucket, tmp_path, monkeypatch):
  mirror = fetching.Mirror(bucket, 0)
  mirror.publish(_step(tmp_path, "5"), "checkpoints", "5")
  mirror.publish(_step(tmp_path, "6"), "checkpoints", "6")
  (bucket / "checkpoints/6/variables/d").write_bytes(b"torn")
  assert checkpoints.find_step(bucket).name == "5"
  (bucket / "checkpoints/5/variables/d").unlink()
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "new"))  # without its copy
  with pytest.raises(ValueError, match=r"d is (missing|not what was saved)"):
    checkpoints.find_step(f"{bucket}/checkpoints/5")


# ----------------------------------------------------------------------- doors


@pytest.fixture
def model(monkeypatch):
  monkeypatch.setitem(BACKBONES, "tiny", TINY)
  return DeepLab(
    num_classes=3,
    backbone="tiny",
    output_stride=32,
    atrous_rates=(),
    decoder=(),
  )


def test_every_door_reads_and_writes_a_store(
  bucket, served, model, tmp_path, capsys
):
  stores.set_faults(served, unavailable=0.05)
  variables = random_variables(model, np.zeros((1, 65, 65, 3), np.float32))
  colors = ((0, 0, 0), (10, 200, 30), (30, 60, 250))
  facts = {"name": "x", "class_names": list("abc"), "colors": colors}
  own, there = tmp_path / "model", bucket / "model"
  for folder in (own, there):
    checkpoints.save_model(folder, model, variables, dataset=facts)
  with pytest.raises(ValueError, match="holds a model already"):
    checkpoints.save_model(there, model, variables)

  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  expected = deeplab_jax.load(own)(image)
  for path in (there, str(there), f"{there}/checkpoints/0"):
    assert (deeplab_jax.load(path)(image) == expected).all(), path
  assert checkpoints.read_model(str(there)) == model
  assert initialize._license(there) == ""

  Image.fromarray(image).save(tmp_path / "a.png")
  with tarfile.open(tmp_path / "b.tar", "w") as tar:
    tar.add(tmp_path / "a.png", "x.png")
  (bucket / "in/y.png").write_bytes((tmp_path / "a.png").read_bytes())
  (bucket / "c.tar").write_bytes((tmp_path / "b.tar").read_bytes())
  inputs = [tmp_path / "a.png", tmp_path / "b.tar"]
  inputs = [*map(str, inputs), f"{bucket}/in", f"{bucket}/c.tar"]
  names = ["a.png", "b/x.png", "c/x.png", "y.png"]
  flags = ["--out", f"{bucket}/out", "--no_overlay", "--resume", "--share"]
  for share in ("0/2", "1/2"):
    assert predict.main([str(there), *inputs, *flags, share]) == 0
  assert "all 2 shares: 4 of 4 pictures are labelled" in capsys.readouterr().out
  assert (bucket / "out/labels").below() == names
  for name in names:
    with Image.open((bucket / "out/labels" / name).open()) as picture:
      assert (np.asarray(picture) == expected).all()
  assert predict.main([str(there), *inputs, *flags, "0/1"]) == 0
  assert "4 pictures were done before" in capsys.readouterr().out
  flags[-1:] = ["--flip", "--share"]
  assert predict.main([str(there), *inputs, *flags, "0/1"]) == 1
  assert "flip: False -> True" in capsys.readouterr().err

  rows = [{"step": 1, "train/loss": 1.0}, {"step": 2, "eval/miou": 0.5}]
  text = "".join(f"{json.dumps(row)}\n" for row in rows)
  (bucket / "run/metrics.jsonl").write_bytes(text.encode())
  (run,) = compare.read_runs([f"{bucket}/run"])
  assert run.scores == {2: 0.5}
  assert goodput.main([f"{bucket}/run"]) == 1


@pytest.mark.slow  # a quarter of an hour and more
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_killed_runs_end_as_undisturbed_ones(tmp_path, scheme, processes):
  """Of one process and of two, with faults of the network."""
  done = subprocess.run(
    [
      *(sys.executable, "-W", "ignore", "-m"),
      *("tests.programs.kill_and_continue", str(tmp_path), "20"),
      *("--store", scheme, "--processes", processes),
    ],
    cwd=_REPOSITORY,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert "20 kills, " in done.stdout and "ended alike" in done.stdout
