"""The notebooks run from start to end, and are kept without outputs."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_jax import checkpoints
from tests.tiny_segmenter import COLORS, NAMES, make_variables, tiny_model

_FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


def _code(name: str) -> list[str]:
  cells = json.loads((_FOLDER / name).read_text())["cells"]
  return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("*.ipynb")), ids=str)
def test_notebook_holds_no_outputs(path):
  for cell in json.loads(path.read_text())["cells"]:
    assert not cell.get("outputs") and not cell.get("execution_count")


def test_inference_notebook_runs(tmp_path, monkeypatch, capsys):
  model = tiny_model()
  checkpoints.save_model(
    tmp_path / "model",
    model,
    make_variables(model),
    dataset={"name": "x", "class_names": NAMES, "colors": COLORS},
  )
  picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "photo.png")
  monkeypatch.setenv("DEEPLAB_CHECKPOINT", str(tmp_path / "model"))
  monkeypatch.setenv("DEEPLAB_IMAGE", str(tmp_path / "photo.png"))
  monkeypatch.chdir(_FOLDER)
  names = {}
  for number, cell in enumerate(_code("inference.ipynb")):
    exec(compile(cell, f"cell {number}", "exec"), names)
  assert names["labels"].shape == (40, 50)
  assert names["labels_fused"].shape == (40, 50)
  assert set(names["results"]) == {8, 16, 32}
  assert "stride  8:" in capsys.readouterr().out
