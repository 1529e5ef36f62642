"""Where a data set's files come from: a download, or the user's own folder."""

import dataclasses
import pathlib
import tarfile
import zipfile

from deeplab_jax import download
from deeplab_jax.data.builders.trees import Tree


@dataclasses.dataclass(frozen=True)
class Archive:
  """One official archive.

  Attributes:
    file: its published file name.
    url: its address; where `login` is true, a page that asks for an account.
    checksum: published, "<algorithm>:<hexadecimal>"; "" where none is known.
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
  downloads: pathlib.Path,
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
    downloads: folder that keeps what is downloaded.
    verify: whether an archive of the user's must have its published checksum;
      one that is downloaded always must.
    required: whether it is an error, not None, that a login is needed or
      `manual_dir` does not have it.

  Raises:
    ValueError: nothing suitable is there, or it cannot be downloaded; names
      file, address and remedy.
  """
  path = _path(source, manual_dir, downloads)
  tree = None
  if path is not None:
    if verify and source.checksum and manual_dir and path.is_file():
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
  downloads: pathlib.Path,
) -> pathlib.Path | None:
  """The archive, or the folder to look in; None where there is neither."""
  if manual_dir is not None:
    archive = manual_dir / source.file
    return archive if archive.is_file() else manual_dir
  if source.login:
    return None
  return download.fetch(
    source.url,
    downloads / source.file,
    source.checksum,
    _require_archive,
    "download it elsewhere and give its folder with --manual_dir DIR",
  )


def _require_archive(path: pathlib.Path) -> None:
  if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
    raise ValueError("it is neither a zip nor a tar file")


def _check(source: Archive, path: pathlib.Path) -> None:
  if wrong := download.mismatch(path, source.checksum):
    raise ValueError(
      f"{path}: {wrong}; delete it and download {source.url} again, or pass "
      "--partial for a sample"
    )
