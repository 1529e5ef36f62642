"""Tables and plots of trained runs, from their folders.

  python -m docs.make_results RUN... --out docs/results

Runs are named VARIANT_SEED; those of a variant are shown as a mean and, behind
+-, half the range. Each holds `config.json`, `metrics.jsonl`, `model.json` and
what `--mode eval` wrote: `evaluation/`, or `*/evaluation/` for other settings.
The folder --out gets `tables.md`, `trimap.png`, `curves.png`, RUN.jsonl.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import markdown
from deeplab_jax.models import model_from_dict
from deeplab_jax.summary import evaluation_passes
from deeplab_jax.train import records

_HEADINGS = (
  "run",
  "output stride",
  "scales",
  "seeds",
  "mIoU %",
  "within 1 px of borders",
  "within 5 px",
  "Boundary IoU %",
  "pixels right %",
  "multiply-adds G",
)
_WINDOW = 100  # steps that the curve of the loss averages


@dataclasses.dataclass(frozen=True)
class Found:
  """One evaluation of one run.

  Attributes:
    run: its folder.
    content: of `results.json`.
  """

  run: pathlib.Path
  content: dict[str, Any]

  @property
  def variant(self) -> str:
    """The name of the run without the seed."""
    name, _, seed = self.run.name.rpartition("_")
    return name if seed.isdigit() and name else self.run.name

  @property
  def setting(self) -> tuple[int, str]:
    """Output stride, and scales with or without mirror images."""
    settings = self.content["settings"]
    scales = ", ".join(f"{scale:g}" for scale in settings["scales"])
    return settings["output_stride"], scales + " + flip" * settings["flip"]


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes what the command line asks for, and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  options = parser.parse_args(arguments)
  found = [one for run in options.runs for one in _evaluations(run)]
  options.out.mkdir(parents=True, exist_ok=True)
  text = "\n\n".join([_summary(found), _classes(found)]) + "\n"
  (options.out / "tables.md").write_text(text)
  _trimap(found).savefig(options.out / "trimap.png", dpi=110)
  _curves(options.runs).savefig(options.out / "curves.png", dpi=110)
  for run in options.runs:
    shutil.copyfile(run / "metrics.jsonl", options.out / f"{run.name}.jsonl")
  print(text)


def _evaluations(run: pathlib.Path) -> list[Found]:
  """The evaluation of a run, then those with other settings.

  Raises:
    ValueError: there is none.
  """
  name = "evaluation/results.json"
  paths = [path for path in (run / name,) if path.is_file()]
  paths += sorted(run.glob(f"*/{name}"))
  if not paths:
    raise ValueError(f"no {name} in {run}: evaluate it with --mode eval")
  return [Found(run, json.loads(path.read_text())) for path in paths]


def _grouped(found: Iterable[Found]) -> dict[tuple, list[Found]]:
  """Evaluations that differ by the seed alone: (variant, *setting) -> them."""
  groups = collections.defaultdict(list)
  for one in found:
    groups[one.variant, *one.setting].append(one)
  return groups


def _summary(found: list[Found]) -> str:
  rows = []
  for (variant, stride, scales), group in _grouped(found).items():
    values = {
      "miou": [one.content["miou"] for one in group],
      "1": [one.content["border_miou"][0] for one in group],
      "5": [one.content["border_miou"][4] for one in group],
      "boundary": [one.content["boundary_miou"] for one in group],
      "right": [one.content["pixel_accuracy"] for one in group],
    }
    figures = [_spread(figure) for figure in values.values()]
    cost = f"{_multiply_adds(group[0]) / 1e9:.2f}"
    seeds = str(len(group))
    rows.append([variant, str(stride), scales, seeds, *figures, cost])
  return markdown(_HEADINGS, rows)


def _multiply_adds(one: Found) -> int:
  """Of one image of the evaluation, all its passes."""
  settings = one.content["settings"]
  stored = json.loads((one.run / "model.json").read_text())["model"]
  passes = evaluation_passes(
    model_from_dict(stored | {"output_stride": settings["output_stride"]}),
    tuple(settings["crop_size"]),
    scales=settings["scales"],
    flip=settings["flip"],
  )
  return sum(one_pass.total for one_pass in passes)


def _spread(values: Sequence[float]) -> str:
  """Mean and half the range, in percent."""
  mean = f"{100 * np.mean(values):.2f}"
  half = 50 * (max(values) - min(values))
  return mean if len(values) == 1 else f"{mean} ± {half:.2f}"


def _classes(found: list[Found]) -> str:
  """IoU by class of every variant, at its first setting."""
  columns = _first_settings(found)
  rows = [
    [
      name,
      *(
        _spread([one.content["iou"][name] for one in group])
        if all(one.content["iou"][name] is not None for one in group)
        else "absent"
        for group in columns.values()
      ),
    ]
    for name in found[0].content["class_names"]
  ]
  return markdown(("IoU % of class", *columns), rows)


def _first_settings(found: list[Found]) -> dict[str, list[Found]]:
  """Variant -> its evaluations at the setting met first."""
  columns = {}
  for (variant, *_), group in _grouped(found).items():
    columns.setdefault(variant, group)
  return columns


def _trimap(found: list[Found]) -> Figure:
  """Mean IoU by the width of the band around borders, seeds' range shaded."""
  figure = Figure((6.5, 4.5), layout="constrained")
  axes = figure.subplots()
  for variant, group in _first_settings(found).items():
    curves = 100 * np.array([one.content["border_miou"] for one in group])
    widths = np.arange(1, curves.shape[1] + 1)
    (line,) = axes.plot(widths, curves.mean(0), "o-", ms=3, label=variant)
    bounds = curves.min(0), curves.max(0)
    axes.fill_between(widths, *bounds, alpha=0.2, color=line.get_color())
  axes.set(xlabel="width of the band in pixels", ylabel="mean IoU in %")
  axes.set(title="within a distance of the borders between labels")
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right")
  return figure


def _curves(runs: Sequence[pathlib.Path]) -> Figure:
  """Loss and held-out mIoU of every run against the step."""
  figure = Figure((9, 4), layout="constrained")
  left, right = figure.subplots(1, 2)
  for index, run in enumerate(runs):
    rows = records.read(run / "metrics.jsonl")
    style = {"color": f"C{index % 10}", "label": run.name}
    steps, loss = _column(rows, "train/cross_entropy")
    left.plot(steps, _smoothed(steps, loss), **style)
    right.plot(*_column(rows, "eval/miou", 100), "o-", ms=4, **style)
  left.set(xlabel="step", ylabel="cross-entropy in training", yscale="log")
  right.set(xlabel="step", ylabel="held-out mIoU in %")
  for axes in (left, right):
    axes.grid(alpha=0.3)
  right.legend(fontsize=7)
  return figure


def _column(rows, name, factor=1.0) -> tuple[np.ndarray, np.ndarray]:
  points = [(row["step"], factor * row[name]) for row in rows if name in row]
  steps, values = np.array(points).reshape(-1, 2).T
  return steps, values


def _smoothed(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
  """The mean over the last `_WINDOW` steps."""
  return np.array(
    [values[(steps > s - _WINDOW) & (steps <= s)].mean() for s in steps]
  )


if __name__ == "__main__":
  main()
