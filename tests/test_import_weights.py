"""Official arrays, from every source, into variables with the right values."""

import importlib.util
import json
import sys
import tarfile

import flax.traverse_util
import jax
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import import_weights
from deeplab_jax.import_weights import fit, from_tensorflow, official_shapes
from deeplab_jax.import_weights.architecture import infer_arguments
from deeplab_jax.models import Classifier, DeepLab, preprocess
from tests.test_models_deeplab import MODELS, build

VOC_MODEL = "deeplabv3_mnv2_dm05_pascal_trainaug"
SMALL = DeepLab(
  21, "mobilenet_v2", width_multiplier=0.5, atrous_rates=(), decoder=()
)
CLASSIFIERS = (
  "imagenet_resnet_v1_101_beta",
  "imagenet_resnet_v1_50_beta",
  "imagenet_xception_41",
  "imagenet_xception_65",
  "imagenet_xception_71",
)


@pytest.fixture(scope="module")
def voc_model(shared):
  return shared / "weights" / VOC_MODEL


@pytest.fixture(scope="module")
def arrays(voc_model):
  return import_weights.read(voc_model / "variables.npz")


@pytest.fixture(scope="module")
def make_weights(shared):
  path = shared / "reference" / "make_weights.py"
  spec = importlib.util.spec_from_file_location("make_weights", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _shapes(shared, name):
  path = shared / "reference" / "variables" / f"{name}.json"
  return {name: tuple(shape) for name, shape in json.loads(path.read_text())}


def _require_equal(found, wanted):
  assert set(found) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


# Of each family with and without what its names depend on.
_QUICK = {
  "xception_65",
  "xception_65_plainconv",
  "xception_71_dpc_cityscapes",
  "resnet_v1_50",
  "resnet_v1_50_beta",
  "mobilenet_v2_dm05",
  "mobilenet_v2_aspp_decoder",
  "mobilenet_v3_small_seg_cityscapes",
}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in _QUICK))
    for name in MODELS
  ],
)
def test_every_deeplab_is_recognised_and_named_officially(shared, name):
  """The arguments that build a network, and what its variables are called."""
  shapes = _shapes(shared, name)
  model = build(MODELS[name])
  assert official_shapes(model) == shapes
  found = DeepLab(**infer_arguments(shapes))
  if model.head == "lraspp":
    found = found.clone(atrous_rates=())  # it has no use for them
  # The output stride is in no variable.
  assert found.clone(output_stride=model.output_stride) == model


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_is_recognised_and_named_officially(shared, name):
  shapes = _shapes(shared, name)
  arguments = infer_arguments(shapes)
  assert official_shapes(Classifier(1001, **arguments)) == shapes


def test_all_lists_of_variables_are_used(shared):
  folder = shared / "reference" / "variables"
  assert {path.stem for path in folder.iterdir()} == {*MODELS, *CLASSIFIERS}


@pytest.mark.parametrize(
  "arguments",
  [
    {"decoder": ("conv3", "conv2")},
    {"decoder_convs": ((1, 256),)},
    {"decoder_convs": ((3, 256), (1, 64), (3, 128))},
    {"decoder_separable": False, "decoder_low_level_channels": 8},
    {"aspp_separable": False, "image_pooling": False},
    {"width_multiplier": 0.35},
    {"backbone": "resnet_50", "decoder": ("conv4",), "output_stride": 32},
    {"backbone": "xception_41", "decoder": ("conv3",)},
  ],
)
def test_switches_are_inferred_from_names_and_shapes(arguments):
  arguments = {"backbone": "mobilenet_v2"} | arguments
  shapes = official_shapes(DeepLab(7, **arguments))
  inferred = infer_arguments(shapes)
  told = set(arguments) - {"output_stride"}
  assert {name: inferred[name] for name in told} == {
    name: arguments[name] for name in told
  }
  assert official_shapes(DeepLab(**inferred)) == shapes


def test_arrays_of_no_known_backbone_are_refused():
  with pytest.raises(ValueError, match=r"no known backbone.*found vgg_16"):
    infer_arguments({"vgg_16/conv1/weights": (3, 3, 3, 64)})


