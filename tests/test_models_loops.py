"""Loops in forms of their own compute what the plain ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models.layers import ConvNorm, Norm, SeparableConv
from deeplab_jax.models.ops.loops import all_threads, joined

_SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1.5, 65504.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_threads_changes_no_bit(dtype):
  x = jnp.asarray(_SPECIAL, dtype)
  y = jax.jit(all_threads)(x)
  assert y.dtype == x.dtype
  assert np.asarray(y).tobytes() == np.asarray(x).tobytes()


def test_all_threads_has_the_gradient_of_the_identity():
  weights = jnp.arange(6.0).reshape(2, 3)
  got = jax.grad(lambda x: (all_threads(x) * weights).sum())(weights)
  np.testing.assert_array_equal(got, weights)


def test_all_threads_makes_xla_count_more_operations_than_bytes():
  """If this fails, XLA has learnt to cancel them and the form is of no use."""
  with jax.default_device(jax.devices("cpu")[0]):
    x, y, bias = jnp.ones((64, 32)), jnp.ones((64, 32)), jnp.ones(32)
    compiled = jax.jit(lambda x, y: jax.nn.relu(all_threads(x + y + bias)))
    cost = compiled.lower(x, y).compile().cost_analysis()
  assert cost["flops"] > cost["bytes accessed"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_joined_is_concatenation_with_its_gradient(dtype):
  keys = jax.random.split(jax.random.key(0), 4)
  maps = tuple(
    jax.random.normal(key, (2, 3, 4, c), dtype)
    for key, c in zip(keys, (5, 1, 8))
  )
  weights = jax.random.normal(keys[3], (2, 3, 4, 14), dtype)

  def by(join):
    loss = jax.value_and_grad(lambda maps: (join(maps) * weights).sum())
    return join(maps), loss(maps)

  got = by(joined)
  want = by(lambda maps: jnp.concatenate(maps, axis=-1))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert joined(maps[0]) is maps[0]


@pytest.mark.parametrize("kind", ["depthwise", "dense", "separable"])
def test_layers_take_several_maps_for_one(kind):
  norm = Norm(momentum=0.9, epsilon=1e-3)
  layer = (
    SeparableConv(7, norm)
    if kind == "separable"
    else ConvNorm(7, norm, kernel_size=3, depthwise=kind == "depthwise")
  )
  keys = jax.random.split(jax.random.key(1), 3)
  maps = tuple(
    jax.random.normal(key, (2, 6, 5, c)) for key, c in zip(keys, (4, 3))
  )
  whole = jnp.concatenate(maps, axis=-1)
  variables = layer.init(keys[2], whole, True)
  again = layer.init(keys[2], maps, True)
  jax.tree.map(np.testing.assert_array_equal, again, variables)

  def run(x):
    return layer.apply(variables, x, True, mutable=["batch_stats"])

  for got, want in zip(*map(jax.tree.leaves, (run(maps), run(whole)))):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
