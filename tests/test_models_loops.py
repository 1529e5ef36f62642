"""Loops in forms of their own compute what the plain ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models.ops.loops import all_threads, concatenated, joined

_SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1.5, 65504.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_threads_changes_no_bit(users_jit, dtype):
  x = jnp.asarray(_SPECIAL, dtype)
  y = users_jit(all_threads)(x)
  assert y.dtype == x.dtype
  assert np.asarray(y).tobytes() == np.asarray(x).tobytes()


def test_all_threads_has_the_gradient_of_the_identity():
  weights = jnp.arange(6.0).reshape(2, 3)
  got = jax.grad(lambda x: (all_threads(x) * weights).sum())(weights)
  np.testing.assert_array_equal(got, weights)


def test_all_threads_makes_xla_count_more_operations_than_bytes(users_jit):
  """If this fails, XLA has learnt to cancel them and the form is of no use."""
  with jax.default_device(jax.devices("cpu")[0]):
    x, y, bias = jnp.ones((64, 32)), jnp.ones((64, 32)), jnp.ones(32)
    compiled = users_jit(lambda x, y: jax.nn.relu(all_threads(x + y + bias)))
    cost = compiled.lower(x, y).compile().cost_analysis()
  assert cost["flops"] > cost["bytes accessed"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_joined_is_concatenation(users_jit, dtype):
  random = np.random.default_rng(0)
  maps = tuple(
    jnp.asarray(random.standard_normal((2, 3, 4, c)), dtype) for c in (5, 1, 8)
  )
  expected = jnp.concatenate(maps, axis=-1)
  np.testing.assert_array_equal(users_jit(joined)(maps), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_concatenated_changes_no_bit_and_has_its_gradient(users_jit, dtype):
  maps = tuple(
    jnp.asarray(_SPECIAL * count, dtype).reshape(2, 2, 2, count)
    for count in (1, 3, 2)
  )
  expected = np.concatenate([np.asarray(x) for x in maps], axis=-1)
  found = users_jit(concatenated)(maps)
  assert found.dtype == expected.dtype
  assert np.asarray(found).tobytes() == expected.tobytes()
  weights = jnp.arange(2.0 * 2 * 2 * 6, dtype=dtype).reshape(2, 2, 2, 6)
  zeros = tuple(map(jnp.zeros_like, maps))
  parts = users_jit(jax.grad(lambda x: (concatenated(x) * weights).sum()))(
    zeros
  )
  np.testing.assert_array_equal(np.concatenate(parts, axis=-1), weights)
