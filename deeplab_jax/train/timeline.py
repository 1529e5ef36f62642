"""When a run did what: `WORKDIR/events.jsonl`, of which goodput is reckoned.

A line per event, {"run", "event", "step", "at"}: what had been done by then,
and when, in seconds since 1970 by a clock that only runs forwards within a run.
The time since the event before is that of doing it. Lines are never taken back,
not even of steps that are done again, unlike those of metrics.jsonl.
"""

import contextlib
import json
import os
import pathlib
import secrets
import tempfile
import time
from typing import IO, NamedTuple

from deeplab_jax import remote

NAME = "events.jsonl"
EVENTS = (
  *("start", "imports", "data", "restored", "compiled", "waited", "steps"),
  *("save", "evaluation", "stop"),
)
"""In the order of a run: the process began; it had imported what it needs,
opened its data, had its first state, made its first step; it had waited for a
batch, made steps, begun to save, evaluated; it had ended by itself."""

_begun: list[bool] = []  # one for each timeline of this process


class Event(NamedTuple):
  """A line.

  Attributes:
    run: of one start of a run, which tells it from the others.
    event: one of `EVENTS`.
    step: the last step done by then.
    at: seconds since 1970.
  """

  run: str
  event: str
  step: int
  at: float


class Timeline:
  """Notes the events of a run; keeps them back until `begin`."""

  def __init__(self, workdir: remote.AnyPath, writes: bool = True):
    """Begins with the start of this process, or now if another one did.

    Args:
      workdir: of the run.
      writes: False, as in all processes but one, writes nothing.
    """
    self._workdir, self._writes = workdir, writes
    self._zero = time.time() - time.monotonic()
    began = time.monotonic() - (0.0 if _begun else _age())
    _begun.append(True)
    self._run = secrets.token_hex(8)
    self._kept: list[str] = []
    self._files = contextlib.ExitStack()
    self._lines: IO[bytes] | None = None
    self._waited = 0.0
    self._note("start", 0, began)

  def note(self, event: str, step: int) -> None:
    """Notes that `event` of `EVENTS` is done, at `step`.

    What was waited for data since the last event comes before it.
    """
    now = time.monotonic()
    if self._waited:
      # As if the batches had come late all at once: only the sum matters.
      waited = min(self._waited, now - self._last)
      self._note("waited", self._step, self._last + waited)
      self._waited = 0.0
    self._note(event, step, now)

  def _note(self, event: str, step: int, at: float) -> None:
    self._last, self._step = at, step
    if not self._writes:
      return
    row = Event(self._run, event, step, round(at + self._zero, 4))
    line = json.dumps(row._asdict())
    if self._lines is None:
      self._kept.append(line)
    else:
      self._lines.write(f"{line}\n".encode())

  def waiting(self, seconds: float) -> None:
    """Adds seconds for which a step had no batch."""
    self._waited += seconds

  def begin(self) -> None:
    """Writes what was kept back: there is something to train."""
    if not self._writes or self._lines is not None:
      return
    folder = self._workdir
    if isinstance(folder, remote.Address):
      temporary = tempfile.TemporaryDirectory(prefix="deeplab_jax_events_")
      folder = pathlib.Path(self._files.enter_context(temporary))
      with contextlib.suppress(FileNotFoundError):
        before = (self._workdir / NAME).read_bytes()
        (folder / NAME).write_bytes(before)
    path = folder / NAME
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")
    self._lines = self._files.enter_context(path.open("ab", buffering=0))
    text = "".join(f"{line}\n" for line in self._kept)
    self._lines.write(b"\n" * cut + text.encode())
    self._kept.clear()
    if isinstance(self._workdir, remote.Address):
      follower = remote.Follower(folder, self._workdir)
      self._files.callback(follower.close)

  def close(self) -> None:
    """Closes the file."""
    self._files.close()


def _age() -> float:
  """Seconds since this process began; 0 where the system does not tell."""
  try:
    stat = pathlib.Path("/proc/self/stat").read_text()
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
  except OSError:
    return 0.0
  ticks = int(stat.rpartition(")")[2].split()[19])
  return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


def read(workdir: remote.AnyPath) -> list[Event]:
  """The events of a workdir in order, less damaged lines; [] without any."""
  try:
    text = (workdir / NAME).read_bytes().decode("utf-8", "replace")
  except FileNotFoundError:
    return []
  events = []
  for line in text.splitlines():
    with contextlib.suppress(ValueError, TypeError):
      event = Event(**json.loads(line))
      if event.event in EVENTS and isinstance(event.at, float):
        events.append(event)
  return events
