"""Whole networks through ONNX Runtime and OpenVINO: slow, and the real proof.

Every backbone with every head, the official outputs, the released weights on
real pictures, the model that is shipped.
"""

import json
import os
import pathlib
import shutil
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from PIL import Image

from configs import camvid
from deeplab_jax import export, metrics
from deeplab_jax.data import build, datasets
from deeplab_jax.data.source import open_dataset
from deeplab_jax.export import as_onnx, certificate
from deeplab_jax.export.job import Opened
from deeplab_jax.import_weights.convert import convert
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import BACKBONES, DeepLab
from deeplab_jax.models.arguments import HEADS, LITE_HEADS
from tests import exported
from tests.exported import make_job, open_onnx
from tests.golden import network
from tests.test_official_weights import RELEASE
from tests.tiny_segmenter import make_variables

exported.onnx_packages()
pytestmark = pytest.mark.slow
_ZOO = pathlib.Path(__file__).parent.parent / "zoo" / "camvid_mobilenet_v2"
_STRIDES = (8, 16, 32)
_MULTISCALE = (
  "multiscale_mobilenet_v2_os16",
  "multiscale_mobilenet_v2_os16_noflip",
  "multiscale_xception_41_os8_decoder",
)


def _session(path):
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  return onnxruntime.InferenceSession(
    path, options, providers=["CPUExecutionProvider"]
  )


def _run(session, images):
  return session.run(None, {"image": images})[0]


def _network(backbone, head, output_stride) -> DeepLab:
  decoder = ("conv3",) if head in LITE_HEADS else ("conv2",)
  width = 0.25 if BACKBONES[backbone].has_width else 1.0
  return DeepLab(
    5,
    backbone,
    output_stride=output_stride,
    head=head,
    decoder=decoder,
    width_multiplier=width,
  )


@pytest.fixture
def quickly():
  """Has XLA, which is not in question, compile in half the time."""
  name = "jax_disable_most_optimizations"
  jax.config.update(name, True)
  yield
  jax.config.update(name, os.environ.get(name.upper()) == "1")


