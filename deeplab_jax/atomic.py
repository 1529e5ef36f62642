"""Files that are never seen half written.

Written beside their place under another name, brought to the disk, and renamed:
after a kill or a power cut a file holds what it held before, or all of the new.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a path to write to, which becomes `path` when the block has ended.

  Its folder is made if it is missing. If the block raises, `path` stays as it
  was. A link is followed; a device or pipe, such as /dev/stdout, is handed out
  as it is.
  """
  path = pathlib.Path(path)
  if path.exists() and not path.is_file():
    yield path
    return
  path = pathlib.Path(os.path.realpath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  # Of one length, as the name may be as long as names can be; the same each
  # time, so that what a kill leaves is taken up by the next attempt.
  name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
  partial = path.with_name(f".{name}.partial")
  try:
    yield partial
    with partial.open("rb") as file:
      os.fsync(file.fileno())
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all; makes its folder if it is missing."""
  with replacing(path) as partial:
    partial.write_bytes(content)


def write_text(path: str | os.PathLike, text: str) -> None:
  r"""The same of text in UTF-8; what that cannot hold is written as `\udc..`.

  Such are the bytes of a file's name that is not UTF-8.
  """
  write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike, content: Any) -> None:
  """The same of a value as JSON."""
  write_text(path, json.dumps(content, indent=2) + "\n")
