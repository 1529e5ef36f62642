"""The figures of a run as TensorBoard reads them."""

import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2


class Board:
  """A file of figures for TensorBoard, which is written in this thread.

  tensorboardX's own class has a thread for it. That ends in silence when the
  disk is full, and whoever writes more then waits for it for ever.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    """Begins a file; what others in `folder` have after `step` is void."""
    folder.mkdir(parents=True, exist_ok=True)
    self._events = EventsWriter(str(folder / "events"))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(step + 1, session_log=start)

  def _add(self, step: int, **content: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._events.write_event(event)

  def write(self, step: int, row: Mapping[str, float | None]) -> None:
    """Adds the figures of a step that are known."""
    for name, value in row.items():
      if value is not None:
        # As tensorboardX would, which says so each time.
        name = re.sub(r"[^-/\w.]", "_", name)
        self._add(step, summary=summary.scalar(name, value))
    self._events.flush()

  def close(self) -> None:
    """Closes the file."""
    self._events.close()
