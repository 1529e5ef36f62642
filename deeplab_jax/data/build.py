"""Building a data set once, with TFDS, into ArrayRecord files.

TFDS builds in a folder `incomplete.<random>_<version>` and renames it when
everything is written, so whatever carries the final name is complete.
"""

import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from deeplab_jax import atomic, remote
from deeplab_jax.data.builders import trees
from deeplab_jax.data.builders.base import Builder
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.data.reading import Reading
from deeplab_jax.data.rules import rules_of

_MULTILABEL = "folder_multilabel"  # the module of its builder
_USER_FILES = (
  "data.path (--manual_dir of prepare) must be a folder, or an archive (.zip, "
  ".tar, .tar.gz), of images and masks or of what an annotation tool exports, "
  "or a .json that lists the pictures beside it"
)


def directory(
  name: str,
  data_dir: str = "",
  path: str = "",
  files: Tree | None = None,
  **reading: Any,
) -> remote.AnyPath:
  """Where data set `name` is, or will be; its version is the last part.

  Args:
    name: a key of `DATASETS`.
    data_dir: root of all data sets, a folder or an object store's address; ""
      is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    path: the user's files, for "folder": another directory whenever they
      change. In an object store also the name that they were published under.
    files: those at `path`, where the caller has walked the folder already.
    **reading: fields of `Reading`, for "folder".

  Raises:
    ValueError: `path` is no folder or archive, or `reading` is wrong, or for
      another data set; or `data_dir` is of a store that is not supported.
  """
  how = Reading(**reading)
  how.check(name)
  root = remote.as_path(data_dir or tfds.core.constants.DATA_DIR)
  if isinstance(root, pathlib.Path):
    root = root.expanduser()
  parts = [name]
  if name == "folder":
    is_name = is_published_name(data_dir, path)
    parts.append(
      path if is_name else _config(path, files or user_files(path), how)
    )
  return root.joinpath(*parts, str(Builder.VERSION))


def is_published_name(data_dir: str, path: str) -> bool:
  """Whether `path` is the name of a folder published to the store `data_dir`.

  Hosts that train on it need not have the folder.

  Raises:
    ValueError: it is neither such a name nor there, as a store allows.
  """
  root = remote.as_path(data_dir or tfds.core.constants.DATA_DIR)
  if not isinstance(root, remote.Address):
    return False
  if path and pathlib.Path(path).expanduser().exists():
    return False
  if not re.fullmatch(r"\w+_[0-9a-f]{12}", path):
    raise ValueError(
      f"{_USER_FILES}, or the name that `prepare folder` published it under "
      f"in {root}, got {path!r}"
    )
  return True


def user_files(path: str) -> Tree:
  """Walks the user's folder `path`, or that of a json, or looks into the
  archive.

  Raises:
    ValueError: it is neither, or the archive is damaged.
  """
  place = pathlib.Path(path).expanduser()
  is_there = place.is_dir() or trees.is_json(place) or trees.is_archive(place)
  if path and is_there:
    return Tree.open(place)
  raise ValueError(f"{_USER_FILES}, got {path!r}")


def _config(path: str, files: Tree, reading: Reading) -> str:
  """Names the state of the files at `path`, and how they are read."""
  folder = pathlib.Path(path).expanduser().resolve()
  readable = re.sub(r"\W+", "_", folder.name)
  digest = hashlib.sha256(os.fsencode(folder))
  digest.update(f"{reading}\n".encode())
  names = files.stems("", "")
  for rules in rules_of(names):
    digest.update(f"{rules}\n".encode())
  if files.root is None:  # an archive
    digest.update(f"{_state(folder)}\n".encode())
    names = []
  for name in names:
    digest.update(os.fsencode(f"{name} {_state(files.root / name)}\n"))
  return f"{readable}_{digest.hexdigest()[:12]}"


def _state(path: pathlib.Path) -> str:
  """Changes whenever the file at `path` is written."""
  try:
    stat = path.stat()
  except OSError:  # a broken link, or it has just been removed
    return "not there"
  return f"{stat.st_size} {stat.st_mtime_ns}"


def is_built(folder: pathlib.Path) -> bool:
  """Whether `folder` holds a complete data set."""
  return (folder / "dataset_info.json").is_file()


