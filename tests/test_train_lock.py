"""One writer to a workdir: real processes, killed and alive."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from deeplab_jax.train import lock

_REPOSITORY = pathlib.Path(__file__).parent.parent
# Holds the lock, with a child that lives on when it is killed, as a process
# that reads data may.
_HOLDER = """
import os, pathlib, sys, time
from deeplab_jax.train import lock
with lock.only_writer(pathlib.Path(sys.argv[1])):
  child = os.fork()
  if child:
    print(child, flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lock of `tmp_path / "run"`, and its child."""
  process = subprocess.Popen(
    [sys.executable, "-W", "ignore", "-c", _HOLDER, str(tmp_path / "run")],
    cwd=_REPOSITORY,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
  )
  child = int(process.stdout.readline())
  yield process
  process.kill()
  os.kill(child, signal.SIGKILL)
  process.communicate()


def test_the_second_run_is_refused_until_the_first_is_dead(holder, tmp_path):
  workdir = tmp_path / "run"
  owner = f"process {holder.pid} on {os.uname().nodename}, since 20"
  pattern = (
    rf"run is in use by another run \({owner}.*: wait for its end or stop it, "
    "or give another --workdir"
  )
  for _ in range(2):
    with (
      pytest.raises(ValueError, match=pattern) as caught,
      lock.only_writer(workdir),
    ):
      pytest.fail("it got the lock")
    assert "\n" not in str(caught.value)
  holder.kill()
  holder.wait()  # Its child still runs.
  with lock.only_writer(workdir):
    assert str(os.getpid()) in (workdir / "lock").read_text()


def test_nothing_stays_behind(tmp_path):
  with lock.only_writer(tmp_path / "new" / "run"):
    assert os.listdir(tmp_path / "new" / "run") == ["lock"]
  with pytest.raises(KeyError), lock.only_writer(tmp_path / "new" / "run"):
    raise KeyError
  assert os.listdir(tmp_path / "new" / "run") == []


def test_a_run_cut_off_on_another_host_is_told_of(tmp_path, caplog):
  owner = "process 7 on elsewhere, since 2026-01-01\x1b[2J 00:00:00 +0000\n"
  (tmp_path / "lock").write_text(owner)
  with lock.only_writer(tmp_path):
    pass
  assert "process 7 on elsewhere" in caplog.text
  assert r"\x1b[2J" in caplog.text and "\x1b" not in caplog.text


@pytest.mark.parametrize("content", ["", "\0" * 20, "nonsense"])
def test_whatever_a_dead_run_left_is_no_lock(tmp_path, content, caplog):
  (tmp_path / "lock").write_text(content)
  with lock.only_writer(tmp_path):
    pass
  assert caplog.text == ""


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_said(
  tmp_path, caplog, monkeypatch, number
):
  def fail(*_):
    raise OSError(getattr(errno, number), "not here")

  monkeypatch.setattr(fcntl, "lockf", fail)
  with lock.only_writer(tmp_path):
    pass
  assert "cannot be locked (not here): see that no other" in caplog.text


def test_a_lock_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
  """The run before may remove its file after we opened it."""
  path, locked = tmp_path / "lock", []

  def remove_once(*arguments):
    if not locked:
      path.unlink()
    locked.append(true_lock(*arguments))

  true_lock = fcntl.lockf
  monkeypatch.setattr(fcntl, "lockf", remove_once)
  with lock.only_writer(tmp_path):
    assert path.is_file()
  assert len(locked) == 2
