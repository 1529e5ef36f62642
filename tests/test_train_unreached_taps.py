"""Taps that crops cannot train, by what they do and by their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab_jax.models.aspp import ASPP
from deeplab_jax.train.state import create_state
from deeplab_jax.train.unreached_taps import clear_unreached_taps

_CROP = (9, 7)


@pytest.fixture(scope="module", params=[True, False], ids=["depthwise", "full"])
def pyramid(request):
  """An ASPP on features themselves, its parameters, and its start."""
  model = _Pyramid(rates=(2, 6, 8), separable=request.param, features=4)
  variables = model.init(jax.random.key(0), jnp.zeros((1, *_CROP, 3)))
  return model, variables


class _Pyramid(ASPP):
  def __call__(self, x, train=False):
    return super().__call__(x, use_batch_stats=False, train=False)


def _kernels(model, params) -> list[np.ndarray]:
  """(3, 3, ...) of the branches of rates 2, 6, 8."""
  if model.separable:
    layers = [params[f"aspp{i}"]["depthwise"] for i in (1, 2, 3)]
    return [np.asarray(layer["depthwise_kernel"]) for layer in layers]
  return [np.asarray(params[f"aspp{i}"]["kernel"]) for i in (1, 2, 3)]


def test_exactly_the_taps_without_a_gradient_are_cleared(pyramid):
  model, variables = pyramid
  x = jax.random.normal(jax.random.key(1), (1, *_CROP, 3))

  def loss(params):
    y = model.apply({**variables, "params": params}, x)
    return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum()

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  cleared = clear_unreached_taps(model, variables["params"], _CROP)
  kernels = [_kernels(model, tree) for tree in (gradient, cleared)]
  for slope, kernel in zip(*kernels):
    trained = (slope != 0).any((2, 3))
    np.testing.assert_array_equal((kernel != 0).any((2, 3)), trained)
  assert [int((k != 0).any((2, 3)).sum()) for k in kernels[1]] == [9, 9, 3]


def test_only_larger_images_tell_the_difference(pyramid):
  model, variables = pyramid
  cleared = clear_unreached_taps(model, variables["params"], _CROP)
  for size, same in ((_CROP, True), ((9, 9), False)):
    x = jax.random.normal(jax.random.key(1), (1, *size, 3))
    before, after = (
      model.apply({**variables, "params": params}, x)
      for params in (variables["params"], cleared)
    )
    assert np.array_equal(before, after) == same


def test_a_fresh_state_starts_without_them(pyramid):
  model, variables = pyramid
  fresh = create_state(model, optax.sgd(0.1), _CROP, seed=0)
  expected = clear_unreached_taps(model, variables["params"], _CROP)
  jax.tree.map(np.testing.assert_array_equal, fresh.params, expected)
