"""What a run leaves behind beside its weights: metrics.jsonl, TensorBoard."""

import contextlib
import json
import logging
import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

from deeplab_jax import atomic, remote

if TYPE_CHECKING:
  from deeplab_jax.train.board import Board


class Records:
  """Numbers by step, in `WORKDIR/metrics.jsonl` and for TensorBoard.

  A run that continues from an earlier step than the last one written first
  drops what it will write again: no step is ever there twice. Until it writes,
  the files stay as they are. For an object store they are written here, and
  copied there; `flush` before a checkpoint is saved makes sure that the store
  has all rows up to the step from which a run may go on.

  Attributes:
    rows: those up to the step that the run continues from.
    evaluations: figures of all evaluations so far, by step.
  """

  def __init__(
    self,
    workdir: remote.AnyPath,
    step: int,
    score: str = "eval/miou",
    writes: bool = True,
  ):
    """Reads the records of `workdir` to go on after `step`.

    Args:
      workdir: of the run.
      step: the last one done.
      score: the figure of an evaluation to remember.
      writes: False, as in all processes but one, writes nothing.
    """
    self._path, self._step = workdir / "metrics.jsonl", step
    self.rows = [row for row in read(self._path) if row["step"] <= step]
    self._score = score
    scored = [row for row in self.rows if score in row]
    self._scores = {row["step"]: row[score] for row in scored}
    self.evaluations = {row["step"]: row for row in scored}
    self._writes = writes
    self._files = contextlib.ExitStack()
    self._lines: IO[str] | None = None
    self._board: Board | None = None
    self._follower: remote.Follower | None = None

  def _open(self) -> None:
    """Opens the files, less what will be written again."""
    # Not above: where boto3 is installed, tensorboardX takes half a second.
    from deeplab_jax.train.board import Board

    text = "".join(json.dumps(row) + "\n" for row in self.rows)
    folder = self._path.parent
    if isinstance(folder, remote.Address):
      temporary = tempfile.TemporaryDirectory(prefix="deeplab_jax_records_")
      here = pathlib.Path(self._files.enter_context(temporary))
      self._follower = remote.Follower(here, folder)
      self._files.callback(self._follower.close)
      folder = here
    path = folder / self._path.name
    if not path.exists() or path.read_bytes() != text.encode():
      atomic.write_text(path, text)
    self._lines = self._files.enter_context(path.open("a"))
    self._board = Board(folder / "tensorboard", self._step)
    self._files.callback(self._board.close)

  def score(self, step: int) -> float | None:
    """The score on record for `step`, None if it was not evaluated."""
    return self._scores.get(step)

  def last_evaluation(self) -> dict[str, float]:
    """Such as {"step", "miou"} of the last evaluation; {} without any."""
    if not self._scores:
      return {}
    step = max(self._scores)
    name = self._score.removeprefix("eval/")
    return {"step": step, name: self._scores[step]}

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one line of values, named such as "train/loss"; NaN becomes null."""
    if self._score in values:
      self._scores[step] = values[self._score]
      self.evaluations[step] = dict(values)
    if not self._writes:
      return
    if self._lines is None:
      self._open()
    row = {k: None if math.isnan(v) else v for k, v in values.items()}
    self._lines.write(json.dumps({"step": step, **row}) + "\n")
    self._lines.flush()
    self._board.write(step, row)

  def flush(self) -> None:
    """Returns when all that was written is where it belongs.

    Raises:
      StoreError: an object store does not take it.
    """
    if self._follower is not None:
      self._follower.flush()

  def close(self) -> None:
    """Closes the files."""
    self._files.close()


def read(path: remote.AnyPath) -> list[dict[str, float]]:
  """The rows of a metrics.jsonl, less lines that are damaged, which are told.

  A crash cuts off the last one; a fault of the disk may hit any.
  """
  try:
    text = path.read_bytes().decode("utf-8", "replace")
  except FileNotFoundError:
    text = ""
  lines = text.split("\n")
  rows = [_row(line) for line in lines]
  damaged = [i for i, row in enumerate(rows, 1) if row is None and lines[i - 1]]
  if damaged and damaged != [len(lines)]:
    logging.warning("%s: passed over damaged lines %s", path, damaged)
  return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, float] | None:
  try:
    row = json.loads(line)
  except ValueError:
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int:
    return None
  values = row.values()
  whole = all(v is None or type(v) in (int, float) for v in values)
  return row if whole else None
