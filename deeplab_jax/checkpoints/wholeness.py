"""Whether the files of a step are those that were saved.

A step holds `checksums.json`, the SHA-256 of each of its files, written before
the step gets its final name. Two files are left out, as Orbax writes them after
that and nothing is restored from them: `_CHECKPOINT_METADATA` of the step and
`commit_success.txt`. Steps of older versions have no checksums: theirs are read
and parsed, which finds what is missing or cut, but not a flipped bit.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator

import orbax.checkpoint as ocp
import tensorstore

from deeplab_jax import atomic, remote

CHECKSUMS = "checksums.json"
"""The file of a step that tells of the others."""
_LEFT_OUT = ("_CHECKPOINT_METADATA", "commit_success.txt", CHECKSUMS)
# Errors that tell of the files; all others tell of the disk, the network or
# the permissions, and the files may be whole.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def steps(folder: remote.AnyPath) -> list[remote.AnyPath]:
  """The step folders in `folder`, newest first; none if it is not there.

  In an object store, those that have been put there as a whole.

  Raises:
    OSError: it cannot be read.
  """
  try:
    if isinstance(folder, remote.Address):
      names = _finished(folder.below())
    else:
      names = os.listdir(folder)
  except FileNotFoundError:
    return []
  numbers = [int(n) for n in names if re.fullmatch("0|[1-9][0-9]*", n)]
  return [folder / str(number) for number in sorted(numbers, reverse=True)]


def _finished(keys: list[str]) -> set[str]:
  """The folders among `keys` that no upload or removal was cut off in."""
  found, names = set(keys), {key.partition("/")[0] for key in keys}
  return {
    name
    for name in names
    if f"{name}/{CHECKSUMS}" in found
    or f"{name}/{remote.UNFINISHED}" not in found
  }


def write_checksums(step: pathlib.Path) -> None:
  """Brings the files of a step to the disk and notes the checksum of each."""
  sums = {}
  for path in sorted(_files(step)):
    name = path.relative_to(step).as_posix()
    if name not in _LEFT_OUT:
      with path.open("rb") as file:
        os.fsync(file.fileno())
        sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
  atomic.write_json(step / CHECKSUMS, {"sha256": sums})


def fault(step: pathlib.Path, *items: str) -> str | None:
  """What is wrong with the files of `items` of a step, None if they are whole.

  Raises:
    OSError: they cannot be read, which says nothing of what they hold.
  """
  try:
    sums = _read_checksums(step)
  except ValueError as error:
    return str(error)
  for item in items:
    try:
      _parse(step / item) if sums is None else _compare(step / item, sums)
    except _GONE as error:
      return f"{item}: {pathlib.Path(error.filename).name} is missing"
    except ValueError as error:
      return f"{item}: {str(error).splitlines()[0]}"
  return None


def identity(step: pathlib.Path) -> str:
  """What differs between steps of different content; "" of older versions."""
  return json.dumps(_read_checksums(step) or "")


def _read_checksums(step: pathlib.Path) -> dict[str, str] | None:
  """File -> sum; None if the step is of a version that wrote none."""
  try:
    text = (step / CHECKSUMS).read_bytes()
  except _GONE:
    return None
  try:
    return dict(json.loads(text)["sha256"])
  except (ValueError, KeyError, TypeError):
    raise ValueError(f"{CHECKSUMS} is damaged") from None


def _compare(item: pathlib.Path, sums: dict[str, str]) -> None:
  """Reads all of an item and compares its checksums.

  Raises:
    ValueError: one differs.
    OSError: a file cannot be read, or is missing.
  """
  step = item.parent
  names = [name for name in sums if name.startswith(f"{item.name}/")]
  if not names:
    raise ValueError(f"{CHECKSUMS} names no file of it")
  for name in names:
    with (step / name).open("rb") as file:
      if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
        path = pathlib.Path(name).relative_to(item.name)
        raise ValueError(f"{path} is not what was saved")


def _parse(item: pathlib.Path) -> None:
  """Reads all of an item that has no checksums.

  Raises:
    ValueError: it cannot be parsed.
    OSError: it cannot be read, or a file is missing.
  """
  if item.name == "metrics":
    json.loads((item / "metrics").read_bytes())
    return
  for name in ("_METADATA", "manifest.ocdbt"):
    (item / name).open("rb").close()
  for path in _files(item):
    path.read_bytes()
  try:
    base = {"driver": "file", "path": f"{item}/"}
    spec = {"driver": "ocdbt", "base": base}
    store = tensorstore.KvStore.open(spec).result()
    keys = store.list().result()
    for read in [store.read(key) for key in keys]:
      read.result()
    arrays = ocp.PyTreeCheckpointHandler().metadata(item).tree
  except Exception as error:  # whatever broken files lead the readers to
    raise ValueError(str(error).splitlines()[0]) from error
  if not keys or not arrays:
    raise ValueError("it holds no arrays")


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """All files below `folder`; unlike a glob, it raises what it cannot read."""

  def fail(error: OSError) -> None:
    raise error

  for parent, _, names in os.walk(folder, onerror=fail):
    yield from (pathlib.Path(parent, name) for name in names)