def build(
  name: str,
  *,
  data_dir: str = "",
  manual_dir: str = "",
  skip_bad: bool = False,
  partial: bool = False,
  folder: pathlib.Path | None = None,
  **reading: Any,
) -> list[str]:
  """Builds `name` unless it is there; waits for another process that does.

  Args:
    name: a key of `DATASETS`.
    data_dir: root of all data sets, see `directory`.
    manual_dir: folder with the user's own download, or for "folder" the user's
      files, or an archive of them; "" downloads.
    skip_bad: leave out unusable examples instead of stopping at the first.
    partial: accept a sample: any number of examples, any checksum.
    folder: its `directory`, where the caller knows it already.
    **reading: fields of `Reading`, for "folder".

  Returns:
    what was wrong with each example left out.

  Raises:
    ValueError: unknown name, missing or unusable source file, or a user's file
      that changed meanwhile.
  """
  if name not in DATASETS:
    raise ValueError(
      f"NAME must be one of {', '.join(sorted(DATASETS))}, got {name!r}"
    )
  manual = pathlib.Path(manual_dir).expanduser() if manual_dir else None
  if manual and not manual.is_dir() and name != "folder":
    raise ValueError(f"--manual_dir must be a folder, got {manual}: not there")
  folder = folder or directory(name, data_dir, manual_dir, **reading)
  how = Reading(**reading)
  options = {"reading": how} if name == "folder" else {}
  with _only_one(folder):
    if is_built(folder):
      metadata = tfds.builder_from_directory(folder).info.metadata
      check_complete(folder, metadata["partial"], partial)
      return []
    options |= {"skip_bad": skip_bad, "partial": partial}
    kind = _MULTILABEL if how.multilabel else name
    builder = _builder(name, kind, folder, manual_dir=manual, **options)
    with warnings.catch_warnings():
      # Remarks on harmless metadata, and pycocotools on NumPy 2.
      warnings.filterwarnings("ignore", module="PIL")
      warnings.filterwarnings("ignore", "__array__", DeprecationWarning)
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    if name == "folder":
      _check_unchanged(folder, manual_dir, how)
  return builder.skipped


def remarks(folder: remote.AnyPath) -> list[str]:
  """What may be meant of the data set in `folder`, a line for each kind.

  Such as 16-bit images, of which 8 bits are read, or a class that never occurs:
  see `builders.faults.REMARKS`.
  """
  return _stored(folder, "remarks")


def said(folder: remote.AnyPath) -> list[str]:
  """How the user's files in `folder` were read, and what was lost of them."""
  return _stored(folder, "said")


def _stored(folder: remote.AnyPath, name: str) -> list[str]:
  metadata = folder / "metadata.json"  # where TFDS keeps it: not opened twice
  try:
    return json.loads(metadata.read_text()).get(name, [])
  except (OSError, ValueError):  # damaged: whoever opens it says so
    return []


def _check_unchanged(folder: pathlib.Path, path: str, reading: Reading) -> None:
  """Refuses what was built of files that changed while they were read.

  `folder` is named after the state of the files before, which the builder
  found by a walk of its own; only a third walk tells whether that state held.
  """
  if _config(path, user_files(path), reading) != folder.parent.name:
    shutil.rmtree(folder)
    raise ValueError(
      f"the files of data.path {path} changed while they were read; wait until "
      "they are complete, then run the same command again"
    )


def check_complete(
  folder: remote.AnyPath, is_sample: bool, partial: bool
) -> None:
  """Refuses a sample built earlier where all of the data set is asked for."""
  if is_sample and not partial:
    raise ValueError(
      f"{folder} holds a sample, built with --partial; delete it to build the "
      "whole data set"
    )


def _builder(
  name: str, module: str, folder: pathlib.Path, **options: Any
) -> Builder:
  """The builder whose result will be `folder`."""
  config = None
  if name == "folder":
    config = tfds.core.BuilderConfig(name=folder.parent.name)
    folder = folder.parent
  return _builder_class(name, module)(
    data_dir=str(folder.parent.parent), config=config, **options
  )


def _builder_class(name: str, module: str) -> type[Builder]:
  """The class of that name in the module of data/builders."""
  module = importlib.import_module(f"deeplab_jax.data.builders.{module}")
  for value in vars(module).values():
    if isinstance(value, type) and vars(value).get("name") == name:
      return value
  raise ValueError(
    f"{module.__file__} must have a Builder with name = {name!r}, got none"
  )


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time build `folder`; clears what killed ones left."""
  with atomic.alone(folder.parent / ".lock"):
    for leftover in folder.parent.glob(f"*incomplete*{folder.name}*"):
      shutil.rmtree(leftover)
    yield
