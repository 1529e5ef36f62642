"""Source files in a folder or an archive, read the same way.

A `Tree` maps the relative path of each file to a function that reads it, so
builders need not know whether the user has extracted the archive.
"""

from __future__ import annotations

import functools
import gzip
import pathlib
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from typing import IO

from deeplab_jax.data.builders.checks import BadExample


class Tree:
  """Files by relative path, with "/" between the parts.

  Attributes:
    origin: the folder or archive, for messages.
  """

  def __init__(self, origin: str, readers: dict[str, Callable[[], bytes]]):
    self.origin = origin
    self._readers = readers

  @classmethod
  def open(cls, path: pathlib.Path) -> Tree:
    """A tree of a folder, .zip, .tar or gzipped tar.

    Raises:
      ValueError: it is none of these, or is damaged.
    """
    try:
      if path.is_dir():
        return cls(str(path), _folder(path))
      if zipfile.is_zipfile(path):
        return cls(str(path), _zip(path))
      return cls(str(path), _tar(path))
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
      raise ValueError(
        f"{path}: must be a folder, a zip or a tar file, got {error}; download "
        "it again"
      ) from error

  def __contains__(self, path: str) -> bool:
    return path in self._readers

  def paths(self, folder: str = "", suffix: str = "") -> list[str]:
    """Sorted paths of the files below `folder` that end with `suffix`."""
    start = f"{folder}/" if folder else ""
    return sorted(
      path
      for path in self._readers
      if path.startswith(start) and path.endswith(suffix)
    )

  def read(self, path: str) -> bytes:
    """Contents of one file.

    Raises:
      BadExample: it is not there, or is damaged.
    """
    if path not in self._readers:
      raise BadExample(f"{self.where(path)}: no such file; complete the data")
    try:
      return self._readers[path]()
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
      raise BadExample(
        f"{self.where(path)}: cannot be read ({error}); replace the file"
      ) from error

  def lines(self, path: str) -> list[str]:
    """The lines of a text file that are not empty, stripped."""
    text = self.read(path).decode()
    return [line.strip() for line in text.splitlines() if line.strip()]

  def where(self, path: str) -> str:
    """How a message names the file `path`."""
    return f"{self.origin}/{path}"

  def below(self, marker: str) -> Tree | None:
    """The subtree, at any depth, that has the file or folder `marker`."""
    for path in sorted(self._readers, key=len):
      before, found, _ = f"/{path}/".partition(f"/{marker}/")
      if found:
        return self._sub(before.removeprefix("/"))
    return None

  def _sub(self, folder: str) -> Tree:
    if not folder:
      return self
    start = f"{folder}/"
    return Tree(
      self.where(folder),
      {
        path.removeprefix(start): reader
        for path, reader in self._readers.items()
        if path.startswith(start)
      },
    )


def _folder(root: pathlib.Path) -> dict[str, Callable[[], bytes]]:
  return {
    path.relative_to(root).as_posix(): path.read_bytes
    for path in root.rglob("*")
    if path.is_file()
  }


def _zip(path: pathlib.Path) -> dict[str, Callable[[], bytes]]:
  archive = zipfile.ZipFile(path)  # reads of several threads take turns
  return {
    name: functools.partial(archive.read, name)
    for name in archive.namelist()
    if not name.endswith("/")
  }


def _tar(path: pathlib.Path) -> dict[str, Callable[[], bytes]]:
  with path.open("rb") as file:
    is_packed = file.read(2) == b"\x1f\x8b"
  content = _Unpacked(path) if is_packed else _File(path)
  with content.open() as file, tarfile.open(fileobj=file) as archive:
    return {
      member.name.removeprefix("./"): functools.partial(
        content.read, member.offset_data, member.size
      )
      for member in archive
      if member.isfile()
    }


class _File:
  """A file read in any order by several threads."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def open(self) -> IO[bytes]:
    return self._path.open("rb")

  def read(self, offset: int, size: int) -> bytes:
    with self.open() as file:
      file.seek(offset)
      return file.read(size)


class _Unpacked(_File):
  """A gzipped file, unpacked into a copy that goes with this object."""

  def __init__(self, path: pathlib.Path):
    with tempfile.NamedTemporaryFile(delete=False) as copy:
      super().__init__(pathlib.Path(copy.name))
      with gzip.open(path) as packed:
        shutil.copyfileobj(packed, copy)

  def __del__(self):
    self._path.unlink(missing_ok=True)
