"""Schedules, decay and gradient multipliers, against the official values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax import optimizer


def _config(**fields) -> ConfigDict:
  config = config_lib.base_config()
  config.update(fields)
  return config


def _params() -> dict:
  """One leaf of every kind, with distinct values."""
  return {
    "backbone": {
      "conv": {"kernel": jnp.array([1.0, -2.0])},
      "depthwise": {"depthwise_kernel": jnp.array([3.0])},
      "norm": {"scale": jnp.array([4.0]), "bias": jnp.array([5.0])},
    },
    "aspp": {"norm": {"bias": jnp.array([6.0])}},
    "logits": {"kernel": jnp.array([7.0]), "bias": jnp.array([8.0])},
  }


def test_learning_rate_equals_the_official_schedules(shared, exactness):
  path = shared / "reference/golden/learning_rate.json"
  cases = json.loads(path.read_text())
  assert len(cases) == 5
  for case in cases:
    schedule = optimizer.learning_rate(
      _config(
        lr=case["base"],
        lr_end=case["end"],
        lr_power=case["power"],
        lr_policy=case["learning_policy"],
        lr_decay_steps=case["learning_rate_decay_step"],
        lr_decay_factor=case["learning_rate_decay_factor"],
        slow_start_steps=case["slow"],
        slow_start_lr=case["slow_lr"],
        slow_start_burn_in=case["burn"] == "linear",
        steps=case["total"],
      )
    )
    steps, expected = np.array(case["values"]).T
    found = [schedule(int(step)) for step in steps]
    # The last step before the end cancels all but a few bits of 1 - t.
    error = np.abs(found - expected) / (np.abs(expected) + 0.005 * case["base"])
    exactness.check("learning_rate.json", "rates", error.max(), 2e-6)


def test_learning_rate_names_an_unknown_policy():
  with pytest.raises(ValueError, match=r"'poly' or 'step', got 'cosine'"):
    optimizer.learning_rate(_config(lr_policy="cosine"))


def test_decay_loss_counts_kernels_only():
  found = optimizer.decay_loss(_params(), 0.1)
  assert found == pytest.approx(0.05 * (1 + 4 + 49))


@pytest.mark.parametrize("nesterov", [False, True])
def test_three_updates_follow_the_written_rule(nesterov):
  config = _config(
    lr=0.1, steps=10, weight_decay=0.01, last_layer_multiplier=10.0
  )
  config.nesterov = nesterov
  rule = optimizer.make_optimizer(config)
  params = _params()
  state = rule.init(params)
  gradient = {  # name: (gradient, decay, multiplier)
    ("backbone", "conv", "kernel"): (0.5, 0.01, 1),
    ("backbone", "depthwise", "depthwise_kernel"): (0.5, 0, 1),
    ("backbone", "norm", "scale"): (0.5, 0, 1),
    ("backbone", "norm", "bias"): (0.5, 0, 1),
    ("aspp", "norm", "bias"): (0.5, 0, 10),
    ("logits", "kernel"): (0.5, 0.01, 10),
    ("logits", "bias"): (0.5, 0, 20),
  }

  def leaf(tree, path):
    for name in path:
      tree = tree[name]
    return np.asarray(tree, np.float64)

  weights = {path: leaf(params, path) for path in gradient}
  slots = dict.fromkeys(gradient, 0.0)
  for step in range(3):
    gradients = jax.tree.map(lambda w: jnp.full_like(w, 0.5), params)
    updates, state = rule.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    rate = 0.1 * (1 - step / 10) ** 0.9
    for path, (g, decay, multiplier) in gradient.items():
      g = multiplier * (g + decay * weights[path])
      slots[path] = 0.9 * slots[path] + g
      move = g + 0.9 * slots[path] if nesterov else slots[path]
      weights[path] = weights[path] - rate * move
  for path, expected in weights.items():
    np.testing.assert_allclose(
      leaf(params, path), expected, rtol=1e-5, err_msg=str(path)
    )
