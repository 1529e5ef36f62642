"""One line for each kind of failure, and names that cannot harm."""

import errno
import subprocess
import sys

import pytest

from deeplab_jax import messages

_MEMORY = {
  "XLA on a CPU": RuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 4000000000000 bytes."
  ),
  "XLA on a GPU": RuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 "
    "bytes.\nBufferAssignment OOM Debugging.\n" + "line\n" * 2000
  ),
  "XLA on a TPU": RuntimeError(
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
    "memory space hbm. Used 20.51G of 15.48G hbm."
  ),
  "CUDA": RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
  "a buffer": RuntimeError("INTERNAL: Failed to allocate 1024 bytes for new"),
  "C++": RuntimeError("std::bad_alloc"),
  "Python": MemoryError(),
  "NumPy": MemoryError("Unable to allocate 3.64 TiB for an array"),
}
_DISK = {
  "Python": OSError(errno.ENOSPC, "No space left on device", "/x/a.png"),
  "a quota": OSError(errno.EDQUOT, "Disk quota exceeded", "/x/a.png"),
  "a limit": OSError(errno.EFBIG, "File too large", "/x/a.png"),
  "tensorstore": ValueError(
    'RESOURCE_EXHAUSTED: Error writing local file "/x/a.png": Failed to write: '
    "No space left on device [OS error 28: ENOSPC No space left on device]\n"
    + "[tensorstore_spec='{}']\n"
    * 50
  ),
}


@pytest.mark.parametrize("kind", _MEMORY)
def test_out_of_memory_names_the_fields_that_need_less(kind):
  message = messages.explain(_MEMORY[kind])
  assert "\n" not in message and len(message) < 400
  for remedy in (
    "batch_size",
    "accumulate_steps",
    "remat",
    "crop_size",
    "plan",
  ):
    assert remedy in message


@pytest.mark.parametrize("kind", _DISK)
def test_a_full_disk_is_said_in_one_line(kind):
  message = messages.explain(_DISK[kind])
  assert "\n" not in message
  assert "the disk is full" in message and "/x/a.png" in message


def test_other_errors_of_the_system_name_the_file():
  error = PermissionError(errno.EACCES, "Permission denied", "/x/\x1b[31m")
  assert messages.explain(error) == r"Permission denied: /x/\x1b[31m"


@pytest.mark.parametrize(
  "error", [KeyError("a"), TypeError("b"), RuntimeError()]
)
def test_our_own_mistakes_are_not_explained_away(error):
  assert messages.explain(error) is None
  with pytest.raises(type(error)):
    messages.tell(error)


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("street lamp \u00e9\u4e2d", "street lamp \u00e9\u4e2d"),
    ("[/red] $\\foo$", "[/red] $\\foo$"),
    ("\x1b[2J\x07", r"\x1b[2J\x07"),
    ("\x9b31m", r"\x9b31m"),
    ("a\nb\r", r"a\nb\r"),
    ("\u202etxt\u200b", r"\u202etxt\u200b"),
    ("\udcff", r"\xff"),
    ("\ud800", r"\ud800"),
  ],
)
def test_names_reach_the_terminal_as_characters(name, shown):
  assert messages.printable(name) == shown
  assert messages.printable_lines(f"a\n{name}").startswith("a\n")


def test_a_door_ends_in_one_line():
  program = (
    "from deeplab_jax import messages\n"
    "with messages.ending_in_one_message():\n"
    "  raise ValueError('no class \\x1b[31m')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr == "error: no class \\x1b[31m\n"