@pytest.mark.parametrize(
  "source",
  [
    "frozen_inference_graph.pb",
    "checkpoint_from_graph",
    "checkpoint_from_graph/model.ckpt",
    "checkpoint_from_graph/model.ckpt.index",
  ],
)
def test_sources_hold_identical_arrays(voc_model, arrays, source):
  assert len(arrays) == 272
  _require_equal(import_weights.read(voc_model / source), arrays)


def test_released_archive_is_read(voc_model, arrays, tmp_path):
  path = tmp_path / "release.tar.gz"
  with tarfile.open(path, "w:gz") as archive:
    folder = voc_model / "checkpoint_from_graph"
    archive.add(folder, "deeplabv3_mnv2_dm05_pascal_trainaug")
  _require_equal(import_weights.read(path), arrays)


@pytest.mark.parametrize(
  "output_stride", [8, pytest.param(16, marks=pytest.mark.slow)]
)
def test_voc_model_gives_the_stored_logits(
  shared, voc_model, arrays, output_stride
):
  model = SMALL.clone(output_stride=output_stride)
  variables = from_tensorflow(arrays, model)
  apply = jax.jit(model.apply)
  golden = np.load(voc_model / "golden" / f"logits_os{output_stride}.npz")
  names = sorted({name.split("/")[0] for name in golden.files})
  assert len(names) == 3
  for name in names:
    image = _padded_image(shared, name)
    logits = apply(variables, preprocess(image[None], model.backbone))
    error = np.abs(logits[0] - golden[f"{name}/logits"]).max()
    assert error < 1e-3  # seen: 1.4e-4 of up to 34


def _padded_image(shared, name):
  folder = shared / "data/voc2012-sample/VOCdevkit/VOC2012/JPEGImages"
  image = np.asarray(Image.open(folder / f"{name}.jpg"), np.float32)
  margins = [(0, 513 - side) for side in image.shape[:2]]
  return np.pad(image, [*margins, (0, 0)], constant_values=127.5)


@pytest.mark.parametrize(
  "name",
  [
    "mobilenet_v2_dm05",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in (*MODELS, *CLASSIFIERS)
      if name != "mobilenet_v2_dm05"
    ),
  ],
)
def test_checkpoint_of_a_training_run_is_read_exactly(
  shared, make_weights, tmp_path, name
):
  shapes = _shapes(shared, name)
  arrays = make_weights.weights(list(shapes.items()))
  kernel = next(n for n in shapes if n.endswith("/weights"))
  slots = {
    f"{kernel}/{slot}": arrays[kernel] + 1
    for slot in ("Momentum", "ExponentialMovingAverage", "Adam_1")
  }
  prefix = str(tmp_path / "model.ckpt-30000")
  make_weights.write_tf_checkpoint(arrays | slots, prefix, global_step=30000)
  read = import_weights.read(prefix)
  _require_equal({name: read[name] for name in arrays}, arrays)
  variables, report = fit(read, _model(shapes))
  assert set(report.loaded) == set(arrays)
  assert report.skipped == tuple(sorted([*slots, "global_step"]))
  assert report.reinitialized == ()
  assert sorted(map(_fingerprint, jax.tree.leaves(variables))) == sorted(
    map(_fingerprint, arrays.values())
  )


def _model(shapes):
  arguments = infer_arguments(shapes)
  return (
    DeepLab(**arguments)
    if "num_classes" in arguments
    else Classifier(1001, **arguments)
  )


def _fingerprint(array):
  """The same for any order of axes."""
  values = np.sort(np.asarray(array), axis=None)
  return values.size, float(values[0]), float(np.sum(values, dtype=np.float64))


