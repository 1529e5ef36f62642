"""The export command: files, certificates, and mistakes in one line each."""

import hashlib
import json
import sys

import numpy as np
import pytest

from deeplab_jax import checkpoints
from deeplab_jax.export import as_onnx, certificate, exporting, speed
from deeplab_jax.export.__main__ import main
from deeplab_jax.models import Classifier
from tests import exported
from tests.random_variables import random_variables
from tests.tiny_segmenter import COLORS, NAMES, tiny_model

exported.onnx_packages()
pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(scope="module")
def folder(tiny_backbone, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "model"
  model = tiny_model(decoder=("conv2",))
  variables = exported.make_variables(model)
  variables = exported.with_large_logits(model, variables)
  dataset = {"class_names": NAMES, "colors": COLORS}
  facts = {"license": "Apache-2.0", "source": "a test", "dataset": dataset}
  checkpoints.save_model(path, model, variables, **facts)
  return path


def _run(*arguments) -> int:
  return main([str(argument) for argument in arguments])


# That of a StableHLO file is in test_multilabel.py, too.
@pytest.mark.parametrize(
  "format", ["onnx", pytest.param("stablehlo", marks=pytest.mark.slow)]
)
def test_a_file_and_its_certificate(
  folder, tmp_path, capsys, monkeypatch, format
):
  monkeypatch.setattr(speed, "_SIZE", (97, 131))
  out = tmp_path / "new" / f"net.{format}"
  assert _run(folder, "--format", format, "--out", out) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("certificate passed: logits within ")
  assert "labels differ from Segmenter's, 0 of them clear" in lines[0]
  assert "speed: " in lines[1] and " ms in deeplab_jax, on " in lines[1]
  assert lines[2].startswith(f"{out}: ")
  facts = json.loads(
    (tmp_path / "new" / f"net.{format}.certificate.json").read_text()
  )
  assert facts["passed"] and facts["worst_logit_difference"] < 2e-5
  assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
  assert facts["class_names"] == list(NAMES)
  assert facts["license"] == "Apache-2.0"
  assert facts["versions"][facts["runtime"]]
  pictures = facts["pictures"]
  assert {picture["kind"] for picture in pictures} == {"scene", "noise"}
  sizes = {tuple(picture["size"]) for picture in pictures}
  assert len(sizes) == 3
  assert min(map(max, sizes)) < 16 and {p["batch"] for p in pictures} == {1, 2}
  assert sum(p["pixels"] for p in pictures) == facts["pixels"]
  assert sorted(p.name for p in out.parent.iterdir()) == [
    out.name,
    f"{out.name}.certificate.json",
  ]


def test_a_broken_file_fails_and_is_kept_aside(
  folder, tmp_path, capsys, monkeypatch
):
  def broken(job, make=as_onnx.make):
    import onnx

    file = onnx.load_from_string(make(job))
    kernel = next(a for a in file.graph.initializer if len(a.dims) == 4)
    array = onnx.numpy_helper.to_array(kernel) * np.float32(1.001)
    kernel.raw_data = array.tobytes()
    return file.SerializeToString()

  found = exporting.find_format("onnx")
  changed = {"onnx": type(found)(**{**vars(found), "make": broken})}
  monkeypatch.setattr("deeplab_jax.export.formats.FORMATS", changed)
  out, size = tmp_path / "net.onnx", "33x47"
  assert _run(folder, "--format", "onnx", "--out", out, "--size", size) == 1
  printed = capsys.readouterr()
  assert printed.out.startswith("certificate FAILED: logits within ")
  assert printed.err.startswith("error: the file computes something else than")
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "net.onnx.failed",
    "net.onnx.failed.certificate.json",
  ]
  facts = json.loads(
    (tmp_path / "net.onnx.failed.certificate.json").read_text()
  )
  assert not facts["passed"]


@pytest.fixture(scope="module")
def sound(tiny_backbone):
  """A job of one size, and its file."""
  model = tiny_model(decoder=("conv2",))
  variables = exported.with_large_logits(model, exported.make_variables(model))
  job = exported.make_job(model, variables, sizes=((33, 47),))
  return job, exported.open_onnx(job)


def test_no_number_fails(sound):
  job, opened = sound
  nan = opened._replace(behind=lambda images: opened.behind(images) * np.nan)
  assert not certificate.measure(job, nan)["passed"]


