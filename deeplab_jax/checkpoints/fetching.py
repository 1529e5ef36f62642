"""Steps of an object store, on this machine to be read.

A step is put there file by file, `checksums.json` last, and read from a copy
that is compared with these sums, as one on a disk is.
"""

import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Sequence

from deeplab_jax import atomic, remote, runtime
from deeplab_jax.checkpoints import wholeness
from deeplab_jax.remote import Address

_KEPT = 7 * 24 * 3600  # seconds that a copy nobody uses stays


def fetch(
  step: Address, folder: pathlib.Path, items: Sequence[str] = ()
) -> None:
  """Copies a step, or those of its `items`, to `folder`, which appears whole.

  A folder that holds the same already stays.

  Raises:
    FileNotFoundError: it is no longer there.
  """
  sums, names = _contents(step, items)
  path = folder / wholeness.CHECKSUMS
  if sums is not None and path.is_file() and path.read_bytes() == sums:
    return
  partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    remote.download(step, names, partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _contents(
  step: Address, items: Sequence[str]
) -> tuple[bytes | None, list[str]]:
  """The file of sums, if there is one, and the names of the files wanted."""
  names = step.below()
  if items:
    prefixes = tuple(f"{item}/" for item in items)
    names = [name for name in names if name.startswith(prefixes)]
  try:
    sums = (step / wholeness.CHECKSUMS).read_bytes()
  except FileNotFoundError:
    return None, names
  return sums, sorted({*names, wholeness.CHECKSUMS} - {remote.UNFINISHED})


def local_copy(step: Address) -> pathlib.Path:
  """The `variables` of a step on this machine, with `model.json` in its place.

  Several processes may ask at a time. A copy that is not used for a week is
  removed by a later call.
  """
  try:
    content = (step / wholeness.CHECKSUMS).read_bytes()
  except FileNotFoundError:
    content = time.time_ns().to_bytes(8)  # nothing tells it from another
  text = str(step).encode() + content
  root = _fetched() / hashlib.sha256(text).hexdigest()[:24]
  _forget_others(root)
  folder = root / step.parent.name / step.name
  if not folder.is_dir():
    try:
      fetch(step, folder, ["variables"])
    except OSError:
      if not folder.is_dir():  # nor has another process made it meanwhile
        raise
  os.utime(root)
  model = step.parent.parent / "model.json"
  if model.is_file():
    atomic.write_bytes(root / "model.json", model.read_bytes())
  return folder


def _fetched() -> pathlib.Path:
  return runtime.cache_folder() / "fetched"


def _forget_others(used: pathlib.Path) -> None:
  """Removes the copies that nobody has asked for in a long time."""
  before = time.time() - _KEPT
  for root in _fetched().glob("*"):
    if root != used and root.stat().st_mtime < before:
      shutil.rmtree(root, ignore_errors=True)


class Mirror:
  """The steps of a run in an object store, and copies in a folder here.

  The run saves to the folder; each step goes up before it counts as saved.

  Attributes:
    address: the workdir.
    folder: where the run saves.
  """

  def __init__(self, address: Address, process: int):
    """Takes a folder of this machine that no other process or run uses.

    What an earlier start left there stays if the store has the same.
    """
    name = hashlib.sha256(str(address).encode()).hexdigest()[:24]
    self.address = address
    self.folder = runtime.cache_folder() / "workdirs" / f"{name}_{process}"
    self.folder.mkdir(parents=True, exist_ok=True)

  def steps(self, kind: str) -> list[Address]:
    """The steps in `checkpoints` or `best` of the store, newest first."""
    return wholeness.steps(self.address / kind)

  def open(self, kind: str, writes: bool) -> None:
    """Makes the folder agree with the store, without any download.

    Args:
      kind: "checkpoints" or "best".
      writes: clear from the store, too, what killed uploads left.
    """
    found = {step.name: step for step in self.steps(kind)}
    local = self.folder / kind
    for step in local.glob("*"):
      if step.name not in found or not _same(step, found[step.name]):
        shutil.rmtree(step)
    if writes:
      for name in (self.address / kind).names():
        if name not in found and name.isdecimal():
          self.remove(kind, name)

  def fetch(self, kind: str, name: str) -> pathlib.Path:
    """A step on this machine."""
    folder = self.folder / kind / name
    fetch(self.address / kind / name, folder)
    return folder

  def publish(self, step: pathlib.Path, kind: str, name: str) -> None:
    """Puts a step that is whole here into the store."""
    target = self.address / kind / name
    remote.remove_tree(target, wholeness.CHECKSUMS)
    remote.upload(step, target, wholeness.CHECKSUMS)

  def remove(self, kind: str, name: str) -> None:
    """Removes a step from the store."""
    remote.remove_tree(self.address / kind / name, wholeness.CHECKSUMS)

  def put_aside(self, kind: str, name: str, target: Address) -> None:
    """Moves a step of the store, and drops its copy."""
    remote.copy_tree(self.address / kind / name, target)
    self.remove(kind, name)
    shutil.rmtree(self.folder / kind / name, ignore_errors=True)

  def close(self) -> None:
    """Removes the folder: the store has all of it."""
    shutil.rmtree(self.folder, ignore_errors=True)


def _same(step: pathlib.Path, found: Address) -> bool:
  """Whether a step here has the sums of one in the store."""
  try:
    here = (step / wholeness.CHECKSUMS).read_bytes()
    return here == (found / wholeness.CHECKSUMS).read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return False
