"""The HTML report of an evaluation, optionally beside another one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deeplab_jax import metrics, visualize
from deeplab_jax.evaluate.results import Evaluation, ScoredPicture
from deeplab_jax.visualize import html

if TYPE_CHECKING:  # Imported by `visualize` when something is plotted.
  from matplotlib.figure import Figure

_SHARES = {
  "mIoU": "miou",
  "pixel accuracy": "pixel_accuracy",
  "mean accuracy": "mean_accuracy",
  "frequency weighted accuracy": "frequency_weighted_accuracy",
  "mean Boundary IoU": "boundary_miou",
  "calibration error": "calibration_error",
}


def draw_plots(
  evaluation: Evaluation, other: Mapping[str, Any] | None = None
) -> dict[str, Figure]:
  """The plots of a detailed evaluation: "iou", "confusion", "reliability" and,
  if the split has void pixels, "trimap".

  Args:
    evaluation: what was found.
    other: content of the `results.json` of an evaluation to compare with.
  """
  content = evaluation.to_dict()
  name = name_of(other) if other else ""
  plots = {
    "iou": visualize.iou_figure(
      content["iou"], other and other["iou"], ("this", name)
    ),
    "confusion": visualize.confusion_figure(
      evaluation.confusion, evaluation.class_names
    ),
    "reliability": visualize.reliability_figure(
      metrics.reliability(evaluation.detail.calibration)
    ),
  }
  curves = {"this": _numbers(content["trimap_miou"])}
  if other:
    curves[name] = _numbers(other["trimap_miou"])
  if evaluation.detail.trimap.any():
    plots["trimap"] = visualize.trimap_figure(curves)
  return plots


def render(
  evaluation: Evaluation,
  content: Mapping[str, Any],
  plots: Mapping[str, Figure],
  other: Mapping[str, Any] | None = None,
) -> str:
  """The page as one string.

  Args:
    evaluation: a detailed one.
    content: of its `results.json`.
    plots: of `draw_plots`.
    other: content of the `results.json` to compare with.
  """
  tags = {name: html.plot(figure) for name, figure in plots.items()}
  curves = [tags[name] for name in ("trimap", "reliability") if name in tags]
  title = f"{evaluation.dataset.name}, {content['settings']['split']}"
  return html.page(
    f"{title}: mIoU {percent(content['miou'])}",
    subtitle(content) + (f"; compared with {name_of(other)}" if other else ""),
    {
      "": cards(content, other, _SHARES),
      "Classes": html.columns(tags["iou"], tags["confusion"]),
      "Boundaries and confidence": html.columns(*curves),
      "Worst images": rows(evaluation, evaluation.detail.worst),
      "Best images": rows(evaluation, evaluation.detail.best),
    },
  )


def subtitle(content: Mapping[str, Any]) -> str:
  """What was evaluated, how and where."""
  settings = content["settings"]
  scales = ", ".join(f"{scale:g}" for scale in settings["scales"])
  flip = " and mirrored" if settings["flip"] else ""
  absent = content["absent_classes"]
  missing = f" (absent: {', '.join(absent)})" if absent else ""
  return (
    f"{name_of(content)}, scales {scales}{flip}; {content['images']} images; "
    f"means over {content['classes_in_mean']} of {len(content['class_names'])} "
    f"classes{missing}; {settings['devices']} x {settings['device']}"
  )


def name_of(content: Mapping[str, Any]) -> str:
  """What an evaluation is called beside another."""
  settings = content["settings"]
  return f"{settings['backbone']}, output stride {settings['output_stride']}"


def cards(
  content: Mapping[str, Any],
  other: Mapping[str, Any] | None,
  shares: Mapping[str, str],
) -> str:
  """The figures of the split by title, the other's beside them."""
  figures = {}
  for title, name in shares.items():
    there = other and name in other
    beside = f" (other {percent(other[name])})" if there else ""
    figures[title + beside] = percent(content[name])
  speed = content["images"] / content["seconds"]
  figures["images a second"] = f"{speed:.1f}"
  figures["peak memory"] = f"{content['peak_memory_bytes'] / 1e9:.2f} GB"
  return html.cards(figures)


def rows(evaluation: Any, examples: list[ScoredPicture]) -> str:
  """Image, truth, prediction and errors of each example."""
  colors = evaluation.dataset.colors
  parts = []
  for example in examples:
    labels, predictions = example.labels, example.predictions
    cells = {
      "image": html.photo(example.image),
      "truth": html.drawing(visualize.colorize(labels, colors)),
      "prediction": html.drawing(visualize.colorize(predictions, colors)),
      "wrong pixels in red, void in white": html.drawing(
        visualize.error_map(labels, predictions)
      ),
    }
    heading = f"{example.name}: mIoU {percent(example.miou)}"
    parts.append(html.row(heading, cells))
  legend = html.legend(dict(zip(evaluation.class_names, colors)))
  return legend + "".join(parts)


def percent(value: float | None) -> str:
  """A share of 0..1 as text."""
  return "none" if value is None else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def _numbers(values: list[float | None]) -> list[float]:
  return [math.nan if value is None else value for value in values]
