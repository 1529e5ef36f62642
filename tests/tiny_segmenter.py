"""A network small enough for tests, ready to label images."""

import numpy as np

from deeplab_jax import inference
from deeplab_jax.models import DeepLab
from tests.random_variables import random_variables

NAMES = ("ground", "tree", "sky")
COLORS = ((0, 0, 0), (10, 200, 30), (30, 60, 250))


def small_model(**arguments) -> DeepLab:
  """MobileNetV2 of few channels."""
  settings = {"backbone": "mobilenet_v2", "width_multiplier": 0.25}
  return tiny_model(**(settings | arguments))


def tiny_model(**arguments) -> DeepLab:
  """Five convolutions; for tests with the fixture `tiny_backbone`."""
  settings = {
    "num_classes": 3,
    "backbone": "tiny",
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
