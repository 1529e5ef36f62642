"""Plots of the figures of an evaluation; matplotlib without a display.

Each function returns a `Figure`: save it with `write_figure`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deeplab_jax import atomic, messages

if TYPE_CHECKING:
  from matplotlib.figure import Figure
  from matplotlib.legend import Legend

_BLUE, _ORANGE = "#3b6ea5", "#e08214"


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
  """Writes `figure` as PNG."""
  with atomic.replacing(path) as partial:
    figure.savefig(partial, format="png", dpi=110)


def confusion_figure(
  confusion: np.ndarray, class_names: Sequence[str]
) -> Figure:
  """The confusion matrix, each row in shares of the class's true pixels.

  Args:
    confusion: integers (num_classes, num_classes), rows are the truth.
    class_names: one per class.
  """
  labelled = confusion.sum(1, keepdims=True)
  shares = confusion / np.maximum(labelled, 1)
  side = 3 + 0.22 * len(class_names)
  figure = new_figure((side + 1, side), "compressed")
  axes = figure.subplots()
  mesh = axes.imshow(np.where(labelled > 0, shares, np.nan), "Blues", vmin=0)
  ticks = range(len(class_names))
  names = [messages.printable(name) for name in class_names]
  # A name with $ is no formula.
  axes.set_xticks(ticks, names, rotation=90, parse_math=False)
  axes.set_yticks(ticks, names, parse_math=False)
  axes.set(xlabel="predicted", ylabel="true")
  for row, column in zip(*np.nonzero(shares >= 0.05)):
    share = shares[row, column]
    ink = "white" if share > 0.6 else "black"
    text = f"{100 * share:.0f}"
    axes.text(column, row, text, ha="center", va="center", c=ink, size=8)
  figure.colorbar(mesh, label="share of the true class", shrink=0.8)
  return figure


def iou_figure(
  iou: Mapping[str, float | None],
  other: Mapping[str, float | None] | None = None,
  names: tuple[str, str] = ("this run", "other"),
) -> Figure:
  """IoU by class as bars, a second run beside the first if given.

  Args:
    iou: class name -> IoU in 0..1, None where the class does not occur.
    other: the same of another run.
    names: of the two runs.
  """
  runs = [iou] if other is None else [iou, other]
  thickness = 0.8 / len(runs)
  figure = new_figure((7, 1.2 + 0.27 * len(iou)), "constrained")
  axes = figure.subplots()
  for index, (run, color) in enumerate(zip(runs, (_BLUE, _ORANGE))):
    values = [100 * (run.get(name) or 0) for name in iou]
    places = np.arange(len(iou)) + (index - (len(runs) - 1) / 2) * thickness
    bars = axes.barh(places, values, thickness, color=color, label=names[index])
    texts = [_percent(run.get(name)) for name in iou]
    axes.bar_label(bars, texts, padding=3, size=8)
  titles = [messages.printable(name) for name in iou]
  axes.set_yticks(range(len(iou)), titles, parse_math=False)
  axes.margins(y=0.02)
  axes.invert_yaxis()
  axes.set(xlabel="IoU in %", xlim=(0, 108))
  axes.spines[["top", "right"]].set_visible(False)
  if len(runs) > 1:
    legend = figure.legend(loc="outside upper center", ncols=2)
    without_formulas(legend)
  return figure


def trimap_figure(curves: Mapping[str, Sequence[float]]) -> Figure:
  """Mean IoU against the width of the band around void, a line per run.

  Args:
    curves: name of a run -> mean IoU (0..1) in the bands of 1, 2, ... pixels.
  """
  figure = new_figure((6, 4.5), "constrained")
  axes = figure.subplots()
  for (name, curve), color in zip(curves.items(), (_BLUE, _ORANGE)):
    widths = np.arange(1, len(curve) + 1)
    axes.plot(widths, 100 * np.asarray(curve), "o-", c=color, ms=3, label=name)
  axes.set(xlabel="width of the band in pixels", ylabel="mean IoU in %")
  axes.grid(alpha=0.3)
  if len(curves) > 1:
    without_formulas(axes.legend(loc="lower right"))
  return figure


def reliability_figure(curve: Mapping[str, np.ndarray]) -> Figure:
  """Accuracy against confidence, above the share of pixels in each bin.

  Args:
    curve: what `metrics.reliability` returns.
  """
  figure = new_figure((6, 4.5), "constrained")
  upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
  bins = len(curve["pixels"])
  middles = (np.arange(bins) + 0.5) / bins
  upper.plot([0, 1], [0, 1], "--", c="grey", lw=1, label="calibrated")
  upper.plot(curve["confidence"], curve["accuracy"], "o-", c=_BLUE, ms=4)
  upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
  upper.legend(loc="upper left")
  shares = curve["pixels"] / max(curve["pixels"].sum(), 1)
  lower.bar(middles, shares, 0.9 / bins, color=_BLUE)
  lower.set(xlabel="confidence", ylabel="share of pixels")
  return figure


def without_formulas(legend: Legend) -> None:
  """Shows names as they are: one with $ is no formula."""
  for text in legend.get_texts():
    text.set_parse_math(False)


def _percent(value):
  return "absent" if value is None else f"{100 * value:.1f}"


def new_figure(size: tuple[float, float], layout: str) -> Figure:
  """An empty figure of `size` in inches that no window belongs to."""
  # Imported when something is plotted: matplotlib takes a third of the time in
  # which a model is loaded, which needs no plots.
  from matplotlib.figure import Figure

  return Figure(size, layout=layout)