def test_every_difference_is_in_one_error(arrays):
  arrays = dict(arrays)
  del arrays["aspp0/weights"]
  arrays["aspp1/weights"] = np.zeros((3, 3, 160, 256), np.float32)
  arrays["MobilenetV2/Conv/weights"] = np.zeros((3, 3, 3, 32), np.float32)
  with pytest.raises(ValueError) as error:
    from_tensorflow(arrays, SMALL)
  lines = str(error.value).splitlines()[1:]
  assert lines == [
    "missing (1):",
    "  aspp0/weights",
    "unexpected (1):",
    "  aspp1/weights",
    "wrong shape (1):",
    "  MobilenetV2/Conv/weights: expected (3, 3, 3, 16), got (3, 3, 3, 32)",
  ]


def test_moving_average_of_an_unknown_variable_is_no_excuse(arrays):
  extra = {"MobilenetV2/Conv/weights/Foo": np.zeros(3)}
  with pytest.raises(ValueError, match=r"unexpected \(1\):\n.*weights/Foo"):
    from_tensorflow({**arrays, **extra}, SMALL)


def test_other_classes_only_redraw_the_logits(arrays):
  with pytest.raises(ValueError, match=r"logits/semantic/biases: expected"):
    from_tensorflow(arrays, SMALL.clone(num_classes=5))
  model = SMALL.clone(num_classes=5)
  variables, report = fit(arrays, model, reinitialize_logits=True, seed=3)
  logits = ("logits/semantic/biases", "logits/semantic/weights")
  assert report.reinitialized == report.skipped == logits
  assert str(report).splitlines()[-2:] == [
    "logits                  0        2               2",
    "total                 270        2               2",
  ]
  original = from_tensorflow(arrays, SMALL)
  kernel = variables["params"].pop("logits")["kernel"]
  assert kernel.shape == (1, 1, 256, 5)
  assert 0.005 < np.std(kernel) < 0.015
  original["params"].pop("logits")
  jax.tree.map(np.testing.assert_array_equal, variables, original)


def test_mobilenet_v3_redraws_both_layers_that_depend_on_classes():
  model = DeepLab(
    19, "mobilenet_v3_small_seg", 32, head="lraspp", decoder=("conv3",)
  )
  shapes = official_shapes(model)
  arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
  _, report = fit(arrays, model.clone(num_classes=3), reinitialize_logits=True)
  assert report.reinitialized == (
    "decoder/decoder_conv0/biases",
    "decoder/decoder_conv0/weights",
    "decoder/feature_projection0/biases",
    "decoder/feature_projection0/weights",
  )


def test_mobilenet_v3_fills_its_whole_backbone():
  model = DeepLab(
    19, "mobilenet_v3_small_seg", 32, head="lraspp", decoder=("conv3",)
  )
  arrays = {n: np.zeros(shape) for n, shape in official_shapes(model).items()}
  _, report = fit(arrays, model, parts="backbone")
  assert {name.split("/")[0] for name in report.loaded} == {"MobilenetV3"}
  assert "MobilenetV3" not in {name.split("/")[0] for name in report.skipped}


