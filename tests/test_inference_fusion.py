"""Scales and mirror images against stored official results."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

import deeplab_jax
from deeplab_jax import import_weights, inference
from deeplab_jax.models import DeepLab, preprocess
from tests.tiny_segmenter import make_variables, random_image, tiny_model

OFFICIAL_MOBILENET = {
  "backbone": "mobilenet_v2",
  "atrous_rates": (),
  "decoder": (),
}


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
