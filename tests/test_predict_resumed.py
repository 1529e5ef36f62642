"""A labelling that was cut off anywhere, and goes on."""

import pathlib

import numpy as np
import pytest

from deeplab_jax import checkpoints, predict
from deeplab_jax.data import bands
from tests import rasters
from tests.random_variables import random_variables
from tests.tiny_segmenter import COLORS, NAMES

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(params=["one class a pixel", "overlapping", "unnamed"])
def command(request, tmp_path):
  """All kinds of results of two rasters, one too large to draw, and others."""
  model = rasters.segmenter().model
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  facts = {"dataset": {"class_names": NAMES, "colors": COLORS}}
  if request.param != "one class a pixel":
    facts["thresholds"] = [0.3, 0.33, 0.36]
  if request.param == "unnamed":
    del facts["dataset"]
  checkpoints.save_model(tmp_path / "model", model, variables, **facts)
  rasters.write(tmp_path / "in/small.tif", rasters.pixels(50, 60))
  rasters.write(tmp_path / "in/large.tif", rasters.pixels(70, 90))
  for name in ("plain.npy", "below/plain.tar.npy"):
    path = tmp_path / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bands.encode(rasters.pixels(40, 50)))
  flags = ["--tile", "65", "--probabilities", "--uncertainty"]
  if request.param == "one class a pixel":
    flags += ["--polygons", "geojson"]
  return [*map(str, (tmp_path / "model", tmp_path / "in")), *flags]


def test_whatever_is_missing_is_made_and_nothing_else(
  command, tmp_path, monkeypatch
):
  out, asked = tmp_path / "out", []
  command += ["--out", str(out), "--resume"]
  assert predict.main(command) == 0
  results = [path for path in out.rglob("*.*") if path.suffix != ".json"]
  assert len(results) > 15

  def note(segmenter, jobs, *args, **options):
    asked.extend(jobs)
    return []

  monkeypatch.setattr(predict, "load", lambda *args, **options: None)
  monkeypatch.setattr(predict, "predict_files", note)
  assert predict.main(command) == 0 and not asked
  for path in results:
    content = path.read_bytes()
    path.unlink()
    assert predict.main(command) == 0
    (job,) = asked
    assert path.stem == pathlib.PurePath(job.name).stem
    asked.clear()
    path.write_bytes(content)
