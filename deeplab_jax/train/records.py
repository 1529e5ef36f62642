"""What a run leaves behind beside its weights: metrics.jsonl, TensorBoard."""

import json
import math
import os
import pathlib
from collections.abc import Mapping

import tensorboardX


class Records:
  """Numbers by step, in `WORKDIR/metrics.jsonl` and for TensorBoard.

  A run that continues from an earlier step than the last one written first
  drops what it will write again: no step is ever there twice.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    score: str = "eval/miou",
    writes: bool = True,
  ):
    """Opens the records of `workdir` to go on after `step`.

    Args:
      workdir: of the run.
      step: the last one done.
      score: the figure of an evaluation to remember.
      writes: False, as in all processes but one, writes nothing.
    """
    path = workdir / "metrics.jsonl"
    kept = [row for row in read(path) if row["step"] <= step]
    self._score = score
    self._scores = {row["step"]: row[score] for row in kept if score in row}
    if writes:
      partial = path.with_suffix(".partial")
      partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
      partial.rename(path)
    self._lines = (path if writes else pathlib.Path(os.devnull)).open("a")
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=writes
    )

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
    row = {k: None if math.isnan(v) else v for k, v in values.items()}
    self._lines.write(json.dumps({"step": step, **row}) + "\n")
    self._lines.flush()
    for name, value in row.items():
      if value is not None:
        self._board.add_scalar(name, value, step)
    if self._score in values:
      self._scores[step] = values[self._score]
      self._board.flush()

  def close(self) -> None:
    """Closes the files."""
    self._lines.close()
    self._board.close()


def read(path: pathlib.Path) -> list[dict[str, float]]:
  """The lines of a metrics.jsonl, less a last one cut off by a crash."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
