"""Published data sets, copied to this machine while they are used.

A file is copied when a record of it is first asked for, and in the background
before that: training begins with the files of its first batches. Which records
these are does not depend on what is there already, so batches are the same.

All processes of a machine share one copy, in which a file has its name once it
is whole and has the published checksum. What is there of it before that has
another name, which one process at a time adds to.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import tqdm

from deeplab_jax import atomic
from deeplab_jax.cache import cache_folder
from deeplab_jax.data import published
from deeplab_jax.data.published import File, Index
from deeplab_jax.remote import Address

_PART = 16 << 20  # bytes of one request
_THREADS = 4  # that copy in the background
_TELL = 10.0  # seconds between lines that say how far it is
_KEPT = 7 * 24 * 3600  # seconds that a copy nobody uses stays
_USED = ".used"  # locked by those that read the copy
_in_use: dict[pathlib.Path, BinaryIO] = {}


class Copy:
  """A published data set on this machine. Pickles, for worker processes.

  Attributes:
    address: where it is published.
    folder: its files, as far as they are here.
  """

  def __init__(self, address: Address, index: Index):
    """Copies all but the records; waits for who is copying already.

    Raises:
      StoreError: the store cannot be read.
      ValueError: a file is not what was published, or finds no space.
    """
    self.address, self._files = address, index.files
    name = f"{address.parent.name}_{address.name}"
    about = hashlib.sha256(f"{address} {index.digest}".encode()).hexdigest()
    root = _root() / f"{name}_{about[:16]}"
    self.folder = root / address.name
    root.mkdir(parents=True, exist_ok=True)
    _keep(root)
    self.folder.mkdir(parents=True, exist_ok=True)
    self._here: set[str] = set()
    self._begun: set[str] = set()
    others = [n for n in self._files if ".array_record" not in n]
    self._require_space(others)
    with ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(self.require, others))

  def begin(self, names: Iterable[str]) -> None:
    """Copies the files of these names in the background, the first one first.

    An error there is told, and raised by `require` if the file is needed.

    Raises:
      ValueError: there is too little space, or no such file was published.
    """
    names = [name for name in names if name not in self._begun]
    if unknown := [name for name in names if name not in self._files]:
      raise ValueError(
        f"{self.address / published.INDEX} must list all files, got none named "
        f"{unknown[0]}; delete it and {published.AGAIN}"
      )
    self._begun.update(names)
    left = [name for name in names if not self._is_here(name)]
    self._require_space(left)
    if left:
      _thread(self._stage, left).start()

  def require(self, name: str) -> None:
    """Returns once a file is here; copies it unless another process does.

    Raises:
      StoreError: the store cannot be read.
      ValueError: it is not what was published.
    """
    if name in self._here:
      return
    if not self._is_here(name):
      with (self.folder / f".{name}.partial").open("a+b") as partial:
        with contextlib.suppress(OSError):
          fcntl.flock(partial, fcntl.LOCK_EX)
        if not self._is_here(name):
          self._fetch(name, partial)
    self._here.add(name)

  def _is_here(self, name: str) -> bool:
    try:
      return (self.folder / name).stat().st_size == self._files[name].size
    except FileNotFoundError:
      return False

  def _fetch(self, name: str, partial: BinaryIO) -> None:
    """Copies what is left of a file, into `partial`, and names it."""
    file, source = self._files[name], self.address / name
    began = partial.seek(0, os.SEEK_END)
    try:
      if not _complete(source, file, partial):
        partial.truncate(0)
        # What an earlier start left may have been bad, not what is published.
        if not began or not _complete(source, file, partial):
          raise ValueError(
            f"{source} is not what was published, by its size and SHA-256 in "
            f"{published.INDEX}; delete it and {published.AGAIN}"
          )
      os.fsync(partial.fileno())
      os.rename(partial.name, self.folder / name)
    except OSError as error:
      if error.errno and error.filename is None:
        error.filename = partial.name  # which a write does not tell
      raise

  def _require_space(self, names: Iterable[str]) -> None:
    """Refuses to begin what would fill the disk; see `begin`."""
    names = [n for n in {*names, *self._begun} if not self._is_here(n)]
    left = sum(self._files[name].size for name in names)
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        left -= (self.folder / f".{name}.partial").stat().st_size
    free = shutil.disk_usage(self.folder).free
    if left > free:
      raise ValueError(
        f"{self.address}: {_shown(left)} of it are needed on this machine in "
        f"{_root()}, where {_shown(free)} are free; free some, or set "
        "DEEPLAB_CACHE to a folder on a larger disk"
      )

  def _stage(self, names: list[str]) -> None:
    """Copies files in the order given, and tells how far it is.

    One process of the machine does; another goes on if it dies.
    """
    with atomic.alone(self.folder / ".staging"):
      left = [name for name in names if not self._is_here(name)]
      if not left:
        return
      total, began = sum(self._files[n].size for n in names), time.monotonic()
      queue, errors = iter(left), []
      threads = [_thread(self._work, queue, errors) for _ in range(_THREADS)]
      for thread in threads:
        thread.start()
      for thread in threads:
        while thread.is_alive():
          thread.join(_TELL)
          if thread.is_alive():
            here = self._size(names)
            self._tell(f"{_shown(here)} of {_shown(total)}")
      if errors:
        self._tell(f"stopped: {errors[0]}")
      else:
        seconds = time.monotonic() - began
        self._tell(f"all {_shown(total)} are here after {seconds:.0f} s")

  def _work(self, queue: Iterator[str], errors: list[Exception]) -> None:
    for name in queue:
      if errors:
        return
      try:
        self.require(name)
      except (OSError, ValueError) as error:
        errors.append(error)

  def _size(self, names: list[str]) -> int:
    """Bytes that are here of these files."""
    size = 0
    for name in names:
      for path in (self.folder / name, self.folder / f".{name}.partial"):
        with contextlib.suppress(FileNotFoundError):
          size += path.stat().st_size
    return size

  def _tell(self, text: str) -> None:
    print(f"staging {self.address}: {text}", file=sys.stderr, flush=True)


def _thread(function: Callable[..., None], *arguments: Any) -> threading.Thread:
  """One that does not keep the program from ending."""
  return threading.Thread(
    target=function, args=arguments, daemon=True, name="staging"
  )


def _complete(source: Address, file: File, partial: BinaryIO) -> bool:
  """Adds what is missing to `partial`; whether it is then what it should be.

  Raises:
    StoreError: the store cannot be read.
  """
  partial.seek(0)
  digest = hashlib.sha256()
  while part := partial.read(_PART):
    digest.update(part)
  while (begin := partial.tell()) < file.size:
    try:
      part = source.read_bytes(begin, min(begin + _PART, file.size))
    except (FileNotFoundError, EOFError):
      return False
    digest.update(part)
    partial.write(part)
    partial.flush()
  return partial.tell() == file.size and digest.hexdigest() == file.sha256


def _shown(size: int) -> str:
  return tqdm.tqdm.format_sizeof(size, "B")


def _root() -> pathlib.Path:
  return cache_folder() / "data"


def _keep(root: pathlib.Path) -> None:
  """Keeps `root` while this process lives; drops what is long out of use."""
  if root not in _in_use:
    _in_use[root] = (root / _USED).open("a")
    atexit.register(_in_use[root].close)
    with contextlib.suppress(OSError):
      fcntl.flock(_in_use[root], fcntl.LOCK_SH)
  os.utime(root / _USED)
  before = time.time() - _KEPT
  for mark in _root().glob(f"*/{_USED}"):
    if mark.stat().st_mtime < before:
      with mark.open("a") as file:
        if atomic.lock(file.fileno()):
          shutil.rmtree(mark.parent, ignore_errors=True)
