"""The HTML report of an evaluation of overlapping classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deeplab_jax import visualize
from deeplab_jax.evaluate import page
from deeplab_jax.evaluate.multilabel_results import MultilabelEvaluation
from deeplab_jax.visualize import html

if TYPE_CHECKING:  # Imported by `visualize` when something is plotted.
  from matplotlib.figure import Figure

_SHARES = {
  "mIoU": "miou",
  "mIoU with thresholds of 0.5": "miou_at_half",
  "mean precision": "mean_precision",
  "mean recall": "mean_recall",
}
_HEADINGS = (
  "class",
  "IoU %",
  "precision %",
  "recall %",
  "threshold",
  "there %",
)


def draw_iou(
  content: Mapping[str, Any], other: Mapping[str, Any] | None = None
) -> Figure:
  """The IoU of each class, and that of another `results.json` beside it."""
  names = "this", page.name_of(other) if other else ""
  return visualize.iou_figure(content["iou"], other and other["iou"], names)


def render(
  evaluation: MultilabelEvaluation,
  content: Mapping[str, Any],
  plot: Figure,
  other: Mapping[str, Any] | None = None,
) -> str:
  """The page as one string.

  Args:
    evaluation: one with thresholds that were given.
    content: of its `results.json`.
    plot: of `draw_iou`.
    other: content of the `results.json` to compare with.
  """
  title = f"{evaluation.dataset.name}, {content['settings']['split']}"
  beside = f"; compared with {page.name_of(other)}" if other else ""
  table = html.table([_HEADINGS, *evaluation.rows()])
  return html.page(
    f"{title}: mIoU {page.percent(content['miou'])}",
    f"overlapping classes; {page.subtitle(content)}{beside}",
    {
      "": page.cards(content, other, _SHARES),
      "Classes": html.columns(html.plot(plot), table),
      "Worst images": page.rows(evaluation, evaluation.worst),
      "Best images": page.rows(evaluation, evaluation.best),
    },
  )
