"""Building a data set once, with TFDS, into ArrayRecord files.

TFDS builds in a folder `incomplete.<random>_<version>` and renames it when
everything is written, so whatever carries the final name is complete.
"""

import contextlib
import fcntl
import hashlib
import importlib
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from deeplab_jax.data.builders.base import Builder
from deeplab_jax.data.builders.trees import files_below

# Data set name -> class in the module of that name in data/builders.
_BUILDERS = {
  "shapes": "Shapes",
  "camvid": "Camvid",
  "voc2012": "Voc2012",
  "coco_voc": "CocoVoc",
  "cityscapes": "Cityscapes",
  "ade20k": "Ade20k",
  "imagenet2012": "Imagenet2012",
  "folder": "Folder",
}

# Built on first use: these take seconds, or no more than a copy of the files.
SELF_BUILDING = ("shapes", "folder")


def directory(name: str, data_dir: str = "", path: str = "") -> pathlib.Path:
  """Where data set `name` is, or will be; its version is the last part.

  Args:
    name: a key of `DATASETS`.
    data_dir: root of all data sets; "" is $TFDS_DATA_DIR, or else
      ~/tensorflow_datasets.
    path: the user's files, for "folder": another directory whenever they
      change.
  """
  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  parts = [name, _config(path)] if name == "folder" else [name]
  return root.joinpath(*parts, str(Builder.VERSION))


def _config(path: str) -> str:
  """Names the state of the files at `path`."""
  folder = pathlib.Path(path).expanduser()
  if not path or not folder.is_dir():
    raise ValueError(
      "data.path (--manual_dir of prepare) must be a folder of images and "
      f"masks, got {path!r}"
    )
  readable = re.sub(r"\W+", "_", folder.resolve().name)
  return f"{readable}_{_fingerprint(folder)}"


def _fingerprint(folder: pathlib.Path) -> str:
  """Changes whenever a file in `folder` is added, removed or written."""
  digest = hashlib.sha256(str(folder.resolve()).encode())
  for path in sorted(files_below(folder)):
    stat = path.stat() if path.exists() else path.lstat()  # a broken link
    digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
  return digest.hexdigest()[:12]


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
) -> list[str]:
  """Builds `name` unless it is there; waits for another process that does.

  Args:
    name: a key of `DATASETS`.
    data_dir: root of all data sets, see `directory`.
    manual_dir: folder with the user's own download, or for "folder" the user's
      files; "" downloads.
    skip_bad: leave out unusable examples instead of stopping at the first.
    partial: accept a sample: any number of examples, any checksum.

  Returns:
    what was wrong with each example left out.

  Raises:
    ValueError: unknown name, missing or unusable source file.
  """
  if name not in _BUILDERS:
    raise ValueError(
      f"NAME must be one of {', '.join(sorted(_BUILDERS))}, got {name!r}"
    )
  manual = pathlib.Path(manual_dir).expanduser() if manual_dir else None
  if manual and not manual.is_dir():
    raise ValueError(f"--manual_dir must be a folder, got {manual}: not there")
  folder = directory(name, data_dir, manual_dir)
  with _only_one(folder):
    if is_built(folder):
      _check_complete(folder, partial)
      return []
    builder = _builder(
      name, folder, manual_dir=manual, skip_bad=skip_bad, partial=partial
    )
    with warnings.catch_warnings():
      # Remarks on harmless metadata, and pycocotools on NumPy 2.
      warnings.filterwarnings("ignore", module="PIL")
      warnings.filterwarnings("ignore", "__array__", DeprecationWarning)
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
  return builder.skipped


def _check_complete(folder: pathlib.Path, partial: bool) -> None:
  """Refuses a sample built earlier where all of the data set is asked for."""
  built = tfds.builder_from_directory(folder).info.metadata
  if built["partial"] and not partial:
    raise ValueError(
      f"{folder} holds a sample, built with --partial; delete it to build the "
      "whole data set"
    )


def _builder(name: str, folder: pathlib.Path, **options: Any) -> Builder:
  """The builder whose result will be `folder`."""
  module = importlib.import_module(f"deeplab_jax.data.builders.{name}")
  config = None
  if name == "folder":
    config = tfds.core.BuilderConfig(name=folder.parent.name)
    folder = folder.parent
  return getattr(module, _BUILDERS[name])(
    data_dir=str(folder.parent.parent), config=config, **options
  )


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time build `folder`; clears what killed ones left."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with (folder.parent / ".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for leftover in folder.parent.glob(f"*incomplete*{folder.name}*"):
      shutil.rmtree(leftover)
    yield
