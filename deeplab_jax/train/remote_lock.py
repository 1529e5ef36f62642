"""One writer to a workdir in an object store, which knows no locks.

The writer keeps an object there that says who it is, and writes it anew every
few seconds. Another run that finds it watches: a writer that is alive is seen
to write, one that is dead is not.
"""

import contextlib
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from deeplab_jax.messages import printable
from deeplab_jax.remote import Address, StoreError

_BEAT = 10.0  # seconds between writes
_DEAD = 40.0  # seconds without one after which a writer is dead
_LONG_AGO = 900.0  # seconds of which no clock is wrong
_LOOK = 2.0  # seconds between looks
_SETTLE = 1.0  # seconds in which two that found it free both have written


class Held:
  """The lock of this run: its object, and the thread that keeps it fresh."""

  def __init__(self, path: Address):
    """Writes the object; see `acquire`."""
    self._path, self._token = path, secrets.token_hex(8)
    self._since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    self._beats = 0
    self._ended = threading.Event()
    self._write()

  def _write(self) -> None:
    self._beats += 1
    content = {
      "process": os.getpid(),
      "host": socket.gethostname(),
      "since": self._since,
      "machine": _machine(),
      "started": _started(os.getpid()),
      "token": self._token,
      "beat": self._beats,
      "written": time.time(),
    }
    self._path.write_bytes(json.dumps(content).encode())

  def start(self) -> None:
    """Begins to keep the lock fresh."""
    self._thread = threading.Thread(target=self._keep, daemon=True)
    self._thread.start()

  def _keep(self) -> None:
    while not self._ended.wait(_BEAT):
      # A store that is away keeps all others away, too; a taker is told of
      # where something is to be written.
      with contextlib.suppress(OSError):
        self.check()
        self._write()

  def check(self) -> None:
    """Raises if another run has taken the lock, which was thought dead.

    Raises:
      StoreError: names it.
    """
    found = _read(self._path)
    if found is not None and found.get("token") != self._token:
      raise StoreError(
        f"{self._path.parent} was taken over by another run ({_owner(found)}): "
        "this one was silent for too long; what it has saved is whole"
      )

  def release(self) -> None:
    """Ends the thread and removes the object, if it is still this run's."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      self.check()
      self._path.unlink()


def acquire(path: Address) -> tuple[Held | None, str | None]:
  """The lock, or None and who holds it.

  Raises:
    StoreError: the store refuses to be read or written.
  """
  found = _read(path)
  if found is not None:
    if _is_alive(path, found):
      return None, _owner(found)
    logging.warning("the last run in %s was cut off (%s)", *_said(path, found))
  held = Held(path)
  time.sleep(_SETTLE)
  try:
    held.check()
  except StoreError:
    return None, _owner(_read(path) or {})
  held.start()
  return held, None


def _is_alive(path: Address, found: dict[str, Any]) -> bool:
  """Whether who wrote `found` still does; takes up to 40 s to tell."""
  if found.get("machine") == _machine():
    return _started(found.get("process")) == found.get("started")
  written = found.get("written")
  if isinstance(written, float) and time.time() - written > _LONG_AGO:
    return False
  logging.warning("%s is held by %s: watching if it lives", *_said(path, found))
  until = time.monotonic() + _DEAD
  while time.monotonic() < until:
    time.sleep(_LOOK)
    now = _read(path)
    if now is None:
      return False
    if now != found:
      return True
  return False


def _read(path: Address) -> dict[str, Any] | None:
  """What the lock says, None without one; a damaged one says nothing."""
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except ValueError:
    return {}
  return content if isinstance(content, dict) else {}


def _owner(found: dict[str, Any]) -> str:
  process, host = found.get("process", "?"), found.get("host", "?")
  text = f"process {process} on {host}, since {found.get('since', '?')}"
  written = found.get("written")
  if isinstance(written, float):
    text += f", last heard of {max(0, round(time.time() - written))} s ago"
  return printable(text)


def _said(path: Address, found: dict[str, Any]) -> tuple[Address, str]:
  return path.parent, _owner(found)


def _machine() -> str:
  """What tells this machine, and the container on it, from others."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(
      pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    parts.append(os.readlink("/proc/self/ns/pid"))
  return " ".join(parts)


def _started(process: Any) -> str | None:
  """When a process of this machine began, None if there is none.

  Numbers of processes are used again; the time tells them apart.
  """
  try:
    text = pathlib.Path(f"/proc/{int(process)}/stat").read_text()
  except (OSError, ValueError, TypeError):
    return None
  fields = text.rpartition(")")[2].split()
  return None if fields[0] == "Z" else fields[19]  # a zombie is dead


@contextlib.contextmanager
def holding(held: Held) -> Iterator[Callable[[], None]]:
  """Gives `held.check`; releases the lock when the block ends."""
  try:
    yield held.check
  finally:
    held.release()
