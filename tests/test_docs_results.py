"""The command that makes docs/results, on small made-up run folders."""

import json

import pytest
from PIL import Image

from deeplab_jax.models import DeepLab, model_to_dict
from deeplab_jax.summary import multiply_adds
from docs import make_results

_MODEL = DeepLab(2, "mobilenet_v2", width_multiplier=0.25, atrous_rates=())


def _write(folder, miou, stride=16, scales=(1.0,), flip=False):
  content = {
    "settings": {
      "output_stride": stride,
      "crop_size": [33, 49],
      "scales": list(scales),
      "flip": flip,
    },
    "class_names": ["ground", "tree"],
    "iou": {"ground": miou, "tree": None},
    "miou": miou,
    "boundary_miou": 0.25,
    "pixel_accuracy": 0.75,
    "border_miou": [0.1, 0.2, 0.3, 0.4, 0.5],
  }
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps(content))


def _run(folder, miou):
  _write(folder / "evaluation", miou)
  rows = [{"step": 10 * i, "train/cross_entropy": 1 / i} for i in (1, 2, 3)]
  rows.append({"step": 30, "eval/miou": miou})
  lines = [json.dumps(row) + "\n" for row in rows]
  (folder / "metrics.jsonl").write_text("".join(lines))
  model = {"format": 1, "model": model_to_dict(_MODEL)}
  (folder / "model.json").write_text(json.dumps(model))
  return folder


def test_tables_and_plots_of_runs(tmp_path, capsys):
  runs = [_run(tmp_path / f"full_{seed}", 0.4 + seed / 10) for seed in (0, 1)]
  runs.append(_run(tmp_path / "single", 0.6))
  _write(runs[0] / "more/evaluation", 0.7, 8, (0.5, 1.0), flip=True)
  out = tmp_path / "out"
  make_results.main([*map(str, runs), "--out", str(out)])
  text = (out / "tables.md").read_text()
  assert text in capsys.readouterr().out
  lines = text.splitlines()
  costs = [multiply_adds(_MODEL, (33, 49)).total]
  dense = _MODEL.clone(output_stride=8)
  sizes = ((17, 25), (33, 49))
  costs.append(2 * sum(multiply_adds(dense, size).total for size in sizes))
  rest = "25.00 ± 0.00 | 75.00 ± 0.00"
  assert lines[2:5] == [
    "| full | 16 | 1 | 2 | 45.00 ± 5.00 | 10.00 ± 0.00 | 50.00 ± 0.00 | "
    f"{rest} | {costs[0] / 1e9:.2f} |",
    "| full | 8 | 0.5, 1 + flip | 1 | 70.00 | 10.00 | 50.00 | 25.00 | 75.00 | "
    f"{costs[1] / 1e9:.2f} |",
    "| single | 16 | 1 | 1 | 60.00 | 10.00 | 50.00 | 25.00 | 75.00 | "
    f"{costs[0] / 1e9:.2f} |",
  ]
  assert lines[-2:] == [
    "| ground | 45.00 ± 5.00 | 60.00 |",
    "| tree | absent | absent |",
  ]
  for name in ("trimap", "curves"):
    with Image.open(out / f"{name}.png") as picture:
      assert min(picture.size) > 400
  for run in runs:
    copy = out / f"{run.name}.jsonl"
    assert copy.read_text() == (run / "metrics.jsonl").read_text()


def test_a_run_without_an_evaluation_is_refused(tmp_path):
  with pytest.raises(ValueError, match="evaluate it with --mode eval"):
    make_results.main([str(tmp_path), "--out", str(tmp_path / "out")])
