"""Images of any size to labels, by buckets and by tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import checkpoints, inference, visualize
from tests.tiny_segmenter import (
  COLORS,
  NAMES,
  make_variables,
  random_image,
  segmenter,
  small_model,
  tiny_model,
)

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(scope="module")
def labeller(tiny_backbone) -> inference.Segmenter:
  """One segmenter for many tests: its programs are compiled once."""
  return segmenter(tiny_model(output_stride=32))


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
  [((60, 100), (129, 161)), ((129, 300), (129, 305))],
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
  model = tiny_model(head="lraspp", output_stride=32, decoder=("conv3",))
  image = random_image(90, 40)
  expected = by_definition(model, image, (97, 65))
  assert (segmenter(model)(image) != expected).mean() < 1e-3
  assert len(np.unique(expected)) > 1


def test_few_programs_serve_many_sizes(labeller):
  before = labeller.num_compilations
  random = np.random.default_rng(0)
  for height, width in random.integers(1, 257, (20, 2)):
    assert labeller(random_image(height, width)).shape == (height, width)
  assert labeller.num_compilations - before <= 2  # the first has its own


def test_compiled_ahead_no_image_needs_a_program():
  ahead = segmenter(
    tiny_model(output_stride=32),
    evaluation_size=(65, 65),
    max_pixels=129 * 129,
    tile=97,
  )
  sizes = [(50, 60), (70, 40), (80, 41), (200, 90)]  # the last is cut
  assert ahead.compile(*sizes) is ahead
  assert ahead.num_compilations == 3
  for size in sizes:
    ahead.overlay(random_image(*size))
  assert ahead.num_compilations == 3
  ahead.compile((50, 60), want="probabilities")
  ahead.probabilities(random_image(50, 60))
  assert ahead.num_compilations == 4


@pytest.mark.parametrize("sizes", [[(0, 5)], [(480, 640), (5,)]])
def test_compiling_names_a_wrong_size(labeller, sizes):
  with pytest.raises(ValueError, match=r"positive \(height, width\)"):
    labeller.compile(*sizes)


def test_compiling_names_what_there_is(labeller):
  with pytest.raises(ValueError, match="labels, probabilities, uncertainty"):
    labeller.compile((65, 65), want="logits")


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (1, 33)])
def test_any_size_is_labelled(labeller, size):
  assert labeller(random_image(*size)).shape == size


@pytest.mark.parametrize("tile", [None, 65])
def test_outputs_of_one_pass_are_those_of_passes_of_their_own(tile):
  options = {"tile": tile, "max_pixels": 1} if tile else {}
  labeller, image = segmenter(**options), random_image(70, 50)
  wanted = ("labels", "probabilities", "uncertainty")
  outputs = labeller.outputs(image, *wanted)
  assert tuple(outputs) == wanted
  np.testing.assert_array_equal(outputs["labels"], labeller(image))
  for name in wanted[1:]:
    alone = getattr(labeller, name)(image)
    assert outputs[name].dtype == alone.dtype == np.float32
    np.testing.assert_allclose(outputs[name], alone, atol=1e-5)


def test_outputs_name_what_there_is(labeller):
  for wanted, found in ((("logits",), "'logits'"), ((), "nothing")):
    with pytest.raises(ValueError, match=f"wanted must be of .*got {found}"):
      labeller.outputs(random_image(5, 5), *wanted)


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
  pillow = Image.fromarray(image)
  np.testing.assert_array_equal(labeller.overlay(pillow), expected)


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


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_load_computes_in_what_is_asked_for(tmp_path, stored):
  model = tiny_model(dtype=jnp.dtype(stored))
  checkpoints.save_model(tmp_path, model, make_variables(model))
  image = random_image(60, 90)
  exact, rounded, own = (
    deeplab_jax.load(tmp_path, dtype=dtype).probabilities(image)
    for dtype in ("float32", "bfloat16", None)
  )
  np.testing.assert_array_equal(own, rounded if stored == "bfloat16" else exact)
  in_float32 = segmenter(tiny_model()).probabilities(image)
  np.testing.assert_allclose(exact, in_float32, atol=1e-5)
  assert 0 < np.abs(exact - rounded).max() < 0.05
  with pytest.raises(ValueError, match="dtype must be float32 or bfloat16"):
    deeplab_jax.load(tmp_path, dtype="float16")
  with pytest.raises(ValueError, match=r"dtype must be .* got ''"):
    deeplab_jax.load(tmp_path, dtype="")
  with pytest.raises(ValueError, match=r"output_stride must be .* got 0"):
    deeplab_jax.load(tmp_path, output_stride=0)


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
    (np.zeros((4, 5), np.uint8), r"uint8 \(4, 5\); .* reads any file so"),
    (np.zeros((0, 5, 3), np.uint8), r"must have pixels, got .*\(0, 5, 3\)"),
  ],
)
def test_segmenter_refuses_other_arrays(labeller, image, found):
  with pytest.raises(ValueError, match=found):
    labeller(image)


def test_folded_segmenter_gives_the_same_labels(labeller):
  image = random_image(70, 50)
  labels = segmenter(labeller.model, fold_batch_norm=False)(image)
  assert len(np.unique(labels)) > 1
  for folded in (labeller, segmenter(labeller.model, fold_batch_norm=True)):
    assert (folded(image) != labels).mean() < 1e-3


def test_tiles_equal_whole_image_beyond_the_networks_reach():
  model = small_model(image_pooling=False)
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
