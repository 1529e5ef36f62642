"""Every file of a step damaged in every way, and what cannot be read."""

import errno
import gc
import hashlib
import logging
import os
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.checkpoints import items, wholeness
from deeplab_jax.checkpoints.model_directory import find_step
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.state import TrainState, abstract


def _damages(*quick):
  """All kinds, of which these are in `make test`."""
  return [
    pytest.param(how, marks=[pytest.mark.slow] * (how not in quick))
    for how in ("deleted", "cut", "one bit", "empty", "half zero")
  ]


_CHECKSUMS = "checksums.json"


def _state(step: int) -> TrainState:
  """All leaves differ from step to step."""
  random = np.random.default_rng(step)
  leaf = jnp.asarray(random.random((40, 30)), jnp.float32)
  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    params={"conv": {"kernel": leaf, "bias": leaf[0]}},
    batch_stats={"mean": leaf[1]},
    opt_state=({"momentum": leaf + 1},),
  )


def _fill(folder: pathlib.Path) -> pathlib.Path:
  """Steps 1, 2, 3 of which two are kept, and the best, 2."""
  saver = Checkpoints(folder, keep=2)
  for step, score in ((1, 0.5), (2, 0.75), (3, 0.25)):
    saver.save(_state(step))
    saver.save_best(_state(step), score)
  saver.close()
  return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return _fill(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copy(workdir, tmp_path):
  return shutil.copytree(workdir, tmp_path / "copy")


def _files(step: pathlib.Path) -> list[str]:
  return sorted(
    path.relative_to(step).as_posix()
    for path in step.rglob("*")
    if path.is_file()
  )


def _damage(path: pathlib.Path, how: str) -> None:
  content = path.read_bytes()
  half = len(content) // 2
  flipped = bytearray(content)
  flipped[half] ^= 4
  if how == "deleted":
    path.unlink()
    return
  path.write_bytes(
    {
      "empty": b"",
      "cut": content[:half],
      "half zero": content[:half] + bytes(len(content) - half),
      "one bit": bytes(flipped),
    }[how]
  )


def _restore(folder: pathlib.Path) -> TrainState | None:
  saver = Checkpoints(folder, keep=2)
  try:
    return saver.restore_newest(abstract(_state(0)))
  finally:
    saver.close()


def _equal(found, expected) -> bool:
  same = jax.tree.map(np.array_equal, found, expected)
  return all(jax.tree.leaves(same))


# With checksums a file is there and whole, or not.
@pytest.mark.parametrize("how", _damages("deleted", "one bit"))
def test_a_damaged_file_is_never_restored(workdir, tmp_path, how):
  """Training goes on exactly from this step or the one before."""
  names = _files(workdir / "checkpoints/3")
  assert _CHECKSUMS in names and len(names) > 15
  outcomes = {}
  for index, name in enumerate(names):
    copy = shutil.copytree(workdir, tmp_path / str(index))
    _damage(copy / "checkpoints/3" / name, how)
    step = find_step(copy)
    assert _equal(
      items.restore(step / "variables"), _state(int(step.name)).variables
    ), name
    found = _restore(copy)
    outcomes[name] = int(found.step)
    assert _equal(found, _state(outcomes[name])), name
    aside = copy / "broken/3"
    assert aside.is_dir() == (outcomes[name] == 2), name
    shutil.rmtree(copy)
  spared = {name for name, step in outcomes.items() if step == 3}
  without_sums = {"_CHECKPOINT_METADATA", "commit_success.txt"}
  if how == "deleted":
    without_sums.add(_CHECKSUMS)
  assert spared == without_sums


@pytest.mark.parametrize("how", _damages("deleted", "one bit"))
def test_a_damaged_best_is_put_aside(workdir, tmp_path, how):
  for index, name in enumerate(_files(workdir / "best/2")):
    copy = shutil.copytree(workdir, tmp_path / str(index))
    _damage(copy / "best/2" / name, how)
    try:
      found = items.restore(find_step(copy / "best") / "variables")
    except ValueError as error:
      assert "best/2 is not whole" in str(error)
      assert "\n" not in str(error)
    else:
      assert _equal(found, _state(2).variables), name
    assert _equal(_restore(copy), _state(3)), name
    spared = (copy / "best/2").is_dir()
    assert spared != (copy / "broken/best_2").is_dir(), name
    shutil.rmtree(copy)


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
# Missing items are in test_checkpoints.py, too.
@pytest.mark.parametrize("how", _damages("cut"))
def test_damage_without_checksums_ends_in_no_traceback(
  workdir, tmp_path, how, monkeypatch
):
  """Steps of older versions: found out where files are missing or cut."""
  # Orbax leaves coroutines behind where one of several arrays cannot be read.
  monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
  names = [name for name in _files(workdir / "checkpoints/3") if "/" in name]
  for index, name in enumerate(names):
    copy = shutil.copytree(workdir, tmp_path / str(index))
    for sums in copy.rglob(_CHECKSUMS):
      sums.unlink()
    _damage(copy / "checkpoints/3" / name, how)
    found = _restore(copy)
    if how in ("deleted", "empty", "cut"):
      assert _equal(found, _state(int(found.step))), name
    shutil.rmtree(copy)
  gc.collect()


def test_steps_of_older_versions_are_restored(copy):
  for sums in copy.rglob(_CHECKSUMS):
    sums.unlink()
  assert _equal(_restore(copy), _state(3))
  assert (copy / "best/2").is_dir()


def test_without_a_whole_checkpoint_the_best_is_named(copy):
  """Nothing is moved, and the next start says the same."""
  for step in (2, 3):
    _damage(copy / f"checkpoints/{step}/variables/_METADATA", "cut")
  for _ in range(2):
    with pytest.raises(ValueError) as caught:
      _restore(copy)
    message = str(caught.value)
    assert "no checkpoint in" in message and "\n" not in message
    assert "3: variables: _METADATA is not what was saved" in message
    assert f"--config.init_from={copy / 'best'}" in message
    assert sorted(os.listdir(copy / "checkpoints")) == ["2", "3"]
  with pytest.raises(ValueError, match="not whole") as caught:
    find_step(copy)
  assert f"{copy / 'best'}" in str(caught.value)
  assert "\n" not in str(caught.value)
  assert find_step(copy / "best").name == "2"


@pytest.mark.parametrize("number", ["EACCES", "EIO", "ESTALE", "EMFILE"])
@pytest.mark.parametrize("of", ["checkpoints", "best"])
def test_what_cannot_be_read_is_not_taken_for_damaged(
  copy, monkeypatch, number, of
):
  """An error of the disk, the network or permissions stops; nothing moves."""
  before = sorted(copy.rglob("*"))

  def fail(file, algorithm):
    if f"/{of}/" not in file.name:
      return hashlib.new(algorithm, file.read())
    raise OSError(getattr(errno, number), "told by the system", file.name)

  monkeypatch.setattr(hashlib, "file_digest", fail)
  with pytest.raises(OSError, match="told by the system"):
    _restore(copy)
  with pytest.raises(OSError, match="told by the system"):
    find_step(copy / of)
  assert sorted(copy.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give up being root")
@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/3", "best/2"])
def test_a_folder_without_permission_stops(copy, place):
  for path in (copy, *copy.parents):
    if path.stat().st_uid == 0 and path != pathlib.Path("/"):
      path.chmod(path.stat().st_mode | 0o777)
  for path in copy.rglob("*"):
    path.chmod(0o777)
  (copy / place).chmod(0)
  os.seteuid(65534)
  try:
    with pytest.raises(PermissionError):
      _restore(copy)
  finally:
    os.seteuid(0)
    (copy / place).chmod(0o777)
  assert _equal(_restore(copy), _state(3))


@pytest.mark.parametrize(
  "name", ["a#b", "a?b", "100%25", "a b", "\u00e4\u4e2d", "a\nb", "gs:x", "*"]
)
def test_any_path_keeps_its_checkpoints(tmp_path, name):
  folder = _fill(tmp_path / name)
  assert _equal(_restore(folder), _state(3))
  for sums in folder.rglob(_CHECKSUMS):  # and those of older versions
    sums.unlink()
  assert _equal(_restore(folder), _state(3))
  assert not (folder / "broken").exists()
  assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a[b]", "a\\b", "\udcffx"])
def test_a_path_that_orbax_cannot_write_is_refused(tmp_path, name):
  with pytest.raises(ValueError, match="checkpoints cannot be saved in"):
    Checkpoints(tmp_path / name, keep=1)
  assert os.listdir(tmp_path) == []


def test_checksums_are_of_every_file_and_written_before_the_rename(
  workdir, monkeypatch, tmp_path
):
  """A step without them is never seen, whenever the process is killed."""
  seen = []

  def note(step):
    seen.append((step.name, sorted(os.listdir(step.parent))))
    write(step)

  write = wholeness.write_checksums
  monkeypatch.setattr(wholeness, "write_checksums", note)
  _fill(tmp_path)
  assert [name for name, _ in seen if name.startswith("3.")]
  for name, present in seen:
    assert name.split(".")[0] not in present


def test_a_damaged_newest_step_is_told_of_where_an_older_is_used(copy, caplog):
  _damage(copy / "checkpoints/3/variables/_METADATA", "one bit")
  with caplog.at_level(logging.WARNING):
    assert find_step(copy).name == "2"
  assert "checkpoints/3 is not whole" in caplog.text
