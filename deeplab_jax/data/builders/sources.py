"""Where a data set's files come from: a download, or the user's own folder."""

import dataclasses
import hashlib
import pathlib

import tensorflow_datasets as tfds

from deeplab_jax.data.builders.trees import Tree


@dataclasses.dataclass(frozen=True)
class Source:
  """One official archive.

  Attributes:
    file: its published file name.
    url: its address; where `login` is true, a page that asks for an account.
    md5: published checksum; "" where none is.
    login: whether the user has to download it.
  """

  file: str
  url: str
  md5: str = ""
  login: bool = False

  def tree(
    self,
    manual_dir: pathlib.Path | None,
    downloads: tfds.download.DownloadManager,
    marker: str,
    *,
    check: bool = True,
  ) -> Tree:
    """The files, rooted at the folder that holds `marker`.

    Takes `manual_dir`, if given: the archive in it, or else the extracted
    archive, at any depth; without it, downloads.

    Args:
      manual_dir: folder with the user's own download.
      downloads: TFDS's download manager.
      marker: relative path of a file or folder that the archive must have.
      check: whether an archive must have the published checksum.

    Raises:
      ValueError: nothing suitable is there; names file, address and remedy.
    """
    path = self._path(manual_dir, downloads)
    if check and self.md5 and path.is_file():
      self._check_md5(path)
    tree = Tree.open(path).below(marker)
    if tree is None:
      raise ValueError(
        f"{path}: must hold {self.file} from {self.url}, or what it extracts "
        f"to, got no {marker} in it"
      )
    return tree

  def _path(
    self,
    manual_dir: pathlib.Path | None,
    downloads: tfds.download.DownloadManager,
  ) -> pathlib.Path:
    if manual_dir is None:
      if self.login:
        raise ValueError(
          f"--manual_dir must be a folder with {self.file}, got none; download "
          f"it with an account at {self.url}"
        )
      return pathlib.Path(downloads.download(self.url))
    archive = manual_dir / self.file
    return archive if archive.is_file() else manual_dir

  def _check_md5(self, path: pathlib.Path) -> None:
    with path.open("rb") as file:
      found = hashlib.file_digest(file, "md5").hexdigest()
    if found != self.md5:
      raise ValueError(
        f"{path}: MD5 must be {self.md5}, got {found}; delete it and download "
        f"{self.url} again, or pass --partial for a sample"
      )
