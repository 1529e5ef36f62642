"""Scales and mirror images against stored official results."""

import functools
import json

import jax
import numpy as np
import pytest

import deeplab_jax
from deeplab_jax import inference
from deeplab_jax.models import preprocess
from tests.golden import network
from tests.tiny_segmenter import make_variables, random_image, tiny_model


def check_multiscale(shared, exactness, name):
  """Labels and averaged probabilities; returns the case and a way to check."""
  case = network.load_case(shared, name)
  check = functools.partial(exactness.check, f"{name}.npz")
  golden, config = case.golden, json.loads(str(case.golden["config"]))
  image = golden["image"]
  predict = jax.jit(
    inference.predict_fn(case.model, config["scales"], config["flip"])
  )
  size = np.array([image.shape[:2]])
  labels, probabilities = predict(case.variables, image[None], size)
  every4 = probabilities[0, ::4, ::4]
  error = np.abs(every4 - golden["mean_probability_every4"]).max()
  check("mean probability", error, 1e-6)
  # The official "probability" output is a softmax of probabilities.
  twice = jax.nn.softmax(every4) - golden["semantic_prob_output_every4"]
  check("second softmax", np.abs(twice).max(), 1e-6)
  top = np.sort(np.asarray(probabilities[0]), -1)
  clear = top[..., -1] - top[..., -2] > 1e-6
  assert clear.mean() > 0.99
  differs = np.asarray(labels[0]) != golden["prediction"]
  check("labels", (differs & clear).mean(), 0)
  return case, check


def check_view(case, check, scale, flipped):
  name = f"logits_{scale:.2f}" + "_flipped_input" * flipped
  image = case.golden["image"][None].astype(np.float32)
  image = image[:, :, ::-1] if flipped else image
  look = jax.jit(inference.logits_fn(case.model, scale))
  logits = look(case.variables, image)[0]
  logits = logits[::2, ::2] if logits.shape[0] > 20 else logits
  check("logits", network.relative_error(logits, case.golden[name]), 1e-4)


def test_multiscale_equals_official(shared, exactness):
  check_multiscale(shared, exactness, "multiscale_mobilenet_v2_os16")


@pytest.mark.slow
def test_multiscale_without_flip_equals_official(shared, exactness):
  check_multiscale(shared, exactness, "multiscale_mobilenet_v2_os16_noflip")


@pytest.mark.slow
@pytest.mark.parametrize("scale,flipped", [(0.5, True), (1.75, False)])
def test_a_view_equals_the_official(shared, exactness, scale, flipped):
  name = "multiscale_mobilenet_v2_os16"
  case = network.load_case(shared, name)
  check = functools.partial(exactness.check, f"{name}.npz")
  check_view(case, check, scale, flipped)


@pytest.mark.slow
def test_multiscale_with_decoder_equals_official(shared, exactness):
  name = "multiscale_xception_41_os8_decoder"
  official = check_multiscale(shared, exactness, name)
  for scale in json.loads(str(official[0].golden["config"]))["scales"]:
    check_view(*official, scale, flipped=scale > 1)


def test_padding_is_what_the_network_sees_as_zero(tiny_backbone):
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
