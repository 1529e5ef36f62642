"""Where the data set is that a config names: built here, or published.

What needs no source of its own is built when it is not there.
"""

from __future__ import annotations

import functools
import pathlib
import shlex
import sys
import typing
from collections.abc import Iterable

from deeplab_jax import remote
from deeplab_jax.data import build, published, rules
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DATASETS, DatasetInfo
from deeplab_jax.data.reading import Reading, reading_of
from deeplab_jax.data.staging import Copy

if typing.TYPE_CHECKING:
  import ml_collections

_READING_FLAGS = ("channels", "format", "order", "unannotated")  # of prepare


def known_info(data_config: ml_collections.ConfigDict) -> DatasetInfo:
  """Facts about the data set of that name; a folder's own are in its files.

  Raises:
    ValueError: there is none.
  """
  if data_config.name not in DATASETS:
    raise ValueError(
      f"data.name must be one of {', '.join(sorted(DATASETS))}, "
      f"got {data_config.name!r}"
    )
  return DATASETS[data_config.name]


def find(
  data_config: ml_collections.ConfigDict,
  files: Tree | None,
  multilabel: bool,
) -> tuple[pathlib.Path, Copy | None]:
  """The folder of a data set, and what brings its files there, if published.

  For the arguments and errors see `source.open_dataset`. What is in an object
  store has to be published already: each host of a run would build its own.
  """
  name, path = data_config.name, data_config.path
  reading = reading_of(data_config, multilabel)
  how = vars(reading)
  directory = build.directory(name, data_config.data_dir, path, files, **how)
  if isinstance(directory, remote.Address):
    copy = _staged(data_config, directory, reading)
    _say_remarks(copy.folder)
    return copy.folder, copy
  if not build.is_built(directory):
    if not DATASETS[name].builds_itself:
      raise ValueError(_how_to_prepare(data_config, directory, reading))
    build.build(
      name,
      manual_dir=path,
      skip_bad=data_config.get("skip_bad", False),
      folder=directory,
      **how,
    )
  _say_remarks(directory)
  return directory, None


def _staged(
  data_config: ml_collections.ConfigDict,
  address: remote.Address,
  reading: Reading,
) -> Copy:
  """The copy of what is published at `address`.

  Raises:
    ValueError: nothing is, or a folder that was read in another way.
  """
  index = published.read(address)
  if index is None:
    raise ValueError(_how_to_prepare(data_config, address, reading))
  is_folder = data_config.name == "folder"
  if is_folder:
    _check_reading(address, str(reading), index.reading, ())
  copy = Copy(address, index)
  if is_folder:  # again, as what is said is here now
    _check_reading(
      address, str(reading), index.reading, build.said(copy.folder)
    )
  return copy


def _check_reading(
  address: remote.Address, reading: str, was: str, said: Iterable[str]
) -> None:
  """Refuses what was published of files that were read in another way."""
  now = rules.as_now(reading, was, said)
  if was != now:
    raise ValueError(
      f"{address} was published as {was!r}, this config asks for {now!r}: give "
      "task, data.nodata, data.channels and the like as they were given to "
      "prepare, or publish the folder again, as where rules have changed"
    )


@functools.cache
def _say_remarks(directory: pathlib.Path) -> None:
  """Prints how the files of a data set were read, and what may be meant: once,
  not whenever it is opened."""
  for line in build.said(directory):
    print(line, file=sys.stderr, flush=True)
  for line in build.remarks(directory):
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _how_to_prepare(
  data_config: ml_collections.ConfigDict,
  directory: remote.AnyPath,
  reading: Reading,
) -> str:
  """What to do where there is no data set: the command, or another name."""
  is_folder = data_config.name == "folder"
  missing = f"data.name {data_config.name}: no prepared data set at {directory}"
  if is_folder and build.is_published_name(
    data_config.data_dir, data_config.path
  ):
    there = ", ".join(directory.parent.parent.names()) or "none"
    return f"{missing}; data.path must be a name that is there: {there}"
  if others := _other_versions(directory):
    missing += f" (but of other versions of this program: {others})"
  values = {
    "manual_dir": data_config.path if is_folder else data_config.manual_dir,
    "data_dir": data_config.data_dir,
  }
  if reading.nodata is not None:
    values["nodata"] = f"{reading.nodata:g}"
  values |= {flag: data_config.get(flag) for flag in _READING_FLAGS}
  command = ["python", "-m", "deeplab_jax.prepare", data_config.name]
  for flag, value in values.items():
    command += [f"--{flag}", str(value)] if value else []
  command += ["--multilabel"] if reading.multilabel else []
  return f"{missing}; run\n  {shlex.join(command)}"


def _other_versions(directory: remote.AnyPath) -> str:
  if not isinstance(directory, remote.Address):
    return ""
  return ", ".join(n for n in directory.parent.names() if n != directory.name)