def test_quantised_mobilenet_gives_the_stored_imagenet_logits(shared):
  folder = shared / "weights/mobilenet_v2_1.0_224_imagenet_ptq"
  arrays = import_weights.read(folder / "weights_int8.npz")
  model = Classifier(1001, "mobilenet_v2")
  variables = from_tensorflow(arrays, model)
  golden = np.load(folder / "golden/logits.npz")
  inputs = [name for name in golden.files if name.endswith("/input_uint8")]
  assert len(inputs) == 3
  images = np.stack([golden[name] for name in inputs]) / np.float32(127.5) - 1
  logits = jax.jit(model.apply)(variables, images)
  wanted = [golden[n.replace("input_uint8", "logits")] for n in inputs]
  np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_folded_deeplab_computes_the_same(arrays):
  folded = dict(arrays)
  for name, gamma in arrays.items():
    layer, found, _ = name.partition("/BatchNorm/gamma")
    if found:
      _fold(folded, layer, gamma)
  assert not any("BatchNorm" in name for name in folded)
  images = np.random.default_rng(0).uniform(-1, 1, (1, 65, 65, 3))
  wanted, found = (
    jax.jit(SMALL.apply)(from_tensorflow(given, SMALL), np.float32(images))
    for given in (arrays, folded)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def _fold(arrays, layer, gamma):
  epsilon = 1e-3 if layer.startswith("MobilenetV2/") else 1e-5
  beta, mean, variance = (
    arrays.pop(f"{layer}/BatchNorm/{statistic}")
    for statistic in ("beta", "moving_mean", "moving_variance")
  )
  del arrays[f"{layer}/BatchNorm/gamma"]
  factor = gamma / np.sqrt(variance + epsilon)
  depthwise = f"{layer}/depthwise_weights" in arrays
  kernel = f"{layer}/{'depthwise_' if depthwise else ''}weights"
  arrays[kernel] = arrays[kernel] * (factor[:, None] if depthwise else factor)
  arrays[f"{layer}/biases"] = beta - mean * factor


def test_imagenet_weights_fill_the_backbone_alone(shared):
  folder = shared / "weights/mobilenet_v2_1.0_224_imagenet_ptq"
  arrays = import_weights.read(folder / "weights_int8.npz")
  model = DeepLab(11, "mobilenet_v2", atrous_rates=(), decoder=())
  variables, report = fit(arrays, model, parts="backbone")
  classifier = from_tensorflow(arrays, Classifier(1001, "mobilenet_v2"))
  for collection in ("params", "batch_stats"):
    jax.tree.map(
      np.testing.assert_array_equal,
      variables[collection]["backbone"],
      classifier[collection]["backbone"],
    )
  assert {name.split("/")[0] for name in report.loaded} == {"MobilenetV2"}
  assert {name.split("/")[1] for name in report.skipped} == {
    "Conv_1",
    "Logits",
  }
  fresh = flax.traverse_util.flatten_dict(variables["params"])
  assert all(np.ptp(x) > 0 for p, x in fresh.items() if "kernel" in p[-1])


def test_backbone_of_another_network_is_refused(arrays):
  model = DeepLab(21, "mobilenet_v2", width_multiplier=1.4)
  with pytest.raises(ValueError, match=r"wrong shape \(255\)"):
    from_tensorflow(arrays, model, parts="backbone")
  with pytest.raises(ValueError, match=r"parts must be .*got 'head'"):
    from_tensorflow(arrays, model, parts="head")


def test_unreadable_sources_are_one_clear_error(tmp_path, voc_model):
  cases = {
    "missing.npz": r"missing.npz does not exist; expected a TensorFlow",
    "image.png": r"image.png is not a TensorFlow checkpoint",
    "broken.npz": r"cannot read .*broken.npz",
    "broken.tar.gz": r"cannot read .*broken.tar.gz",
    "broken.pb": r"cannot read .*broken.pb: DecodeError",
    "half.ckpt": r"cannot read .*half.ckpt",
    "object.npz": r"cannot read .*object.npz: .* allow_pickle=False",
    "empty": r"empty holds neither .index nor .pb file, nor one of the Hub",
    "two": r"two holds several models, give one: .*a.pb, .*b.pb",
  }
  for name in ("image.png", "broken.npz", "broken.tar.gz", "broken.pb"):
    (tmp_path / name).write_bytes(b"not what the name says")
  np.savez(tmp_path / "object.npz", np.array([{}]))
  index = voc_model / "checkpoint_from_graph" / "model.ckpt.index"
  (tmp_path / "half.ckpt.index").write_bytes(index.read_bytes())
  (tmp_path / "empty").mkdir()
  (tmp_path / "two").mkdir()
  (tmp_path / "two" / "a.pb").touch()
  (tmp_path / "two" / "b.pb").touch()
  for name, message in cases.items():
    with pytest.raises(ValueError, match=message):
      import_weights.read(tmp_path / name)


def test_checkpoint_without_tensorflow_names_the_extra(voc_model, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(ImportError, match=r"pip install 'deeplab_jax\[import\]'"):
    import_weights.read(voc_model / "checkpoint_from_graph")
  graph = import_weights.read(voc_model / "frozen_inference_graph.pb")
  assert len(graph) == 272
