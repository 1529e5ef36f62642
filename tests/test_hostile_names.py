"""Names of classes and files that steer terminals, rich and matplotlib."""

import json

import numpy as np
import pytest
import rich.console
import rich.progress

from deeplab_jax import metrics
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.evaluate import page
from deeplab_jax.evaluate.report import write
from deeplab_jax.evaluate.results import Detail, Evaluation, ScoredPicture
from deeplab_jax.train.progress import Progress

_NAMES = (
  "[/red]",
  "$\\foo$",
  "$x",
  "\x1b[2J\x1b]0;x\x07",
  "a\nb",
  "_hidden",
  "<b>&",
  "\udcff",
)


def _evaluation() -> Evaluation:
  """Two images, a class in each pixel, every class wrong somewhere."""
  count = len(_NAMES)
  labels = np.arange(2 * count, dtype=np.uint8).reshape(4, -1) % count
  labels[0, 0] = 255
  predictions = (labels + (labels > 3)) % count
  confusion = metrics.confusion_matrix_numpy(labels, predictions, count)
  image = np.zeros((*labels.shape, 3), np.uint8)
  examples = [
    ScoredPicture(name, image, labels, predictions, 0.5) for name in _NAMES[:4]
  ]
  calibration = np.ones((2, 1500), np.int64)
  maps = labels, predictions, count
  return Evaluation(
    dataset=DatasetInfo(
      *("[/x]$\\y$", _NAMES, ((1, 2, 3),) * count, 255, {}, "train", "val"),
      *("", ""),
    ),
    settings={
      "split": "[/val]",
      "backbone": "$\\z$",
      "output_stride": 16,
      "scales": [1.0],
      "flip": False,
      "devices": 1,
      "device": "cpu",
    },
    confusion=confusion,
    num_images=4,
    seconds=1.0,
    examples=examples,
    detail=Detail(
      trimap=metrics.trimap_counts(*maps),
      borders=metrics.trimap_counts(*maps, bands=metrics.border_bands),
      boundary=metrics.boundary_counts(*maps),
      calibration=calibration,
      image_mious=dict.fromkeys(_NAMES[:4], 0.5),
      worst=examples,
      best=examples,
    ),
  )


def test_the_table_shows_names_as_they_are(capsys):
  rich.console.Console(width=100).print(_evaluation().table())
  shown = capsys.readouterr().out
  for name in ("[/red]", "$\\foo$", r"\x1b[2J", r"a\nb", "[/x]", "[/val]"):
    assert name in shown
  assert "\x1b" not in shown and "\udcff" not in shown


def test_the_report_is_written_whatever_the_names(tmp_path):
  evaluation = _evaluation()
  other = json.loads(json.dumps(evaluation.to_dict()))
  write(evaluation, tmp_path, other)
  written = sorted(path.name for path in tmp_path.iterdir())
  assert written == [
    *("confusion.png", "examples.png", "iou.png", "reliability.png"),
    *("report.html", "results.json", "trimap.png"),
  ]
  content = json.loads((tmp_path / "results.json").read_text())
  assert tuple(content["class_names"]) == _NAMES
  assert "&lt;b&gt;&amp;" in (tmp_path / "report.html").read_text("utf-8")
  figure = page.draw_plots(evaluation, other)["confusion"]
  ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
  assert ticks[:4] == ["[/red]", "$\\foo$", "$x", r"\x1b[2J\x1b]0;x\x07"]


@pytest.mark.parametrize("name", _NAMES)
def test_what_a_run_says_shows_names_as_they_are(capsys, name):
  Progress(10, 0).say(f"images {name}")
  shown = capsys.readouterr().out
  assert shown.isascii() and "\x1b" not in shown
  assert shown.count("\n") == 1 + name.count("\n")
