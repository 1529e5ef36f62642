"""One way from image to label map, against stored official results."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deeplab_jax
from deeplab_jax import checkpoints, import_weights, inference, visualize
from deeplab_jax.inference import crops, tiles
from deeplab_jax.models import DeepLab, preprocess
from tests.random_variables import random_variables

NAMES = ("ground", "tree", "sky")
COLORS = ((0, 0, 0), (10, 200, 30), (30, 60, 250))
OFFICIAL_MOBILENET = {
  "backbone": "mobilenet_v2",
  "atrous_rates": (),
  "decoder": (),
}


def tiny_model(**arguments) -> DeepLab:
  settings = {
    "num_classes": 3,
    "backbone": "mobilenet_v2",
    "width_multiplier": 0.25,
    "atrous_rates": (),
    "decoder": (),
  }
  return DeepLab(**(settings | arguments))


def make_variables(model: DeepLab):
  return random_variables(model, np.zeros((1, 65, 65, 3), np.float32))


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
  """Coarse random colours, so that labels are not mere noise."""
  random = np.random.default_rng(seed)
  coarse = random.integers(0, 256, (height // 24 + 1, width // 24 + 1, 3))
  return coarse.astype(np.uint8).repeat(24, 0).repeat(24, 1)[:height, :width]


def segmenter(model=None, **options) -> inference.Segmenter:
  model = model or tiny_model()
  variables = make_variables(model)
  settings = {"class_names": NAMES, "colors": COLORS} | options
  return inference.Segmenter(model, variables, **settings)


@pytest.fixture(scope="module")
def labeller() -> inference.Segmenter:
  """One segmenter for many tests: its programs are compiled once."""
  return segmenter(tiny_model(output_stride=32))


# ---------------------------------------------------------------- fusion


def official_case(shared: pathlib.Path, case: str, variables: str, **arguments):
  """A stored multi-scale case: arrays, config, model, its variables."""
  folder = shared / "reference"
  sys.path.insert(0, str(folder))
  import make_weights  # the recipe of the stored weights

  golden = np.load(folder / f"golden/{case}.npz")
  names = json.loads((folder / f"variables/{variables}.json").read_text())
  arrays = {name: make_weights.array(name, shape) for name, shape in names}
  config = json.loads(str(golden["config"]))
  model = DeepLab(
    num_classes=21, output_stride=config["output_stride"], **arguments
  )
  variables = import_weights.from_tensorflow(arrays, model)
  return golden, config, model, variables


def check_multiscale(golden, config, model, variables):
  image = golden["image"]
  predict = jax.jit(
    inference.predict_fn(model, config["scales"], config["flip"])
  )
  size = np.array([image.shape[:2]])
  labels, probabilities = predict(variables, image[None], size)
  np.testing.assert_allclose(
    probabilities[0, ::4, ::4], golden["mean_probability_every4"], atol=1e-6
  )
  top = np.sort(np.asarray(probabilities[0]), -1)
  clear = top[..., -1] - top[..., -2] > 1e-6
  assert clear.mean() > 0.99
  np.testing.assert_array_equal(
    np.asarray(labels[0])[clear], golden["prediction"][clear]
  )


def check_view(golden, model, variables, scale, flipped):
  name = f"logits_{scale:.2f}" + "_flipped_input" * flipped
  image = golden["image"][None].astype(np.float32)
  image = image[:, :, ::-1] if flipped else image
  logits = jax.jit(inference.logits_fn(model, scale))(variables, image)[0]
  logits = logits[::2, ::2] if logits.shape[0] > 20 else logits
  expected = golden[name]
  tolerance = 1e-4 * np.abs(expected).max()
  np.testing.assert_allclose(logits, expected, atol=tolerance)


def test_multiscale_equals_official(shared):
  case = "multiscale_mobilenet_v2_os16"
  official = official_case(shared, case, "mobilenet_v2", **OFFICIAL_MOBILENET)
  check_multiscale(*official)
  golden, _, model, variables = official
  check_view(golden, model, variables, 0.5, flipped=True)
  check_view(golden, model, variables, 1.75, flipped=False)


def test_multiscale_without_flip_equals_official(shared):
  case = "multiscale_mobilenet_v2_os16_noflip"
  check_multiscale(
    *official_case(shared, case, "mobilenet_v2", **OFFICIAL_MOBILENET)
  )


@pytest.mark.slow
def test_multiscale_with_decoder_equals_official(shared):
  case = "multiscale_xception_41_os8_decoder"
  official = official_case(shared, case, "xception_41", backbone="xception_41")
  check_multiscale(*official)
  golden, config, model, variables = official
  for scale in config["scales"]:
    check_view(golden, model, variables, scale, flipped=scale > 1)


def test_padding_is_what_the_network_sees_as_zero():
  model = tiny_model()
  variables = make_variables(model)
  image = random_image(50, 40)
  canvas = np.full((1, 65, 65, 3), 99, np.uint8)
  canvas[0, :50, :40] = image
  predict = jax.jit(inference.predict_fn(model))
  _, probabilities = predict(variables, canvas, np.array([[50, 40]]))
  inputs = np.zeros((1, 65, 65, 3), np.float32)
  inputs[0, :50, :40] = preprocess(image[None], model.backbone)[0]
  logits = jax.jit(model.apply)(variables, inputs)
  logits = deeplab_jax.resize_bilinear(logits, (65, 65))
  expected = jax.nn.softmax(logits)
  np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_labels_of_many_classes_take_16_bits():
  assert inference.label_dtype(256) == np.uint8
  assert inference.label_dtype(257) == np.uint16


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize(
  "arguments",
  [
    {"atrous_rates": (6, 12), "decoder": ("conv2",)},
    {"backbone": "resnet_50", "output_stride": 8, "width_multiplier": 1.0},
    {"backbone": "mobilenet_v3_small_seg", "width_multiplier": 1.0},
    pytest.param(
      {
        "backbone": "xception_41",
        "width_multiplier": 1.0,
        "decoder": ("conv3", "conv2"),
      },
      marks=pytest.mark.slow,
    ),
  ],
)
def test_confined_network_equals_one_on_a_smaller_canvas(arguments):
  model = tiny_model(**arguments)
  variables = make_variables(model)
  image = np.zeros((1, 97, 129, 3), np.float32)
  image[:, :65, :97] = np.random.default_rng(0).normal(size=(1, 65, 97, 3))
  crop = jnp.array([[65, 97]])
  apply = jax.jit(
    lambda images, crops_: crops.apply_confined(
      model, variables, images, crops_
    )
  )
  expected = np.asarray(apply(image[:, :65, :97], None))
  rows, columns = expected.shape[1:3]
  confined = np.asarray(apply(image, crop))[:, :rows, :columns]
  loose = np.asarray(apply(image, None))[:, :rows, :columns]
  largest = np.abs(expected).max()
  np.testing.assert_allclose(confined, expected, atol=1e-5 * largest)
  # Without, the canvas shows through the pooling and across the border.
  assert np.abs(loose - expected).max() > 1e-3 * largest


def test_canvas_does_not_change_fused_views():
  model = tiny_model()
  variables = make_variables(model)
  predict = jax.jit(inference.predict_fn(model, (0.5, 1.25), flip=True))
  image = random_image(100, 120)
  size, crop = np.array([[100, 120]]), np.array([[129, 129]])
  results = []
  for canvas, limits in (((129, 129), None), ((257, 385), crop)):
    padded = np.zeros((1, *canvas, 3), np.uint8)
    padded[0, :100, :120] = image
    _, probabilities = predict(variables, padded, size, limits)
    results.append(np.asarray(probabilities)[0, :100, :120])
  np.testing.assert_allclose(*results, atol=1e-5)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("length", [1, 64, 65, 66, 97, 500, 1025])
def test_spans_divide_the_axis(length):
  cut = tiles.spans(length, tile=97, margin=8)
  decided = [i for span in cut for i in range(span.first, span.end)]
  assert decided == list(range(length))
  for span in cut:
    assert span.start % 32 == 0
    assert span.start <= span.first and span.end <= span.start + 97


def test_spans_keep_off_the_borders():
  cut = tiles.spans(2000, tile=97, margin=16)
  assert len(cut) == 31
  for span in cut[1:]:
    assert span.first - span.start >= 16
  for span in cut[:-1]:
    assert span.start + 97 - span.end >= 16


def test_tiles_equal_whole_image_beyond_the_networks_reach():
  model = tiny_model(image_pooling=False)
  image = random_image(64, 1500)
  whole = segmenter(model).probabilities(image)
  tiled = segmenter(model, max_pixels=1).probabilities(image)
  # Windows of 1025 start at 0 and 768. MobileNetV2 at stride 16 reaches 245
  # pixels, its logits are 16 apart.
  difference = np.abs(whole - tiled).max((0, 2))
  inner = np.r_[0 : 1025 - 262, 768 + 262 : 1500]
  np.testing.assert_allclose(difference[inner], 0, atol=1e-5)
  assert difference.max() > 1e-4  # near the cut at 896 the border is felt
  assert np.ptp(whole[..., 0]) > 0.1


# ------------------------------------------------------------- segmenter


def by_definition(model, image, crop):
  """Labels without buckets: the image alone on a canvas of `crop`."""
  padded = np.zeros((1, *crop, 3), np.uint8)
  height, width = image.shape[:2]
  padded[0, :height, :width] = image
  labels, _ = jax.jit(inference.predict_fn(model))(
    make_variables(model), padded, np.array([[height, width]])
  )
  return np.asarray(labels)[0, :height, :width]


@pytest.mark.parametrize(
  "size, crop",
  [((60, 100), (129, 161)), ((129, 161), (129, 161)), ((129, 300), (129, 321))],
)
def test_labels_are_those_of_the_official_crop(size, crop):
  model = tiny_model(atrous_rates=(6,))
  image = random_image(*size)
  labels = segmenter(model, evaluation_size=(129, 161))(image)
  assert labels.dtype == np.uint8 and labels.shape == size
  expected = by_definition(model, image, crop)
  assert len(np.unique(expected)) > 1
  assert (labels != expected).mean() < 1e-3


def test_lite_raspp_runs_on_its_own_crop():
  model = tiny_model(
    backbone="mobilenet_v3_small_seg",
    width_multiplier=1.0,
    head="lraspp",
    output_stride=32,
    decoder=("conv3",),
  )
  image = random_image(90, 40)
  expected = by_definition(model, image, (97, 65))
  assert (segmenter(model)(image) != expected).mean() < 1e-3
  assert len(np.unique(expected)) > 1


def test_few_programs_serve_many_sizes(labeller):
  before = labeller.num_compilations
  random = np.random.default_rng(0)
  for height, width in random.integers(1, 257, (20, 2)):
    assert labeller(random_image(height, width)).shape == (height, width)
  assert labeller.num_compilations - before <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (1, 33)])
def test_any_size_is_labelled(labeller, size):
  assert labeller(random_image(*size)).shape == size


def test_outputs_agree_with_each_other(labeller):
  image = random_image(70, 50)
  labels, probabilities = labeller(image), labeller.probabilities(image)
  assert probabilities.shape == (70, 50, 3)
  np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
  assert (probabilities.argmax(-1) != labels).mean() < 1e-3
  entropy = -(probabilities * np.log(probabilities)).sum(-1) / np.log(3)
  np.testing.assert_allclose(labeller.uncertainty(image), entropy, atol=1e-5)
  expected = visualize.overlay(image, labels, COLORS)
  np.testing.assert_array_equal(labeller.overlay(image), expected)


def test_load_gives_the_stored_model(tmp_path):
  model = tiny_model()
  variables = make_variables(model)
  dataset = {"name": "x", "class_names": NAMES, "colors": COLORS}
  checkpoints.save_model(
    tmp_path,
    model,
    variables,
    dataset=dataset,
    evaluation={"crop_size": [65, 97]},
  )
  labeller = deeplab_jax.load(tmp_path, output_stride=8)
  assert labeller.class_names == NAMES and labeller.colors == COLORS
  assert labeller.evaluation_size == (65, 97)
  assert labeller.model.output_stride == 8
  image = random_image(60, 90)
  dense = by_definition(model.clone(output_stride=8), image, (65, 97))
  assert (labeller(image) != dense).mean() < 1e-3


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"class_names": ("a",)}, "class_names must be 3 as the model's .* got 1"),
    ({"colors": COLORS * 2}, "colors must be 3 .* got 6"),
    ({"scales": (0.3,)}, r"scales must be .* multiples of 1/4, got \(0.3,\)"),
    ({"tile": 1000}, "tile must be a multiple of 32 plus 1, got 1000"),
  ],
)
def test_segmenter_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    segmenter(**arguments)


@pytest.mark.parametrize(
  "image, found",
  [
    (np.zeros((4, 5, 3), np.float32), r"float32 \(4, 5, 3\)"),
    (np.zeros((4, 5), np.uint8), r"uint8 \(4, 5\)"),
    (np.zeros((0, 5, 3), np.uint8), r"must have pixels, got .*\(0, 5, 3\)"),
  ],
)
def test_segmenter_refuses_other_arrays(labeller, image, found):
  with pytest.raises(ValueError, match=found):
    labeller(image)
