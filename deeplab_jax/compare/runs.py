"""Runs as they are on record, and names that tell them apart."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from deeplab_jax import remote, tasks
from deeplab_jax.tasks import Task
from deeplab_jax.train import continuing, records
from deeplab_jax.visualize import curves


@dataclasses.dataclass(frozen=True)
class Run:
  """What a workdir has recorded.

  Attributes:
    name: the end of its path that tells it from the others.
    rows: of its metrics.jsonl.
    task: what it was trained for.
    scored_on: what its scores are of, by name, as far as it is known.
  """

  name: str
  rows: list[dict[str, float]]
  task: Task
  scored_on: dict[str, Any]

  @property
  def steps(self) -> int:
    """The last step on record."""
    return max(row["step"] for row in self.rows)

  @property
  def scores(self) -> dict[int, float]:
    """The score of the task at each evaluation, in 0..1, by step."""
    steps, values = curves.column(self.rows, self.task.score)
    return dict(zip(map(int, steps), map(float, values)))

  @property
  def loss(self) -> float | None:
    """The last loss, without weight decay, as smooth as it is drawn."""
    steps, losses = curves.data_losses(self.rows)
    if not len(losses):
      return None
    return float(curves.smoothed(steps, losses)[-1])


def read_runs(workdirs: Sequence[pathlib.Path | str]) -> list[Run]:
  """The runs in `workdirs`.

  Raises:
    ValueError: a folder is named twice, has no records or damaged ones, or is
      of another task than the first.
  """
  runs = []
  for path, name in zip(workdirs, short_names(workdirs)):
    rows = records.read(remote.as_path(path) / "metrics.jsonl")
    if not rows:
      raise ValueError(
        f"RUN must be the workdir of a training, got {path}: it has no "
        "metrics.jsonl, or an empty one"
      )
    scored_on = continuing.scored_on(remote.as_path(path))
    run = Run(name, rows, _task(rows), scored_on)
    if runs and run.task is not runs[0].task:
      raise ValueError(
        f"RUN {path} was trained for {run.task.title}, the first for "
        f"{runs[0].task.title}: compare runs of one task"
      )
    runs.append(run)
  return runs


def _task(rows: list[dict[str, float]]) -> Task:
  """That of the evaluations on record; segmentation before the first."""
  is_classified = any(tasks.CLASSIFICATION.score in row for row in rows)
  return tasks.CLASSIFICATION if is_classified else tasks.SEGMENTATION


def short_names(paths: Sequence[pathlib.Path | str]) -> list[str]:
  """For each path its shortest end that no other path has.

  Raises:
    ValueError: a path is given twice.
  """
  whole = [_parts(path) for path in paths]
  for index, parts in enumerate(whole):
    if parts in whole[:index]:
      raise ValueError(f"RUN {paths[index]} is given twice")
  return [_short_name(parts, whole) for parts in whole]


def _parts(path: remote.AnyPath | str) -> tuple[str, ...]:
  found = remote.as_path(path)
  if isinstance(found, pathlib.Path):
    found = pathlib.Path(os.path.abspath(found))
  return found.parts


def _short_name(
  parts: tuple[str, ...], whole: Sequence[tuple[str, ...]]
) -> str:
  for count in range(1, len(parts)):
    end = parts[-count:]
    if sum(other[-count:] == end for other in whole) == 1:
      return "/".join(end)
  return str(pathlib.Path(*parts))
