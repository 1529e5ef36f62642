"""TFLite files in LiteRT against the definition; what lower precision says."""

import json
import pathlib
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import checkpoints
from deeplab_jax.export import (
  agreement,
  as_tflite,
  calibration,
  certificate,
  machine,
)
from deeplab_jax.export.__main__ import main
from deeplab_jax.models import BACKBONES, DeepLab
from deeplab_jax.models.arguments import HEADS, LITE_HEADS
from tests import exported
from tests.exported import make_job
from tests.tiny_segmenter import COLORS, NAMES, random_image, tiny_model

exported.tflite_packages()
pytestmark = pytest.mark.usefixtures("tiny_backbone")
_SIZE = (49, 65)
_BACKBONES = sorted(BACKBONES)
_ZOO = pathlib.Path(__file__).parent.parent / "zoo/camvid_mobilenet_v2"


def _open(job):
  return as_tflite.open_file(as_tflite.make(job), job)


@pytest.mark.parametrize(
  "settings",
  [
    {"decoder": ("conv2",), "atrous_rates": (2, 4)},
    {"output_stride": 8, "num_classes": 300},
    {"output_stride": 32, "image_pooling": False},
  ],
  ids=["atrous", "stride 8, 300 classes", "stride 32"],
)
def test_a_file_equals_the_definition(settings):
  job = make_job(tiny_model(**settings), sizes=(_SIZE,))
  opened = _open(job)
  exported.assert_equals_definition(job, opened, _SIZE)
  wanted = np.uint16 if job.model.num_classes > 256 else np.uint8
  assert opened.run(exported.pictures(*_SIZE)).dtype == wanted


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_other_outputs(output):
  job = make_job(tiny_model(), sizes=(_SIZE,), output=output)
  facts = certificate.measure(job, _open(job))
  assert facts["passed"] and facts["worst_logit_difference"] < 2e-5


def test_several_views_in_one_file():
  model = tiny_model(decoder=("conv2",))
  views = {"scales": (0.75, 1.0), "flip": True}
  job = make_job(model, sizes=(_SIZE,), output="probabilities", **views)
  facts = certificate.measure(job, _open(job))
  assert facts["passed"] and facts["worst_probability_difference"] < 2e-5


def test_packages_by_another_name_have_their_version():
  found = machine.versions("tensorflow", "ai-edge-litert", "no-such")
  assert found.pop("no-such") == "unknown"
  assert all(version[0].isdigit() for version in found.values()), found


def test_a_file_describes_itself():
  job = make_job(tiny_model(), sizes=(_SIZE,))
  model = as_tflite.read(as_tflite.make(job))
  (entry,) = (m for m in model.metadata if m.name == b"deeplab_jax")
  facts = json.loads(bytes(model.buffers[entry.buffer].data))
  assert facts == json.loads(json.dumps(job.metadata()))
  assert facts["precision"] == "float32"


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_takes_less_and_says_what_it_changes(precision):
  model = tiny_model(decoder=("conv2",))
  variables = exported.with_large_logits(model, make_job(model).variables)
  images = tuple(random_image(*_SIZE, seed=i) for i in range(4))
  mask = np.full(_SIZE, 255, np.uint8)
  mask[:9] = 1
  pictures = calibration.Pictures(images, (None, None, None, mask))
  job = make_job(
    model, variables, sizes=(_SIZE,), precision=precision, pictures=pictures
  )
  content = as_tflite.make(job)
  whole = as_tflite.make(make_job(model, variables, sizes=(_SIZE,)))
  assert len(content) < (0.6 if precision == "float16" else 0.4) * len(whole)
  facts = agreement.measure(job, as_tflite.open_file(content, job))
  assert facts["pixels"] == 4 * 49 * 65
  assert facts["labels_changed"] < 0.05 * facts["pixels"]
  assert facts["mean_iou_with_segmenter"] > 0.8
  assert facts["mean_iou_lost"] == pytest.approx(
    facts["mean_iou_of_segmenter"] - facts["mean_iou"]
  )
  assert "labels differ from Segmenter's on 4 pictures" in agreement.line(facts)


