"""The curves of training runs: what metrics.jsonl holds, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deeplab_jax import messages
from deeplab_jax.visualize.plots import new_figure, without_formulas

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_SMOOTHED = 0.05  # of a run's steps, over which its loss is averaged
_DASHES = ("-", "--", ":", "-.")  # of ten runs each, in ten colours

Rows = Sequence[Mapping[str, float | None]]


def curves_figure(runs: Mapping[str, Rows], score: str, title: str) -> Figure:
  """Loss, held-out score and learning rate by step, a colour for each run.

  The loss, without weight decay, is shown as it is and, darker, as the mean
  over the last twentieth of a run's steps.

  Args:
    runs: name -> rows of its metrics.jsonl: {"step", "train/loss", ...}.
    score: the figure of the evaluations to show, such as "eval/miou".
    title: what readers call it.
  """
  figure = new_figure((12, 3.8), "constrained")
  left, middle, right = figure.subplots(1, 3, sharex=True)
  for index, (name, rows) in enumerate(runs.items()):
    style = {"c": f"C{index % 10}", "ls": _DASHES[index // 10 % len(_DASHES)]}
    steps, losses = data_losses(rows)
    left.plot(steps, losses, alpha=0.25, lw=1, **style)
    left.plot(steps, smoothed(steps, losses), **style)
    shares = 100 * column(rows, score)[1]
    label = messages.printable(name)
    label = f" {label}" if label.startswith("_") else label  # else left out
    middle.plot(column(rows, score)[0], shares, "o", ms=4, label=label, **style)
    right.plot(*column(rows, "train/learning_rate"), **style)
  _log_scale_where_it_helps(left)
  left.set(ylabel="loss in training")
  middle.set(ylabel=f"held-out {title} in %")
  right.set(ylabel="learning rate")
  for axes in (left, middle, right):
    axes.set(xlabel="step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  if len(runs) > 1:
    columns = min(len(runs), 5)
    without_formulas(figure.legend(loc="outside upper center", ncols=columns))
  return figure


def column(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
  """The steps at which `name` is on record, and its values there."""
  points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
  steps, values = np.array(points, float).reshape(-1, 2).T
  return steps, values


def data_losses(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
  """Steps, and the loss at each, whatever its name, without weight decay."""
  steps, losses = column(rows, "train/loss")
  decays = dict(zip(*column(rows, "train/weight_decay")))
  return steps, losses - [decays.get(step, 0.0) for step in steps]


def smoothed(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
  """At each step the mean of the values of the last twentieth of all steps."""
  window = _SMOOTHED * np.ptp(steps) if len(steps) else 0.0
  first = np.searchsorted(steps, steps - window)
  sums = np.concatenate([[0.0], np.cumsum(values)])
  after = np.arange(1, len(values) + 1)
  return (sums[after] - sums[first]) / (after - first)


def _log_scale_where_it_helps(axes: Axes) -> None:
  """Of losses that fall to less than a quarter, with ticks at 1, 2, 5, 10."""
  values = np.concatenate([line.get_ydata() for line in axes.lines] or [[]])
  if not len(values) or values.min() <= 0 or np.ptp(values) < 3 * values.min():
    return
  from matplotlib import ticker

  axes.set_yscale("log")
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
  axes.yaxis.set_minor_formatter(ticker.NullFormatter())
