"""Data sets in object stores: what is published there, and how it gets there.

A published data set is the folder that was built, file by file, and an object
`INDEX`, which says of every file how long it is and what its SHA-256 is. It is
put there last and removed first: without it there is no data set.
"""

import hashlib
import json
import pathlib
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import tqdm

from deeplab_jax import atomic, remote
from deeplab_jax.cache import cache_folder
from deeplab_jax.data import build, rules
from deeplab_jax.data.reading import Reading
from deeplab_jax.remote import Address

INDEX = "published.json"
AGAIN = "run again the command `prepare` that published it"
"""What makes a data set whole from which something is missing."""

_FORMAT = 1  # of the index; raise it when older programs cannot read it
_THREADS = 4  # each holds a file in memory


class File(NamedTuple):
  """What must be true of a file: its bytes, and their SHA-256 in hex."""

  size: int
  sha256: str


class Index(NamedTuple):
  """What is published.

  Attributes:
    files: by name; there are no folders in a data set.
    reading: how the files of a user's folder were read: see `rules.published`.
    digest: SHA-256 of the index itself: another one whenever anything is.
  """

  files: Mapping[str, File]
  reading: str
  digest: str


def read(address: Address) -> Index | None:
  """What is published at `address`; None if nothing is, or not all of it.

  Raises:
    StoreError: no such bucket, or it may not be read.
    ValueError: the index is damaged, or files that it names are gone.
  """
  there = set(address.below())
  if INDEX not in there:
    return None
  place = address / INDEX
  try:
    index = _parsed(place.read_bytes())
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{place} must list what is published, got what cannot be read ({error});"
      f" {AGAIN}"
    ) from error
  if gone := sorted(index.files.keys() - there):
    more = f" and {len(gone) - 1} more files" if gone[1:] else ""
    raise ValueError(
      f"{address / gone[0]}{more} must be there, as {INDEX} says; {AGAIN}"
    )
  return index


def _parsed(content: bytes) -> Index:
  fields = json.loads(content)
  if fields["format"] > _FORMAT:
    raise ValueError("it was written by a newer version of this program")
  files = {
    name: File(int(size), str(sha256))
    for name, (size, sha256) in fields["files"].items()
  }
  for name, file in files.items():
    plain = name == pathlib.PurePosixPath(name).name and name[0] != "."
    if not plain or file.size < 0:
      raise ValueError(f"wrong file {name!r}")
  if "dataset_info.json" not in files:
    raise ValueError("no dataset_info.json")
  digest = hashlib.sha256(content).hexdigest()
  return Index(files, str(fields["reading"]), digest)


def publish(
  name: str,
  target: Address,
  *,
  manual_dir: str = "",
  skip_bad: bool = False,
  partial: bool = False,
  **reading: Any,
) -> list[str]:
  """Builds `name` on this machine and puts it to `target`, unless it is there.

  What is built at $TFDS_DATA_DIR already is taken from there. A command that
  was cut off is continued: nothing is built or put again.

  Args:
    name: as of `build.build`.
    target: where `build.directory` says that it will be.
    manual_dir: as of `build.build`.
    skip_bad: as of `build.build`.
    partial: as of `build.build`.
    **reading: as of `build.build`.

  Returns:
    what was wrong with each example left out.

  Raises:
    StoreError: the bucket is not there, or may not be written.
    ValueError: as `build.build`; or tiles, which cannot be published.
  """
  how = Reading(**reading)
  if how.tiling.side:
    raise ValueError(
      f"--tile cannot be published to {target}: tiles are read from rasters "
      "where these are; give a --data_dir that all hosts mount"
    )
  remote.require_writable(target)
  with atomic.alone(cache_folder() / "built" / ".publishing"):
    if _is_whole(target):
      sample = json.loads((target / "metadata.json").read_bytes()).get(
        "partial"
      )
      build.check_complete(target, sample, partial)
      return []
    folder = _place(name, manual_dir, reading)
    skipped = build.build(
      name,
      manual_dir=manual_dir,
      skip_bad=skip_bad,
      partial=partial,
      folder=folder,
      **reading,
    )
    words = ""
    if name == "folder":
      paths = build.user_files(manual_dir).stems("", "")
      words = rules.published(str(how), paths)
    upload(folder, target, words)
    if _cached_root() in folder.parents:
      shutil.rmtree(folder)
  return skipped


def _is_whole(target: Address) -> bool:
  try:
    return read(target) is not None
  except ValueError:  # damaged, which is why it is published again
    return False


def _cached_root() -> pathlib.Path:
  return cache_folder() / "built"


def _place(name: str, path: str, reading: dict[str, Any]) -> pathlib.Path:
  """Where the data set is built, or is already."""
  default = build.directory(name, "", path, **reading)
  if isinstance(default, pathlib.Path) and build.is_built(default):
    return default
  return build.directory(name, str(_cached_root()), path, **reading)


def upload(folder: pathlib.Path, target: Address, reading: str = "") -> None:
  """Puts a data set that is built in `folder` to `target`, its index last.

  An upload that was cut off is continued, as an object is there whole or not at
  all: the mark of an unfinished upload says of what it was.
  """
  content = _index(folder, reading)
  index = _parsed(content)
  mark = target / remote.UNFINISHED
  there = set(target.below())
  if not (remote.UNFINISHED in there and mark.read_text() == index.digest):
    remote.remove_tree(target, INDEX)
    mark.write_bytes(index.digest.encode())
    there = set()
  names = sorted(index.files)
  left = [name for name in names if name not in there]
  total = sum(file.size for file in index.files.values())
  done = total - sum(index.files[name].size for name in left)
  with tqdm.tqdm(
    desc=f"to {target}", total=total, initial=done, unit="B", unit_scale=True
  ) as progress:
    counting = threading.Lock()

    def put(name: str) -> None:
      (target / name).write_bytes((folder / name).read_bytes())
      with counting:
        progress.update(index.files[name].size)

    with ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(put, left))  # the first error cancels the rest
  (target / INDEX).write_bytes(content)
  mark.unlink()


def _index(folder: pathlib.Path, reading: str) -> bytes:
  """The index of what is in `folder`, the same for the same files."""
  files = {}
  for path in sorted(folder.iterdir()):
    if path.name[0] == ".":  # such as .DS_Store
      continue
    with path.open("rb") as file:
      sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    files[path.name] = File(path.stat().st_size, sha256)
  content = {"format": _FORMAT, "reading": reading, "files": files}
  return json.dumps(content, indent=1).encode()