def test_one_clear_label_fails(sound):
  job, opened = sound

  def run(images):
    labels = opened.run(images).copy()
    labels[0, 0, 0] = (labels[0, 0, 0] + 1) % 3
    return labels

  facts = certificate.measure(job, opened._replace(run=run))
  assert not facts["passed"] and facts["labels_differing"] > 0
  assert facts["worst_logit_difference"] < 2e-5


_MISTAKES = {
  "format": (
    ["--format", "onx"],
    "format must be one of onnx, stablehlo, tflite, web; got onx",
  ),
  "output": (
    ["--output", "masks"],
    "output must be one of labels, probabilities",
  ),
  "stride": (["--output_stride", "12"], "output_stride must be 8, 16 or 32"),
  "scales": (["--scales", "0.3"], "scales must be positive multiples of 1/4"),
  "views": (
    ["--output", "logits", "--flip"],
    "output logits is of one view; several scales or mirror images have",
  ),
  "zero": (["--size", "0x5"], "size must be a positive HxW, got (0, 5)"),
  "large": (
    ["--size", "3000x3000"],
    "size 3000x3000 has more than 4198401 pixels, which are labelled in",
  ),
  "two sizes": (
    ["--size", "33x33", "--size", "65x65"],
    "a file of format onnx has one size or any, got 2 sizes; format stablehlo",
  ),
}


@pytest.mark.parametrize("name", _MISTAKES)
def test_mistakes_are_told_in_one_line(folder, tmp_path, capsys, name):
  flags, message = _MISTAKES[name]
  out = tmp_path / "net.onnx"
  assert _run(folder, "--format", "onnx", "--out", out, *flags) == 1
  _assert_one_line(capsys, message)
  assert list(tmp_path.iterdir()) == []


def _assert_one_line(capsys, message):
  printed = capsys.readouterr()
  assert printed.out == ""
  (line,) = printed.err.splitlines()
  assert line.startswith(f"error: {message}")


def test_what_is_there_is_not_replaced_unasked(folder, tmp_path, capsys):
  out = tmp_path / "net.onnx"
  out.write_text("mine")
  assert _run(folder, "--format", "onnx", "--out", out) == 1
  _assert_one_line(capsys, f"{out} is there; --overwrite replaces it")
  assert out.read_text() == "mine"
  assert _run(folder, "--format", "onnx", "--out", tmp_path) == 1
  _assert_one_line(capsys, f"--out must be a file, got the folder {tmp_path}")
  (tmp_path / "file").write_text("")
  assert _run(folder, "--format", "onnx", "--out", tmp_path / "file/a") == 1
  assert "/file/a: File exists" in capsys.readouterr().err


def test_nothing_there_and_a_classifier(tmp_path, capsys):
  out = tmp_path / "net.onnx"
  assert _run(tmp_path, "--format", "onnx", "--out", out) == 1
  _assert_one_line(capsys, f"no model at {tmp_path}: give a workdir")
  model = Classifier(10, "mobilenet_v2", width_multiplier=0.25)
  variables = random_variables(model, np.zeros((1, 65, 65, 3), np.float32))
  checkpoints.save_model(tmp_path / "c", model, variables)
  assert _run(tmp_path / "c", "--format", "onnx", "--out", out) == 1
  _assert_one_line(capsys, f"{tmp_path}/c must hold a segmenter")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(
  folder, tmp_path, capsys, monkeypatch, package
):
  monkeypatch.setitem(sys.modules, package, None)
  out = tmp_path / "net.onnx"
  assert _run(folder, "--format", "onnx", "--out", out) == 1
  words = f"this needs {package}: pip install 'deeplab_jax[export]'"
  _assert_one_line(capsys, words)


def test_overwriting_in_python(folder, tmp_path, monkeypatch):
  from deeplab_jax import export

  monkeypatch.setattr(speed, "_SIZE", (33, 33))
  out = tmp_path / "net.onnx"
  first = export.onnx(folder, out, size=(33, 33), output="probabilities")
  assert first["sizes"] == [[33, 33]] and first["output"] == "probabilities"
  second = export.onnx(folder, out, size=(33, 33), overwrite=True)
  assert second["output"] == "labels"
  assert (
    json.loads((tmp_path / "net.onnx.certificate.json").read_text())["sha256"]
    == second["sha256"]
  )
