"""Where a data set's files come from: a download, or the user's own folder."""

import dataclasses
import hashlib
import pathlib

import tensorflow_datasets as tfds

from deeplab_jax.data.builders.trees import Tree


@dataclasses.dataclass(frozen=True)
class Archive:
  """One official archive.

  Attributes:
    file: its published file name.
    url: its address; where `login` is true, a page that asks for an account.
    checksum: "<algorithm>:<hexadecimal>"; "" where none is known.
    login: whether the user has to download it.
    folder: where it is usually extracted to, if it has no folder of its own.
  """

  file: str
  url: str
  checksum: str = ""
  login: bool = False
  folder: str = ""


def find(
  source: Archive,
  marker: str,
  *,
  manual_dir: pathlib.Path | None,
  downloads: tfds.download.DownloadManager,
  verify: bool = True,
  required: bool = True,
) -> Tree | None:
  """The files of `source`, rooted at the folder that holds `marker`.

  Takes `manual_dir`, if given: the archive in it, or else the extracted
  archive, at any depth; without it, downloads.

  Args:
    source: the archive.
    marker: relative path of a file or folder that it must have.
    manual_dir: folder with the user's own download.
    downloads: TFDS's download manager, which keeps what it downloaded.
    verify: whether an archive must have its known checksum.
    required: whether it is an error, not None, that a login is needed or
      `manual_dir` does not have it.

  Raises:
    ValueError: nothing suitable is there; names file, address and remedy.
  """
  path = _path(source, manual_dir, downloads)
  tree = None
  if path is not None:
    if verify and source.checksum and path.is_file():
      _check(source, path)
    tree = Tree.open(path)
    if path.is_file() and source.folder:
      tree = tree.moved(source.folder)
    tree = tree.below(marker)
  if tree is None and required:
    raise ValueError(
      f"--manual_dir must have {source.file} from {source.url} or what it "
      f"extracts to, got no {marker} in {path or 'no folder'}"
    )
  return tree


def _path(
  source: Archive,
  manual_dir: pathlib.Path | None,
  downloads: tfds.download.DownloadManager,
) -> pathlib.Path | None:
  """The archive, or the folder to look in; None where there is neither."""
  if manual_dir is not None:
    archive = manual_dir / source.file
    return archive if archive.is_file() else manual_dir
  return None if source.login else pathlib.Path(downloads.download(source.url))


def _check(source: Archive, path: pathlib.Path) -> None:
  algorithm, _, expected = source.checksum.partition(":")
  with path.open("rb") as file:
    found = hashlib.file_digest(file, algorithm).hexdigest()
  if found != expected:
    raise ValueError(
      f"{path}: {algorithm} must be {expected}, got {found}; delete it and "
      f"download {source.url} again, or pass --partial for a sample"
    )
