"""Files that are never seen half written.

Written beside their place under another name, brought to the disk, and renamed:
after a kill or a power cut a file holds what it held before, or all of the new.
Objects of a store, see `remote`, are put whole in one request.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from deeplab_jax import remote


@contextlib.contextmanager
def replacing(
  path: str | os.PathLike | remote.Address,
) -> Iterator[pathlib.Path]:
  """Gives a path to write to, which becomes `path` when the block has ended.

  Its folder is made if it is missing. If the block raises, `path` stays as it
  was. Several may write one path at a time: each whole, the last one stays.
  A link is followed; a device or pipe, such as /dev/stdout, is handed out as it
  is. What is written for an address is put there in the end.
  """
  path = remote.as_path(path)
  if isinstance(path, remote.Address):
    with tempfile.TemporaryDirectory() as folder:
      partial = pathlib.Path(folder, "partial")
      yield partial
      path.write_bytes(partial.read_bytes())
    return
  if path.exists() and not path.is_file():
    yield path
    return
  path = pathlib.Path(os.path.realpath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  partial, file = _partial(path)
  try:
    yield partial
    os.fsync(file)
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise
  finally:
    os.close(file)


def _partial(path: pathlib.Path) -> tuple[pathlib.Path, int]:
  """Where to write what will be `path`, and that file, which is locked.

  Its name is of one length, as that of `path` may be as long as names can be,
  and the same each time, so that what a kill leaves is taken up by the next
  attempt; but another one while somebody writes there.
  """
  name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
  for number in itertools.count():
    partial = path.with_name(f".{name}{number or ''}.partial")
    file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    if lock(file) and _is_still(partial, file):
      os.truncate(file, 0)
      return partial, file
    os.close(file)


def lock(file: int) -> bool:
  """Locks an open file or folder until it is closed; False if another has it.

  True as well where the file system knows no locks.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    pass
  return True


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[None]:
  """Has one process of the machine at a time do what the block does.

  Others wait at the file `path`, which stays. A process that dies holds up
  nobody: the system drops its lock.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a") as file:
    with contextlib.suppress(OSError):  # of a file system that knows no locks
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _is_still(path: pathlib.Path, file: int) -> bool:
  """Whether `path` leads to `file`, which another may have renamed."""
  try:
    return os.path.samestat(path.stat(), os.fstat(file))
  except FileNotFoundError:
    return False


def write_bytes(
  path: str | os.PathLike | remote.Address, content: bytes
) -> None:
  """Writes a file whole or not at all; makes its folder if it is missing."""
  with replacing(path) as partial:
    partial.write_bytes(content)


def write_text(path: str | os.PathLike | remote.Address, text: str) -> None:
  r"""The same of text in UTF-8; what that cannot hold is written as `\udc..`.

  Such are the bytes of a file's name that is not UTF-8.
  """
  write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike | remote.Address, content: Any) -> None:
  """The same of a value as JSON."""
  write_text(path, json.dumps(content, indent=2) + "\n")
