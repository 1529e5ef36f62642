"""The notebooks run from start to end, and are kept without outputs."""

import json
import pathlib
import runpy
import socket

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import checkpoints
from tests.tiny_segmenter import COLORS, NAMES, make_variables, tiny_model

_FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


def _run(name: str, monkeypatch, until: str = "", **settings) -> dict:
  """Runs the code cells in the notebooks' folder; returns their variables.

  Args:
    name: of the notebook.
    monkeypatch: of the test.
    until: what the first cell begins with that is not run; "" runs all.
    **settings: variables of the environment, less their prefix.
  """
  for variable, value in settings.items():
    monkeypatch.setenv(f"DEEPLAB_{variable}", str(value))
  monkeypatch.chdir(_FOLDER)
  variables = {}
  cells = json.loads((_FOLDER / name).read_text())["cells"]
  for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      source = "".join(cell["source"])
      if until and source.startswith(until):
        return variables
      exec(compile(source, f"{name} cell {number}", "exec"), variables)
  assert not until, f"{name} has no cell that begins with {until!r}"
  return variables


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("*.ipynb")), ids=str)
def test_notebook_holds_no_outputs(path):
  for cell in json.loads(path.read_text())["cells"]:
    assert not cell.get("outputs") and not cell.get("execution_count")


def test_the_street_is_what_its_program_draws():
  path = _FOLDER / "draw_street.py"
  drawn = runpy.run_path(str(path))["draw"]()
  stored = np.asarray(Image.open(_FOLDER / "street.jpg")).astype(int)
  assert np.abs(stored - drawn).mean() < 3  # of 255: what JPEG leaves out


@pytest.mark.parametrize(
  "until", ["def label_and_time", pytest.param("", marks=pytest.mark.slow)]
)
def test_inference_notebook_runs_offline_on_what_ships(
  monkeypatch, capsys, until
):
  """The network sees a street: sky above, road below, houses left and right.

  The cells after those, of other strides and scales, take the test below to a
  tiny network.
  """
  for name in ("CHECKPOINT", "IMAGE"):
    monkeypatch.delenv(f"DEEPLAB_{name}", raising=False)

  def refuse(*_):
    raise AssertionError("the notebook asks the network")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  names = _run("inference.ipynb", monkeypatch, until)
  classes = names["segmenter"].class_names
  seen = {
    place: classes[names["labels"][place]]
    for place in ((10, 240), (330, 150), (60, 60), (115, 125))
  }
  assert list(seen.values()) == ["Sky", "Road", "Building", "Tree"]
  assert ("stride  8:" in capsys.readouterr().out) == (not until)


def test_inference_notebook_takes_a_model_and_an_image(
  tiny_backbone, tmp_path, monkeypatch
):
  model = tiny_model()
  checkpoints.save_model(
    tmp_path / "model",
    model,
    make_variables(model),
    dataset={"name": "x", "class_names": NAMES, "colors": COLORS},
  )
  picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "photo.png")
  names = _run(
    "inference.ipynb",
    monkeypatch,
    CHECKPOINT=tmp_path / "model",
    IMAGE=tmp_path / "photo.png",
  )
  assert names["labels"].shape == (40, 50)
  assert names["labels_fused"].shape == (40, 50)
  assert set(names["results"]) == {8, 16}


def test_training_notebook_runs(tmp_path, monkeypatch, capsys):
  names = _run(
    "train_your_own.ipynb",
    monkeypatch,
    FOLDER=tmp_path,
    CONFIG=_FOLDER.parent / "tests/programs/tiny_config.py",
    SCENES=20,
    STEPS=3,
    OVERFIT_STEPS=0,  # tests/test_doctor*.py make these: they compile at length
  )
  plt.close("all")
  written = {path.name for path in (tmp_path / "run").iterdir()}
  assert {"checkpoints", "evaluation", "metrics.jsonl"} <= written
  assert [entry["step"] for entry in names["logged"]] == [1, 2, 3]
  survey = names["checkup"].survey
  assert survey.size_of("train") + survey.size_of("val") == 20
  assert names["evaluation"].num_images == survey.size_of("val") > 0
  assert names["labels"].shape == names["truth"].shape
  assert "this can be trained on" in capsys.readouterr().out
