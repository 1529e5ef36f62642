"""Folded batch norms, made trainable without changing the function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models import DeepLab
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.train.folded_norms import folded_layers, with_statistics

_MODEL = DeepLab(
  3,
  "mobilenet_v2",
  width_multiplier=0.25,
  atrous_rates=(),
  decoder=(),
  dropout_rate=0.0,
)
_EPSILON = {"backbone": 1e-3, "aspp": 1e-5}


def _folded(part: str) -> dict:
  """Random weights with batch norms of `part` as importers leave them."""
  images = jnp.zeros((1, 33, 33, 3))
  variables = shapes_of(lambda: _MODEL.init(jax.random.key(0), images))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    names = [key.key for key in path]
    if names[-1] == "var":
      folded = names[1] == part
      return jnp.full(leaf.shape, 1 - _EPSILON[part] if folded else 1.0)
    if names[-1] in ("scale", "mean"):
      return jnp.full(leaf.shape, float(names[-1] == "scale"))
    fan_in = np.prod(leaf.shape[:-1]) or 1
    return jnp.asarray(rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape))

  return jax.tree.map_with_path(draw, variables)


def test_only_folded_layers_are_found():
  variables = _folded("backbone")
  layers = folded_layers(variables)
  assert len(layers) == 51  # 3 per block but the first's 2, and the stem's
  assert {layer[0] for layer in layers} == {"backbone"}


def test_calibrating_keeps_the_function_and_makes_training_agree():
  variables = _folded("backbone")
  images = jax.random.uniform(jax.random.key(1), (4, 33, 33, 3), minval=-1)
  layers = folded_layers(variables)
  found = with_statistics(_MODEL, variables, layers, images)
  features = _features(variables, images)
  assert np.ptp(features) > 0.1
  np.testing.assert_allclose(_features(found, images), features, atol=1e-4)
  in_training = _features(found, images, train=True)
  np.testing.assert_allclose(in_training, features, atol=1e-3)
  assert np.abs(_features(variables, images, train=True) - features).max() > 0.1
  assert not folded_layers(found)


def _features(variables, images, train=False):
  """What the backbone hands on, captured on its way through the network."""
  apply = functools.partial(
    _MODEL.apply,
    train=train,
    capture_intermediates=lambda module, _: module.name == "backbone",
    mutable=["intermediates", "batch_stats"],
  )
  _, captured = jax.jit(apply)(variables, images)
  features, _ = captured["intermediates"]["backbone"]["__call__"][0]
  return np.asarray(features)
