"""The figures of runs as lines of text, with differences from the first."""

from collections.abc import Iterator, Sequence
from typing import Any

from deeplab_jax import messages
from deeplab_jax.compare.runs import Run

_NONE = "-"


def table(runs: Sequence[Run]) -> str:
  """A line a run: its last loss, its final and its best held-out score.

  Scores are in percent, differences in points of percent.

  Args:
    runs: of one task, the first being what the others are compared with.
  """
  title = runs[0].task.title
  headings = ["run", "step", "loss", f"final {title} %", "difference"]
  headings += ["best %", "at step", "difference"]
  lines = [headings]
  first_final, first_best = _final(runs[0]), _best(runs[0])
  for run in runs:
    final, best = _final(run), _best(run)
    line = [messages.printable(run.name), str(run.steps), _number(run.loss)]
    line += [_percent(final), _difference(final, first_final, run is runs[0])]
    line += [_percent(best), _step_of_best(run)]
    line += [_difference(best, first_best, run is runs[0])]
    lines.append(line)
  return "\n".join([_aligned(lines), *_warnings(runs)])


def _warnings(runs: Sequence[Run]) -> Iterator[str]:
  """Lines on runs whose scores are not of what those of the first are of."""
  first = runs[0]
  for run in runs[1:]:
    known = first.scored_on.keys() & run.scored_on.keys()
    differing = [
      _difference_of(name, first.scored_on[name], run.scored_on[name])
      for name in first.scored_on
      if name in known and first.scored_on[name] != run.scored_on[name]
    ]
    if differing:
      yield messages.printable(
        f"scores of {run.name} do not compare with those of {first.name}: "
        f"{'; '.join(differing)}"
      )


def _difference_of(name: str, first: Any, other: Any) -> str:
  if isinstance(first, dict) or isinstance(other, dict):
    return f"{name} is not the same"  # thousands of pictures
  return f"{name} {other}, not {first}"


def _final(run: Run) -> float | None:
  return run.scores[max(run.scores)] if run.scores else None


def _best(run: Run) -> float | None:
  return max(run.scores.values(), default=None)


def _step_of_best(run: Run) -> str:
  scores = run.scores
  return str(max(scores, key=scores.get)) if scores else _NONE


def _number(value: float | None) -> str:
  return _NONE if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
  return _NONE if value is None else f"{100 * value:.2f}"


def _difference(
  value: float | None, first: float | None, is_first: bool
) -> str:
  """Signed; nothing for the first run, which differs from none."""
  if is_first:
    return ""
  if value is None or first is None:
    return _NONE
  return f"{100 * (value - first):+.2f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
  """Columns of equal width, names to the left and figures to the right."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if index else cell.ljust(width)
      for index, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in lines
  )
