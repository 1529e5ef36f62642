"""Runs side by side: their names, table and picture."""

import json

import pytest
from PIL import Image

from deeplab_jax import compare


def _run(folder, losses, scores, score="eval/miou"):
  """A workdir with the records of a run: step -> value."""
  rows = [
    {"step": s, "train/loss": x + 1, "train/weight_decay": 1.0}
    for s, x in losses.items()
  ]
  rows += [{"step": s, score: x} for s, x in scores.items()]
  rows.sort(key=lambda row: row["step"])
  folder.mkdir(parents=True)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "metrics.jsonl").write_text(lines)
  return folder


@pytest.fixture
def runs(tmp_path):
  return [
    _run(tmp_path / "a/voc", {50: 1.0, 100: 0.5}, {50: 0.5, 100: 0.4}),
    _run(tmp_path / "b/voc", {80: 0.25}, {80: 0.4125}),
    _run(tmp_path / "begun", {20: 2.0}, {}),
  ]


def test_table_has_signed_differences_from_the_first(runs, tmp_path):
  text = compare.compare(runs, tmp_path / "picture.png")
  heading, first, second, third = text.splitlines()
  expected = "run step loss final mIoU % difference best % at step difference"
  assert " ".join(heading.split()) == expected
  assert " ".join(first.split()) == "a/voc 100 0.500 40.00 50.00 50"
  expected = "b/voc 80 0.250 41.25 +1.25 41.25 80 -8.75"
  assert " ".join(second.split()) == expected
  assert " ".join(third.split()) == "begun 20 2.000 - - - - -"
  with Image.open(tmp_path / "picture.png") as picture:
    assert min(picture.size) > 300


def test_scores_of_different_pictures_or_settings_are_said(runs, tmp_path):
  """What a workdir does not tell is not taken for a difference."""
  data = {
    "name": "folder",
    "class_names": ["a", "b"],
    "eval": {"split": "val", "images": 2, "examples": {"x": "1", "y": "2"}},
  }
  settings = {"eval": {"scales": [1.0], "flip": False}, "lr": 1.0}
  for run in runs[:2]:
    (run / "data.json").write_text(json.dumps(data))
    (run / "config.json").write_text(json.dumps(settings | {"lr": 2.0}))
  assert len(compare.compare(runs, tmp_path / "1.png").splitlines()) == 4
  data["eval"] |= {"images": 3, "examples": {"x": "1", "y": "2", "z": "3"}}
  settings["eval"]["flip"] = True
  (runs[1] / "data.json").write_text(json.dumps(data))
  (runs[1] / "config.json").write_text(json.dumps(settings))
  text = compare.compare(runs, tmp_path / "2.png")
  assert text.splitlines()[4:] == [
    "scores of b/voc do not compare with those of a/voc: pictures 3, not 2; "
    "their content is not the same; eval.flip True, not False"
  ]
  (runs[1] / "data.json").write_text("{")
  with pytest.raises(ValueError, match=r"data\.json is damaged"):
    compare.compare(runs, tmp_path / "3.png")


def test_names_are_the_shortest_ends_that_differ(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  paths = ["x/a/run", "y/a/run", "x/b/run", "./other/", "x"]
  names = compare.short_names(paths)
  assert names == ["x/a/run", "y/a/run", "b/run", "other", "x"]
  nested = compare.short_names(["/run", "/a/run"])
  assert nested == ["/run", "a/run"]


def test_what_cannot_be_compared_is_said_in_one_line(runs, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  classified = _run(tmp_path / "imagenet", {5: 1.0}, {5: 0.5}, "eval/top1")
  for wrong, message in (
    (tmp_path / "empty", "it has no metrics.jsonl"),
    (tmp_path / "nowhere", "it has no metrics.jsonl"),
    (classified, "was trained for top-1 accuracy, the first for mIoU"),
    (f"{runs[0]}/../voc", "is given twice"),
  ):
    out = tmp_path / "wrong.png"
    status = compare.main([str(runs[0]), str(wrong), "--out", str(out)])
    said = capsys.readouterr().err
    assert status == 1 and not out.exists()
    assert said.startswith("error: RUN ") and message in said
    assert said.count("\n") == 1


def test_command_prints_the_table_and_where_the_curves_are(runs, capsys):
  out = runs[0] / "curves.png"
  assert compare.main([*map(str, runs), "--out", str(out)]) == 0
  said = capsys.readouterr().out
  assert "b/voc" in said and said.endswith(f"curves: {out}\n")
  assert out.is_file()
