"""The moving average of weights, better than the last ones by a little."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def average_decay(decay: float, step: jax.Array) -> jax.Array:
  """The share of the old average to keep after `step` updates, from 1 on.

  Less than `decay` at first, (1 + step) / (10 + step), so that the first
  weights are soon forgotten, as TensorFlow's `num_updates` makes it.
  """
  return jnp.minimum(decay, (1 + step) / (10 + step))


def average(old: Tree, new: Tree, decay: jax.Array) -> Tree:
  """old + (1 - decay) * (new - old): exactly `new` where nothing moves."""
  return jax.tree.map(lambda a, b: a + (1 - decay) * (b - a), old, new)
