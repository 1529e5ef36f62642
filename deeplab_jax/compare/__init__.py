"""Runs side by side: their curves in one picture, their figures in a table.

  python -m deeplab_jax.compare RUN RUN ... --out compare.png

A RUN is the workdir of a training. Differences are those from the first.
"""

import argparse
import pathlib
from collections.abc import Sequence

from deeplab_jax import messages, visualize
from deeplab_jax.compare.runs import Run, read_runs, short_names
from deeplab_jax.compare.table import table

__all__ = ["Run", "compare", "main", "read_runs", "short_names", "table"]


def compare(
  workdirs: Sequence[pathlib.Path | str], picture: pathlib.Path | str
) -> str:
  """Draws the curves of runs into one PNG and gives a table of their figures.

  Args:
    workdirs: of the runs; differences are those from the first.
    picture: file to write.

  Returns:
    the table, several lines.

  Raises:
    ValueError: a workdir without records, or of another task than the first.
  """
  runs = read_runs(workdirs)
  rows = {run.name: run.rows for run in runs}
  task = runs[0].task
  figure = visualize.curves_figure(rows, task.score, task.title)
  visualize.write_figure(picture, figure)
  return table(runs)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command with `arguments`, by default those of the command line.

  Returns:
    the exit status.
  """
  parser = argparse.ArgumentParser(
    "python -m deeplab_jax.compare", description="Shows runs side by side."
  )
  parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run")
  parser.add_argument(
    "--out", default="compare.png", help="file of the picture (compare.png)"
  )
  flags = parser.parse_args(arguments)
  try:
    print(compare(flags.runs, flags.out))
  except Exception as error:
    return messages.tell(error)
  print(f"curves: {messages.printable(flags.out)}")
  return 0
