"""Files whole or not at all: failures, kills, odd places."""

import concurrent.futures
import contextlib
import os
import pathlib
import subprocess
import sys

import pytest

from deeplab_jax import atomic

_REPOSITORY = pathlib.Path(__file__).parent.parent
_WRITERS = {
  "bytes": (atomic.write_bytes, b"new\xff", b"new\xff"),
  "text": (atomic.write_text, "n\u00e4h\udcff", b"n\xc3\xa4h\\udcff"),
  "json": (atomic.write_json, {"n": "\udcff"}, b'{\n  "n": "\\udcff"\n}\n'),
}


@pytest.mark.parametrize("kind", _WRITERS)
@pytest.mark.parametrize("name", ["a.txt", "n" * 255, "\udcff#?%20 .png"])
def test_a_file_is_replaced_in_its_folder(tmp_path, kind, name):
  write, content, expected = _WRITERS[kind]
  path = tmp_path / "new" / name
  for _ in range(2):
    write(path, content)
    assert path.read_bytes() == expected
  assert os.listdir(path.parent) == [name]


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
  path = tmp_path / "a"
  path.write_text("old")
  with pytest.raises(KeyError), atomic.replacing(path) as partial:
    partial.write_text("ne")
    raise KeyError
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["a"]


# In a process of its own, as forking is not for one with threads.
_KILLS = """
import os, pathlib, signal, sys
from deeplab_jax import atomic

path = pathlib.Path(sys.argv[1])

def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)

for owner, call in (
  (pathlib.Path, "write_bytes"),
  (pathlib.Path, "open"),
  (os, "fsync"),
  (pathlib.Path, "replace"),
):
  path.write_text("old")
  child = os.fork()
  if child == 0:
    setattr(owner, call, die)
    atomic.write_text(path, "new")
    os._exit(0)
  assert os.waitpid(child, 0)[1] == signal.SIGKILL, call
  assert path.read_text() == "old", call
  atomic.write_text(path, "newer")
  assert path.read_text() == "newer", call
  assert os.listdir(path.parent) == [path.name], call
"""


def test_a_kill_at_any_call_leaves_the_old_file(tmp_path):
  command = [sys.executable, "-c", _KILLS, str(tmp_path / "a")]
  subprocess.run(command, check=True, cwd=_REPOSITORY)


def test_several_that_write_one_file_do_not_share_what_they_write(tmp_path):
  """Threads here; processes lock each other out in the same way."""
  path = tmp_path / "a"
  whole = [bytes([i]) * 100_000 for i in range(4)]
  with contextlib.ExitStack() as stack:
    partials = [stack.enter_context(atomic.replacing(path)) for _ in whole]
    assert len(set(partials)) == len(whole)
    for partial, content in zip(partials, whole):
      partial.write_bytes(content)
  assert path.read_bytes() in whole
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for _ in range(50):
      list(pool.map(lambda content: atomic.write_bytes(path, content), whole))
      assert path.read_bytes() in whole
  assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_followed_and_a_pipe_written_to(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
  for _ in range(2):
    atomic.write_text(tmp_path / "link", "x")
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "there" / "a").read_text() == "x"
  atomic.write_text("/dev/null", "x")
  reader, writer = os.pipe()
  atomic.write_text(f"/dev/fd/{writer}", "x")
  assert os.read(reader, 9) == b"x"
  os.close(reader)
  os.close(writer)
