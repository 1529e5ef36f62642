"""A workdir has one writer."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable, Iterator

import jax

from deeplab_jax import remote
from deeplab_jax.messages import printable
from deeplab_jax.sharding import of_first_process
from deeplab_jax.train import remote_lock

_NAME = "lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def only_writer(workdir: remote.AnyPath) -> Iterator[Callable[[], None]]:
  """Keeps other runs from `workdir`, created if missing, until the block ends.

  The first process of a run holds `WORKDIR/lock` for all of them. The system
  keeps the lock, not the file: a run that is killed leaves a file, no lock. NFS
  keeps it across hosts, and drops that of a host that died once its lease has
  ended. Other mounts, such as gcsfuse, may keep it within a host only; the file
  then tells of the run that was there. In object stores, see `remote_lock`.

  Yields:
    what raises `StoreError` if the lock has become another run's, which happens
    in object stores alone.

  Raises:
    ValueError: another run holds it; names its process and host.
    StoreError: the object store cannot be read or written.
  """
  found, holding = None, contextlib.nullcontext(_do_nothing)
  if jax.process_index() == 0:
    if isinstance(workdir, remote.Address):
      held, found = remote_lock.acquire(workdir / _NAME)
      if held is not None:
        holding = remote_lock.holding(held)
    else:
      workdir.mkdir(parents=True, exist_ok=True)
      file, found = _acquire(workdir / _NAME)
      holding = _holding(workdir / _NAME, file)
  if of_first_process(found is not None):
    raise ValueError(
      f"{workdir} is in use by another run ({found or 'ask the first process'})"
      ": wait for its end or stop it, or give another --workdir"
    )
  with holding as still_held:
    yield still_held


def _do_nothing() -> None:
  pass


@contextlib.contextmanager
def _holding(
  path: pathlib.Path, file: int | None
) -> Iterator[Callable[[], None]]:
  """Closes and removes the locked `file` when the block ends."""
  try:
    yield _do_nothing
  finally:
    if file is not None:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
      os.close(file)


def _acquire(path: pathlib.Path) -> tuple[int | None, str | None]:
  """The locked file, or None and who holds it.

  A lock of `fcntl` belongs to the process: children that outlive it, such as
  those that read data, do not keep it, as they would that of `flock`.
  """
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      found = _owner(file)
      os.close(file)
      if error.errno in _BUSY:
        return None, found
      if error.errno not in _UNSUPPORTED:
        raise
      logging.warning(
        "%s cannot be locked (%s): see that no other run writes to this folder",
        *(path, error.strerror),
      )
      return None, None
    try:
      if os.fstat(file).st_ino == path.stat().st_ino:
        break
    except FileNotFoundError:
      pass
    os.close(file)  # The run that held it removed it meanwhile.
  _sign(file)
  return file, None


def _owner(file: int) -> str:
  text = os.pread(file, 200, 0).decode("utf-8", "replace").strip()
  return printable(text) or "unknown"


def _sign(file: int) -> None:
  """Writes who holds the lock; says if a run of another host was cut off."""
  before = re.match(r"process \d+ on (\S+),", _owner(file))
  host = socket.gethostname()
  if before and before[1] != host:
    logging.warning(
      "the last run in this workdir was cut off (%s); if it still runs, and "
      "locks do not reach from host to host here, stop it",
      _owner(file),
    )
  now = time.strftime("%Y-%m-%d %H:%M:%S %z")
  os.ftruncate(file, 0)
  os.pwrite(file, f"process {os.getpid()} on {host}, since {now}\n".encode(), 0)