# OpenVINO starts processes, of which jax warns.
@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("output_stride", _STRIDES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_every_backbone_with_every_head(
  shallow_backbones, quickly, exactness, backbone, head, output_stride
):
  certificate._network.cache_clear()
  model = _network(backbone, head, output_stride)
  variables = make_variables(model)
  # Odd and even; all three are padded to one crop, so compiled once.
  sizes = [(97, 131), (92, 134), (93, 133)]
  number = sorted(BACKBONES).index(backbone) + HEADS.index(head)
  if output_stride == _STRIDES[number % 3]:  # below the stride, in turns
    sizes.append((output_stride - 3, output_stride - 1))
  if not backbone.startswith("vit_"):
    _compare(exactness, make_job(model, variables), sizes)
    return
  for size in sizes:  # a file of a transformer has one
    _compare(exactness, make_job(model, variables, sizes=(size,)), [size])


def _compare(exactness, job, sizes):
  """A file in each runtime, on one or two pictures of each size."""
  content = as_onnx.make(job)
  opened = {"onnxruntime": as_onnx.open_file(content, job)}
  if find_spec("openvino"):
    opened["openvino"] = _in_openvino(content, job)
  for i, size in enumerate(sizes):
    images = exported.pictures(*size, count=1 + (i == 0))
    wanted = np.stack([certificate.definition(job, image) for image in images])
    for runtime, found in opened.items():
      _check(exactness, job, found, runtime, images, wanted)


def _in_openvino(content, job) -> Opened:
  import openvino

  core = openvino.Core()
  network = core.read_model(as_onnx._with_behind(content, job))
  settings = {"INFERENCE_PRECISION_HINT": "f32"}
  compiled = core.compile_model(network, "CPU", settings)
  return Opened(
    run=lambda images: compiled(images)["labels"],
    behind=lambda images: compiled(images)["logits"],
    parts="",
  )


def _check(exactness, job, opened, runtime, images, wanted):
  """Logits, and labels whose two largest differ by as much as logits may."""
  name = f"exported {job.model.backbone}"
  error = network.relative_error(opened.behind(images), wanted)
  exactness.check(name, f"logits, {runtime}", error, 1e-4)
  top = np.sort(wanted, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-4 * np.abs(wanted).max()
  differs = opened.run(images) != wanted.argmax(-1)
  exactness.check(
    "exported, all", f"labels, {runtime}", (differs & clear).sum(), 0
  )
  assert clear.mean() > 0.9


@pytest.mark.parametrize(
  "name", [name for name in network.CASES if not name.endswith("_even")]
)
def test_official_outputs_hold_through_onnx(shared, exactness, name):
  """Pictures of even sizes are padded, where the official ones were not."""
  case = network.load_case(shared, name)
  golden = case.golden
  images = network._batch(golden["image"]).astype(np.uint8)
  job = make_job(case.model, case.variables, output="logits")
  found = open_onnx(job).run(images)
  wanted = network._batch(golden["upsampled_every8"])
  error = network.relative_error(found[:, ::8, ::8], wanted)
  exactness.check(f"{name}.npz", "logits, exported", error, 1e-4)
  top = np.sort(found, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-4 * np.abs(found).max()
  differs = found.argmax(-1) != golden["prediction"].reshape(clear.shape)
  exactness.check(
    f"{name}.npz", "labels, exported", (differs & clear).mean(), 0
  )
  assert clear.mean() > 0.99


@pytest.mark.parametrize("name", _MULTISCALE)
def test_official_scales_hold_through_onnx(
  shared, exactness, monkeypatch, name
):
  # Officially the picture is its own crop, though scales do not divide it.
  monkeypatch.setattr(Protocol, "grain", lambda self, stride: stride)
  case = network.load_case(shared, name)
  golden, config = case.golden, json.loads(str(case.golden["config"]))
  job = make_job(
    case.model,
    case.variables,
    output="probabilities",
    scales=tuple(config["scales"]),
    flip=config["flip"],
    sizes=(golden["image"].shape[:2],),
  )
  found = open_onnx(job).run(golden["image"][None].astype(np.uint8))[0]
  error = np.abs(found[::4, ::4] - golden["mean_probability_every4"]).max()
  exactness.check(f"{name}.npz", "mean probability, exported", error, 1e-6)


@pytest.fixture(scope="module")
def released(shared, tmp_path_factory):
  folder = shared / "weights" / "deeplabv3_mnv2_dm05_pascal_trainaug"
  out = tmp_path_factory.mktemp("official") / "model"
  convert(RELEASE, out, archive=str(folder / "frozen_inference_graph.pb"))
  return out


@pytest.fixture(scope="module")
def voc(shared):
  """Image and label of the 50 images of the sample's val split."""
  folder = shared / "data/voc2012-sample/VOCdevkit/VOC2012"
  names = (folder / "ImageSets/Segmentation/val.txt").read_text().split()

  def read(path):
    return np.asarray(Image.open(folder / path))

  return [
    (read(f"JPEGImages/{n}.jpg"), read(f"SegmentationClass/{n}.png"))
    for n in names
  ]


@pytest.mark.parametrize(("output_stride", "miou"), [(8, 70.83), (16, 70.25)])
def test_released_weights_score_as_the_original(
  released, voc, tmp_path, output_stride, miou
):
  out = tmp_path / "voc.onnx"
  facts = export.onnx(released, out, output_stride=output_stride)
  print(facts["worst_logit_difference"], facts["milliseconds"])
  session = _session(out)
  confusion = sum(
    metrics.confusion_matrix_numpy(label, _run(session, image[None])[0], 21)
    for image, label in voc
  )
  print(output_stride, 100 * metrics.mean_iou(confusion))
  assert abs(100 * metrics.mean_iou(confusion) - miou) < 0.02


@pytest.fixture(scope="module")
def tested(shared, tmp_path_factory):
  """Image and label of the 233 pictures that the shipped model was tested on,
  and a folder with 100 that it was trained on."""
  folder = tmp_path_factory.mktemp("camvid")
  source = shared / "data" / "camvid"
  build.build("camvid", data_dir=str(folder), manual_dir=str(source))
  config = camvid.get_config()
  config.data.update(data_dir=str(folder))
  config.data.eval_split = datasets.DATASETS["camvid"].test_split
  names = (source / "ImageSets/Segmentation/train.txt").read_text().split()
  seen = folder / "seen"
  for kind, end in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
    out = seen / {"jpg": "images", "png": "masks"}[end]
    out.mkdir(parents=True)
    for name in names[:100]:
      shutil.copy(source / kind / f"{name}.{end}", out)
  examples = [
    (np.asarray(example["image"])[None], example["label"])
    for example in open_dataset(config.data).eval
  ]
  return examples, seen


def _look(format, path):
  """What labels one picture (1, h, w, 3) by a file."""
  if format == "stablehlo":
    return export.load(path)
  if format == "onnx":
    session = _session(path)
    return lambda image: _run(session, image)
  from ai_edge_litert.interpreter import Interpreter

  run = Interpreter(str(path), num_threads=2).get_signature_runner()
  return lambda image: run(image=image)["labels"]


@pytest.mark.parametrize(
  ("format", "calibrates", "stated", "within"),
  [
    ("onnx", False, 0.6638, 1e-4),
    ("stablehlo", False, 0.6638, 1e-4),
    ("tflite", False, 0.6638, 1e-4),
    ("tflite", True, 0.6638, 5e-3),
  ],
)
def test_the_shipped_model_scores_as_stated(
  tested, tmp_path, format, calibrates, stated, within
):
  examples, seen = tested
  options = {}
  if format == "tflite":
    exported.tflite_packages()
    options = {"size": (360, 480)}
  if calibrates:
    options |= {"calibrate": str(seen), "precision": "int8"}
  out = tmp_path / f"camvid.{format}"
  facts = getattr(export, format)(_ZOO, out, **options)
  look = _look(format, out)
  counts = sum(
    metrics.confusion_matrix_numpy(label, np.asarray(look(image)[0]), 11)
    for image, label in examples
  )
  print(format, facts, metrics.mean_iou(counts))
  assert metrics.mean_iou(counts) == pytest.approx(stated, abs=within)