def test_an_8_bit_file_takes_pictures_as_they_are():
  images = tuple(random_image(*_SIZE, seed=i) // 2 + 40 for i in range(2))
  pictures = calibration.Pictures(images, (None, None))
  job = make_job(
    tiny_model(), sizes=(_SIZE,), precision="int8", pictures=pictures
  )
  model = as_tflite.read(as_tflite.make(job))
  (graph,) = model.subgraphs
  given = graph.tensors[graph.inputs[0]]
  assert (given.quantization.scale, given.quantization.zeroPoint) == (1, 0)
  floats = [t.name for t in graph.tensors if t.type == 0]  # FLOAT32
  assert floats == []


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def model(tiny_backbone, tmp_path_factory):
  path = tmp_path_factory.mktemp("tflite") / "model"
  network = tiny_model()
  variables = exported.make_variables(network)
  dataset = {"class_names": NAMES, "colors": COLORS}
  checkpoints.save_model(path, network, variables, dataset=dataset)
  return path


def _run(model, out, *flags) -> int:
  arguments = (model, "--format", "tflite", "--out", out, *flags)
  return main([str(argument) for argument in arguments])


def test_the_command_with_a_folder(model, tmp_path, capsys):
  folder = tmp_path / "mine"
  (folder / "images").mkdir(parents=True)
  (folder / "masks").mkdir()
  for i in range(3):
    path = folder / f"images/{i}.png"
    cv2.imwrite(str(path), random_image(80, 90, seed=i))
  Image.fromarray(np.ones((80, 90), np.uint8)).save(folder / "masks/1.png")
  out = tmp_path / "net.tflite"
  assert _run(model, out, "--size", "49x65", "--calibrate", folder) == 0
  printed = capsys.readouterr()
  lines = printed.out.splitlines()
  assert lines[0].startswith("certificate of lower precision: ")
  assert "mean IoU with the masks" in lines[0] and "speed: " in lines[1]
  assert lines[2].startswith(f"{out}: ") and len(lines) == 3
  assert printed.err == ""
  facts = json.loads((tmp_path / "net.tflite.certificate.json").read_text())
  assert facts["precision"] == "int8" and facts["pictures"] == 3
  assert "tolerance" not in facts and facts["passed"]
  assert facts["versions"]["ai-edge-litert"][0].isdigit()


_MISTAKES = {
  "no size": ([], "a file of format tflite has one size: give --size HxW"),
  "two": (
    ["--size", "33x33", "--size", "65x65"],
    "a file of format tflite has one size: give --size HxW, got 2",
  ),
  "precision": (
    ["--size", "33x33", "--precision", "int4"],
    "precision must be one of float32, float16, int8; got int4",
  ),
  "int8": (
    ["--size", "33x33", "--precision", "int8"],
    "precision int8 needs pictures: give --calibrate FOLDER",
  ),
  "float32": (
    ["--size", "33x33", "--precision", "float32", "--calibrate", "."],
    "precision float32 has no use for --calibrate",
  ),
  "folder": (
    ["--size", "33x33", "--calibrate", "missing"],
    "--calibrate missing: No such file",
  ),
  "web": (["--runtime", "x"], "--runtime is of format web alone"),
}


@pytest.mark.parametrize("name", _MISTAKES)
def test_mistakes_are_told_in_one_line(model, tmp_path, capsys, name):
  flags, message = _MISTAKES[name]
  assert _run(model, tmp_path / "net.tflite", *flags) == 1
  printed = capsys.readouterr()
  (line,) = printed.err.splitlines()
  assert printed.out == "" and line.startswith(f"error: {message}")
  assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_pictures(tmp_path):
  with pytest.raises(ValueError, match="has no pictures"):
    calibration.read(tmp_path, _SIZE)
  cv2.imwrite(str(tmp_path / "a.png"), random_image(9, 9))
  (tmp_path / "masks").mkdir()
  cv2.imwrite(str(tmp_path / "masks/a.png"), random_image(9, 9))
  with pytest.raises(ValueError, match="must be grey or indexed"):
    calibration.read(tmp_path, _SIZE)
  (tmp_path / "b.jpg").write_text("none")
  (tmp_path / "masks/a.png").unlink()
  with pytest.raises(ValueError, match=r"b\.jpg is no picture"):
    calibration.read(tmp_path, _SIZE)


@pytest.mark.parametrize(
  "module, package",
  [
    ("tensorflow", "tensorflow-cpu"),
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
  ],
)
def test_a_missing_extra_is_named(
  model, tmp_path, capsys, monkeypatch, module, package
):
  monkeypatch.setitem(sys.modules, module, None)
  assert _run(model, tmp_path / "a", "--size", "33x33") == 1
  words = f"error: this needs {package}: pip install 'deeplab_jax[export]'\n"
  assert capsys.readouterr().err == words


def test_other_formats_have_no_other_precision(model, tmp_path, capsys):
  pytest.importorskip("onnxruntime")
  from deeplab_jax import export

  with pytest.raises(ValueError, match="format onnx has numbers of float32"):
    export.onnx(model, tmp_path / "a.onnx", precision="float16")
  flags = ("--format", "onnx", "--precision", "float16")
  assert _run(model, tmp_path / "a.onnx", *flags) == 1
  words = "error: --precision is of format tflite alone\n"
  assert capsys.readouterr().err == words


@pytest.mark.slow
@pytest.mark.parametrize("backbone", _BACKBONES)
def test_every_backbone(shallow_backbones, backbone):
  number = _BACKBONES.index(backbone)
  head = HEADS[number % len(HEADS)]
  model = DeepLab(
    5,
    backbone,
    output_stride=(8, 16, 32)[number % 3],
    head=head,
    decoder=("conv3",) if head in LITE_HEADS else ("conv2",),
    width_multiplier=0.25 if BACKBONES[backbone].has_width else 1.0,
  )
  job = make_job(model, sizes=(_SIZE,))
  # At 1e-4: random weights of LR-ASPP on Xception-41 give logits of 700, off by
  # 5.6e-5 of that here and by 2.8e-5 in ONNX Runtime.
  assert certificate.measure(job, _open(job))["passed"]


@pytest.mark.slow
def test_the_network_of_the_zoo(tmp_path, capsys):
  out = tmp_path / "net.tflite"
  assert _run(_ZOO, out, "--size", "360x480") == 0
  facts = json.loads((tmp_path / "net.tflite.certificate.json").read_text())
  assert facts["passed"] and facts["worst_logit_difference"] < 2e-5
  assert 10e6 < facts["bytes"] < 11e6
