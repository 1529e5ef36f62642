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
from deeplab_jax.checkpoints import items


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
  with pytest.raises(
    ValueError, match=r"'poly', 'step', 'cosine', got 'linear'"
  ):
    optimizer.learning_rate(_config(lr_policy="linear"))


def test_cosine_falls_to_its_end_after_a_warm_up():
  schedule = optimizer.learning_rate(
    _config(
      lr=0.2,
      lr_end=0.02,
      lr_policy="cosine",
      steps=110,
      slow_start_steps=10,
      slow_start_lr=0.0,
      slow_start_burn_in=True,
    )
  )
  steps = np.arange(111)
  falling = 0.02 + 0.09 * (1 + np.cos(np.pi * (steps - 10) / 100))
  expected = np.where(steps < 10, 0.02 * steps, falling)
  found = [schedule(step) for step in steps]
  np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-8)


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


# Beside `_params`: what else networks have, in the first and last units.
_DEEP = {
  "backbone": {
    "stem": {"kernel": [1.0, -2.0], "norm": {"scale": [4.0]}},
    "block_15": {"depthwise": {"depthwise_kernel": [3.0]}},
    "block_16": {"project": {"kernel": [2.0], "bias": [1.0]}},
    "layer_scale": [5.0],
    "pos_embedding": [6.0],
  },
  "aspp": {"norm": {"bias": [6.0]}},
  "logits": {"kernel": [7.0], "bias": [8.0]},
}
# Of 18 units: stem, block_0 to block_16; 0.5 to the power of those from here.
_FACTORS = {
  "stem": 0.5**18,
  "block_15": 0.25,
  "block_16": 0.5,
  "layer_scale": 0.5**18,
  "pos_embedding": 0.5**18,
}


def _leaves(tree) -> dict[str, np.ndarray]:
  return {
    name: np.asarray(x, np.float64) for name, x in items.flatten(tree).items()
  }


def _factor(name: str) -> float:
  first, second = name.split("/")[:2]
  return _FACTORS[second] if first == "backbone" else 10.0


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_clipped_updates_by_depth_follow_the_written_rules(rule):
  config = _config(lr=0.1, steps=10, weight_decay=0.01, optimizer=rule)
  config.update(last_layer_multiplier=10.0, layer_decay=0.5, clip_norm=2.0)
  config.model.backbone = "mobilenet_v2"
  made = optimizer.make_optimizer(config)
  params = jax.tree.map(jnp.asarray, _DEEP, is_leaf=lambda x: type(x) is list)
  state = made.init(params)
  weights = _leaves(params)
  means, squares = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
  for step in range(4):
    size = (0.1, 3.0, 1.0, 1.0)[step]  # below the norm, then above
    gradients = jax.tree.map(lambda w, by=size: by * jnp.cos(by + w), params)
    updates, state = made.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    gradient = _leaves(gradients)
    norm = sum((g**2).sum() for g in gradient.values()) ** 0.5
    assert (norm > 2) == (step > 0)
    rate = 0.1 * (1 - step / 10) ** 0.9
    for name, g in gradient.items():
      g = g * min(1, 2 / norm)
      factor, w, last = _factor(name), weights[name], name.split("/")[-1]
      if rule == "sgd":
        decay = 0.01 * (last == "kernel")
        twice = 2 if name == "logits/bias" else 1
        means[name] = 0.9 * means[name] + twice * factor * (g + decay * w)
        weights[name] = w - rate * means[name]
        continue
      decay = 0.01 * last.endswith("kernel")
      means[name] = 0.9 * means[name] + 0.1 * g
      squares[name] = 0.999 * squares[name] + 0.001 * g**2
      mean = means[name] / (1 - 0.9 ** (step + 1))
      root = (squares[name] / (1 - 0.999 ** (step + 1))) ** 0.5
      adam = mean / (root + 1e-8)
      weights[name] = w - rate * factor * (adam + decay * w)
  for name, found in _leaves(params).items():
    np.testing.assert_allclose(found, weights[name], rtol=2e-5, err_msg=name)


def test_settings_leave_the_structure_of_the_state():
  """So that a run goes on with others, and those of the first version do."""
  params = jax.tree.map(jnp.asarray, _DEEP, is_leaf=lambda x: type(x) is list)
  others = {
    "clip_norm": 1.0,
    "layer_decay": 0.9,
    "freeze": ("aspp",),
    "nesterov": True,
    "lr_policy": "cosine",
  }
  for rule in ("sgd", "adamw"):
    plain, changed = (
      jax.tree.structure(optimizer.make_optimizer(config).init(params))
      for config in (
        _config(optimizer=rule),
        _config(optimizer=rule, **others),
      )
    )
    assert plain == changed, rule
    if rule == "sgd":
      first = optax.chain(
        optax.add_decayed_weights(0.1, mask=optimizer.decay_mask),
        optax.stateless(lambda updates, _: updates),
        optax.trace(0.9),
        optax.scale_by_learning_rate(lambda step: 0.1),
      )
      assert plain == jax.tree.structure(first.init(params))


def test_frozen_are_the_patterns_and_the_units_up_to_a_stride():
  params = jax.eval_shape(
    lambda: jax.tree.map(jnp.asarray, _DEEP, is_leaf=lambda x: type(x) is list)
  )

  def found(**fields):
    config = _config(**fields)
    config.model.backbone = "mobilenet_v2"
    assert optimizer.check_freezing(config, params) is None
    mask = items.flatten(optimizer.frozen(config, params))
    return {name for name, held in mask.items() if held}

  everything = set(items.flatten(params))
  backbone = {name for name in everything if name.startswith("backbone/")}
  assert found() == set()
  assert found(freeze=("backbone",)) == backbone
  assert found(freeze=("*/norm", "log*/bias")) == {
    *("backbone/stem/norm/scale", "aspp/norm/bias", "logits/bias")
  }
  stem = {"backbone/stem/kernel", "backbone/stem/norm/scale"}
  assert found(freeze_stride=16) == stem
  units = {name for name in backbone if "block" in name} | stem
  assert found(freeze_stride=32) == units
  assert found(freeze_stride=4, freeze=("aspp",)) == stem | {"aspp/norm/bias"}


def test_average_forgets_the_first_weights_and_keeps_what_does_not_move():
  values = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
  values[:, 0] = 0.1
  expected = mean = jnp.asarray(values[0])
  for step in range(1, 30):
    share = min(0.8, (1 + step) / (10 + step))
    expected = share * np.float64(expected) + (1 - share) * values[step]
    decay = optimizer.average_decay(0.8, jnp.int32(step))
    mean = optimizer.average([mean], [values[step]], decay)[0]
  np.testing.assert_allclose(mean, expected, rtol=1e-5)
  assert mean[0] == np.float32(0.1)
