"""Building a data set once, with TFDS, into ArrayRecord files.

A build happens in a folder `<version>.incomplete...` that TFDS renames when
everything is written, so whatever carries the final name is complete.
"""

import contextlib
import fcntl
import importlib
import pathlib
import shutil
from collections.abc import Iterator

import tensorflow_datasets as tfds

from deeplab_jax.data.builders.base import Builder

# Data set name -> class in the module of that name in data/builders.
_BUILDERS = {
  "shapes": "Shapes",
  "camvid": "Camvid",
  "voc2012": "Voc2012",
  "coco_voc": "CocoVoc",
  "cityscapes": "Cityscapes",
  "ade20k": "Ade20k",
  "imagenet2012": "Imagenet2012",
}

SELF_BUILDING = ("shapes",)  # takes seconds and needs no source files


def directory(name: str, data_dir: str = "") -> pathlib.Path:
  """Where data set `name` is, or will be; its version is the last part.

  Args:
    name: a key of `DATASETS`.
    data_dir: root of all data sets; "" is $TFDS_DATA_DIR, or else
      ~/tensorflow_datasets.
  """
  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  return root / name / str(Builder.VERSION)


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
    manual_dir: folder with the user's own download; "" downloads.
    skip_bad: leave out unusable examples instead of stopping at the first.
    partial: accept any number of examples, as for a sample.

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
  folder = directory(name, data_dir)
  with _only_one(folder):
    if is_built(folder):
      return []
    module = importlib.import_module(f"deeplab_jax.data.builders.{name}")
    builder = getattr(module, _BUILDERS[name])(
      data_dir=str(folder.parent.parent),
      manual_dir=manual,
      skip_bad=skip_bad,
      partial=partial,
    )
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  return builder.skipped


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time build `folder`; clears what killed ones left."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with (folder.parent / ".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for leftover in folder.parent.glob(f"*incomplete*{folder.name}*"):
      shutil.rmtree(leftover)
    yield
