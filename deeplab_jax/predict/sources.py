"""Where pictures come from beside files: object stores, archives, lists."""

import functools
import io
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from deeplab_jax import remote

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Member(NamedTuple):
  """A picture in a tar file, such as a shard of WebDataset.

  Attributes:
    archive: the tar file.
    path: of the picture in it.
    offset: where its content begins, in bytes.
    size: of its content, in bytes.
  """

  archive: remote.AnyPath
  path: str
  offset: int
  size: int

  def __str__(self) -> str:
    return f"{self.archive}/{self.path}"

  @property
  def name(self) -> str:
    """That of the picture, without folders."""
    return pathlib.PurePosixPath(self.path).name

  @property
  def stem(self) -> str:
    """The name without its ending."""
    return pathlib.PurePosixPath(self.path).stem

  def read_bytes(self) -> bytes:
    """The content of the picture.

    Raises:
      OSError: the archive cannot be read, or is shorter than it was.
    """
    if isinstance(self.archive, remote.Address):
      whole = _archive(self.archive)
      content = whole[self.offset : self.offset + self.size]
    else:
      with self.archive.open("rb") as file:
        file.seek(self.offset)
        content = file.read(self.size)
    if len(content) != self.size:
      raise OSError(f"{self.archive} is cut off")
    return content


Source = remote.AnyPath | Member


@functools.lru_cache(maxsize=2)
def _archive(address: remote.Address) -> bytes:
  """A tar file of a store, all of it: its pictures are read one by one."""
  return address.read_bytes()


def is_archive(path: remote.AnyPath) -> bool:
  """Whether a file's name is that of a tar file.

  Raises:
    ValueError: of one that is compressed, whose members cannot be found.
  """
  name = path.name.lower()
  if name.endswith(_PACKED):
    raise ValueError(
      f"a tar file must not be compressed, got {path}: pictures are compressed "
      "themselves; unpack it"
    )
  return name.endswith(".tar")


def members(archive: remote.AnyPath) -> Iterator[Member]:
  """The files in a tar file, in their order there.

  Raises:
    ValueError: it is damaged.
    OSError: it cannot be read.
  """
  if isinstance(archive, remote.Address):
    opened = io.BytesIO(_archive(archive))
  else:
    opened = archive.open("rb")
  try:
    with opened, tarfile.open(fileobj=opened, mode="r:") as tar:
      for info in tar:
        if info.isfile():
          yield Member(archive, info.name, info.offset_data, info.size)
  except tarfile.TarError as error:
    raise ValueError(
      f"{archive} is no tar file, or cut off: {error}"
    ) from error


def read_list(path: str | os.PathLike | remote.Address) -> list[str]:
  """The lines of a text file, each a picture, folder or archive.

  Raises:
    ValueError: it has none.
  """
  text = remote.as_path(path).read_bytes().decode("utf-8", "surrogateescape")
  lines = [line.strip() for line in text.splitlines()]
  lines = [line for line in lines if line and not line.startswith("#")]
  if not lines:
    raise ValueError(f"--list {path} names no picture")
  return lines
