"""Source files in a folder or an archive, read the same way.

A `Tree` maps the relative path of each file to a function that reads it, so
builders need not know whether the user has extracted the archive.
"""

from __future__ import annotations

import codecs
import collections
import dataclasses
import functools
import gzip
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from deeplab_jax.data import limits
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.messages import printable

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Folders of documents, beside those of pictures.
_NOT_OF_PICTURES = re.compile(r"ann|label|json", re.IGNORECASE)
_PART = 64 << 20
_KEEP_FREE = 1 << 30  # bytes on the disk that unpacking leaves
_MOST_LINKED = 100  # ways to one folder: links to links to links multiply
_DAMAGE = (
  *(tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
  RuntimeError,  # zipfile's, of a password or a compression that it lacks
)


@dataclasses.dataclass(frozen=True, slots=True)
class File:
  """One file: its place, for messages, and how to read it."""

  where: str
  read: Callable[[], bytes]


class Tree:
  """Files by relative path, with "/" between the parts.

  Attributes:
    origin: the folder or archive, for messages.
    root: the folder; None of an archive, or of files that are made.
    chosen: path of the one document of annotations that counts; "" where all
      do.
  """

  def __init__(
    self,
    origin: str,
    files: dict[str, File],
    root: pathlib.Path | None = None,
    chosen: str = "",
  ):
    self.origin = origin
    self.root = root
    self.chosen = chosen
    self._files = files

  @classmethod
  def open(cls, path: pathlib.Path) -> Tree:
    """A tree of a folder, .zip, .tar or gzipped tar, or of the folder around a
    .json of annotations.

    Raises:
      ValueError: it is none of these, or is damaged.
    """
    if is_json(path):
      return cls._around(path)
    try:
      if path.is_dir():
        readers = _folder(path)
      elif zipfile.is_zipfile(path):
        readers = _zip(path)
      else:
        readers = _tar(_contents(path))
    except _DAMAGE as error:
      raise ValueError(
        f"{path}: must be a folder, a zip or a tar file, got {error}; download "
        "it again"
      ) from error
    files = {
      name: File(printable(f"{path}/{name}"), reader)
      for name, reader in readers.items()
    }
    root = path.absolute() if path.is_dir() else None
    return cls(printable(str(path)), files, root)

  @classmethod
  def _around(cls, document: pathlib.Path) -> Tree:
    """The folder of a document of annotations, without the other ones.

    It is the folder above where the document's own, such as annotations/, has
    no pictures.
    """
    document = document.absolute()  # one may be in its folder
    folder = document.parent
    tree = cls.open(folder)
    if _NOT_OF_PICTURES.search(folder.name) and not tree._has_pictures():
      folder = folder.parent
      tree = cls.open(folder)
    chosen = document.relative_to(folder).as_posix()
    kept = {
      path: file
      for path, file in tree._files.items()
      if path == chosen or not is_document(path)
    }
    return cls(tree.origin, kept, tree.root, chosen)

  def _has_pictures(self) -> bool:
    return any(path.lower().endswith(_PICTURES) for path in self._files)

  def __contains__(self, path: str) -> bool:
    return path in self._files

  def __or__(self, other: Tree) -> Tree:
    """The files of both; `other` wins where both have a path."""
    return Tree(self.origin, self._files | other._files, self.root)

  def stems(self, folder: str, suffix: str) -> list[str]:
    """Sorted paths, within `folder`, of its files that end with `suffix`.

    `suffix` is cut off.
    """
    start = f"{folder}/" if folder else ""
    return sorted(
      path.removeprefix(start).removesuffix(suffix)
      for path in self._files
      if path.startswith(start) and path.endswith(suffix)
    )

  def read(self, path: str) -> bytes:
    """Contents of one file.

    Raises:
      BadExample: it is not there, or is damaged.
    """
    if path not in self._files:
      raise BadExample(self.where(path), "missing-file", "no such file")
    try:
      return self._files[path].read()
    except _DAMAGE as error:
      raise BadExample(
        self.where(path), "unreadable", f"cannot be read ({error})"
      ) from error

  def file(self, path: str) -> File:
    """The file `path`, which must be there."""
    return self._files[path]

  def lines(self, path: str) -> list[str]:
    """The lines of a text file that are not empty, stripped.

    Raises:
      BadExample: it is no text in UTF-8, or in UTF-16 with the mark in front
        with which Windows writes it.
    """
    content = self.read(path)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
      text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
      if "\0" in text:
        raise ValueError("it has zero bytes, as UTF-16 has")
    except ValueError as error:
      raise BadExample(
        self.where(path), "not-text", f"must be UTF-8 text ({error})"
      ) from error
    lines = re.split(r"\r\n|\r|\n", text)  # and not at U+2028 in a name
    return [line.strip() for line in lines if line.strip()]

  def where(self, path: str) -> str:
    """How a message names the file `path`."""
    if path in self._files:
      return self._files[path].where
    return printable(f"{self.origin}/{path}")

  def below(self, marker: str) -> Tree | None:
    """The subtree, at any depth, that has the file or folder `marker`."""
    for path in sorted(self._files, key=len):
      before, found, _ = f"/{path}/".partition(f"/{marker}/")
      if found:
        return self.inside(before.removeprefix("/"))
    return None

  def moved(self, folder: str) -> Tree:
    """The same files, in `folder`."""
    return Tree(
      self.origin,
      {f"{folder}/{path}": file for path, file in self._files.items()},
    )

  def inside(self, folder: str) -> Tree:
    """The files in `folder`, whose paths then lack it; "" is all."""
    if not folder:
      return self
    start = f"{folder}/"
    return Tree(
      self.where(folder),
      {
        path.removeprefix(start): file
        for path, file in self._files.items()
        if path.startswith(start)
      },
      self.root and self.root / folder,
    )


def is_document(path: str) -> bool:
  """Whether a file is called as JSON, or by a number without suffix, as Label
  Studio's files of annotations are (12, task_12)."""
  name = path.rpartition("/")[2].lower()
  is_number = "." not in name and name.rpartition("_")[2].isdecimal()
  return name.endswith(".json") or is_number


def is_json(path: pathlib.Path) -> bool:
  """Whether `path` is a file that is called as JSON."""
  return path.suffix.lower() == ".json" and path.is_file()


def is_archive(path: pathlib.Path) -> bool:
  """Whether the file at `path` is one that `Tree.open` takes, or was one before
  it was damaged."""
  return path.is_file() and (
    path.name.lower().endswith(_ARCHIVES)
    or zipfile.is_zipfile(path)
    or tarfile.is_tarfile(path)
  )


def files_below(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """All files in a folder, through links to folders as well.

  Raises:
    BadExample: a link leads back to a folder that it is in, or many links to
      one folder.
  """
  ways = collections.Counter()
  above: dict[str, set[tuple[int, int]]] = {}
  for folder, folders, names in os.walk(root, followlinks=True):
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    before = above.pop(folder, set())
    ways[identity] += 1
    if identity in before or ways[identity] > _MOST_LINKED:
      raise BadExample(
        printable(folder),
        "linked-in-circle",
        "must not be a link to a folder that it is in, nor one of many links "
        "to one folder",
      )
    for name in folders:
      above[os.path.join(folder, name)] = before | {identity}
    yield from (pathlib.Path(folder, name) for name in names)


def _folder(root: pathlib.Path) -> dict[str, Callable[[], bytes]]:
  return {
    path.relative_to(root).as_posix(): functools.partial(_read_file, path)
    for path in files_below(root)
  }


def _read_file(path: pathlib.Path) -> bytes:
  limits.check_file(path)
  return path.read_bytes()


def _zip(path: pathlib.Path) -> dict[str, Callable[[], bytes]]:
  archive = zipfile.ZipFile(path)  # reads of several threads take turns
  return {
    name.replace("\\", "/"): functools.partial(_read_member, archive, name)
    for name in archive.namelist()
    if not name.endswith(("/", "\\"))
  }


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
  limits.check_bytes(archive.getinfo(name).file_size)  # never more is unpacked
  return archive.read(name)


def _tar(contents: _Contents) -> dict[str, Callable[[], bytes]]:
  with contents.open() as file:
    return {
      path: functools.partial(contents.read, offset, size)
      for path, offset, size in _members(file)
    }


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
  """Path, position and size of a tar's files; a tar in it is a folder."""
  # Not packed: positions in what is unpacked would be none in the file.
  with tarfile.open(fileobj=file, mode="r:") as archive:
    for member in archive:
      path, offset = member.name.removeprefix("./"), member.offset_data
      if path.endswith(".tar"):
        for name, start, size in _members(archive.extractfile(member)):
          yield f"{path.removesuffix('.tar')}/{name}", offset + start, size
      elif member.isfile():
        yield path, offset, member.size


def _contents(path: pathlib.Path) -> _Contents:
  with path.open("rb") as file:
    is_packed = file.read(2) == b"\x1f\x8b"
  return _Unpacked(path) if is_packed else _Contents(path)


class _Contents:
  """A file read in any order by several threads."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def open(self) -> IO[bytes]:
    return self._path.open("rb")

  def read(self, offset: int, size: int) -> bytes:
    limits.check_bytes(size)
    with self.open() as file:
      file.seek(offset)
      return file.read(size)


def _copy(packed: IO[bytes], copy: IO[bytes]) -> None:
  """Copies all of `packed`, as long as the disk keeps some space.

  Raises:
    OSError: it does not fit.
  """
  while part := packed.read(_PART):
    if shutil.disk_usage(copy.name).free < _KEEP_FREE:
      raise OSError(f"it unpacks to more than fits beside {copy.name}")
    copy.write(part)


class _Unpacked(_Contents):
  """A gzipped file, unpacked into a copy that goes with this object."""

  def __init__(self, path: pathlib.Path):
    with tempfile.NamedTemporaryFile(delete=False) as copy:
      super().__init__(pathlib.Path(copy.name))
      with gzip.open(path) as packed:
        _copy(packed, copy)

  def __del__(self):
    self._path.unlink(missing_ok=True)
