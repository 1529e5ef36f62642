"""The training step: the official trajectory, and what it must not touch."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import import_weights, losses, optimizer, sharding, state
from deeplab_jax.models import preprocess
from tests.programs import train_tiny

_SLOW = ("xception_41_frozen", "xception_41_bn", "resnet_v1_50_beta_bn")
_BACKBONES = {"resnet_v1_50_beta": "resnet_50_beta"}


@pytest.mark.parametrize(
  "case",
  [
    "mobilenet_v2_frozen",
    "mobilenet_v2_bn",
    *(pytest.param(case, marks=pytest.mark.slow) for case in _SLOW),
  ],
)
def test_three_steps_follow_the_official_ones(shared, exactness, case):
  golden = np.load(shared / f"reference/golden/train_{case}.npz")
  settings = json.loads(str(golden["config"]))
  arrays = _official_arrays(shared, settings["model_variant"])
  frozen = not settings["fine_tune_batch_norm"]
  with jax.enable_x64(True):
    run = _golden_run(golden, settings, arrays)
    ours = functools.partial(
      _translate, arrays=arrays, model=_golden_model(settings)
    )
    gradients = ours(golden["trainable"], golden["grad_norm"])
    weights = ours(golden["trainable_after1"], golden["norm_after1"])
    moved = [name for name in golden if name.startswith("after1/")]
    statistics = ours(
      json.dumps([name.removeprefix("after1/") for name in moved]),
      [golden[name] for name in moved],
    )
  check = functools.partial(exactness.check, f"train_{case}.npz")
  _check_rows(run["metrics"], golden["steps_xent_reg_total_lr"], frozen, check)
  _check_gradients(run["gradients"], gradients["params"], frozen, check)
  rtol = 1e-5 if frozen else 1e-3  # lr times the gradients' 3e-2; found 2e-4
  for name, norm in weights["params"].items():
    error = abs(np.linalg.norm(run["params"][name]) / norm.flat[0] - 1)
    check("weight norms after a step", error, rtol)
  compared = 0
  for name, expected in statistics["batch_stats"].items():
    if not np.isnan(expected).any():
      error = np.abs(run["batch_stats"][name] - expected)
      error = (error / (1 + np.abs(expected))).max()
      check("moving statistics after a step", error, 2e-6)
      compared += 1
  assert compared == len(moved) > 0


@functools.cache
def _tiny_step(seed=0, model=None, **changes):
  """The compiled step of the tiny model, for a changed config."""
  config = config_lib.base_config()
  config.update(lr=0.1, steps=100, seed=seed, **changes)
  rule, mesh = optimizer.make_optimizer(config), sharding.make_mesh()
  model = model or train_tiny.Tiny()
  return state.make_train_step(model, rule, config, mesh)


@functools.cache
def _tiny_start() -> state.TrainState:
  """A fresh state on the host: steps take copies of it."""
  rule = optimizer.make_optimizer(config_lib.base_config())
  mesh = sharding.make_mesh()
  fresh = state.init_state(train_tiny.Tiny(), rule, (17, 17), 0, mesh)
  return jax.device_get(fresh)


def _tiny_states() -> tuple[state.TrainState, state.TrainState]:
  """The same fresh state on the host and on the devices."""
  placement = sharding.replicated(sharding.make_mesh())
  return _tiny_start(), jax.device_put(_tiny_start(), placement)


def test_a_step_trains_every_parameter_and_moves_every_statistic():
  before, fresh = _tiny_states()
  after, metrics = _tiny_step()(fresh, train_tiny.batch_of(0))
  assert int(after.step) == 1
  for kind in ("params", "batch_stats"):
    old, new = (_by_name(getattr(x, kind)) for x in (before, after))
    for name in old:
      assert not np.array_equal(old[name], new[name]), name
  decay = optimizer.decay_loss(before.params, 4e-5)
  assert metrics["weight_decay"] == pytest.approx(float(decay))
  total = metrics["cross_entropy"] + metrics["weight_decay"]
  assert metrics["loss"] == pytest.approx(float(total))


def test_frozen_batch_norm_keeps_statistics_and_trains_the_rest():
  before, fresh = _tiny_states()
  step = _tiny_step(train_batch_norm=False)
  after, _ = step(fresh, train_tiny.batch_of(0))
  jax.tree.map(
    np.testing.assert_array_equal, before.batch_stats, after.batch_stats
  )
  old, new = _by_name(before.params), _by_name(after.params)
  for name in old:
    assert not np.array_equal(old[name], new[name]), name


def test_random_draws_follow_from_seed_and_step_alone():
  def loss_at(number, seed=0):
    _, fresh = _tiny_states()
    fresh = fresh.replace(step=jnp.int32(number))
    _, metrics = _tiny_step(seed)(fresh, train_tiny.batch_of(0))
    return float(metrics["cross_entropy"])

  assert loss_at(3) == loss_at(3)
  assert loss_at(3) != loss_at(4)
  assert loss_at(3) != loss_at(3, seed=1)


def test_the_state_passed_in_is_donated():
  _, fresh = _tiny_states()
  _tiny_step()(fresh, train_tiny.batch_of(0))
  assert fresh.params["logits"]["kernel"].is_deleted()


def _one_step(**settings) -> tuple[dict, dict]:
  """Metrics and momentum (the gradient, decayed) of a first step by name."""
  _, fresh = _tiny_states()
  after, metrics = _tiny_step(**settings)(fresh, _uneven_batch())
  return jax.device_get(metrics), _by_name(after.opt_state)


def _uneven_batch() -> dict[str, np.ndarray]:
  """A batch whose rows have labels on ever fewer pixels, the last on none."""
  batch = train_tiny.batch_of(0)
  for row, labels in enumerate(batch["label"]):
    labels[: row + 2] = 255
  return batch


def _assert_close(found, expected, rtol, atol):
  for one, other in zip(found, expected):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_allclose(
        one[name], other[name], rtol=rtol, atol=atol, err_msg=name
      )


_NO_DROPOUT = train_tiny.Tiny(dropout_rate=0.0)


@pytest.mark.parametrize("parts", [2, 16])
def test_accumulated_parts_equal_the_whole_batch(parts):
  settings = {"model": _NO_DROPOUT, "train_batch_norm": False}
  found = _one_step(accumulate_steps=parts, **settings)
  _assert_close(found, _one_step(**settings), rtol=1e-5, atol=1e-6)


def test_accumulated_parts_move_the_statistics_one_after_the_other():
  _, fresh = _tiny_states()
  step = _tiny_step(model=_NO_DROPOUT, accumulate_steps=2)
  batch = train_tiny.batch_of(0)
  after, _ = step(fresh, batch)
  variables = jax.tree.map(jnp.asarray, _tiny_start().variables)
  for first in range(2):  # parts are the even and the odd rows
    images = preprocess(batch["image"][first::2], _NO_DROPOUT.backbone)
    _, changed = _NO_DROPOUT.apply(
      variables, images, train=True, mutable=["batch_stats"]
    )
    variables |= changed
  expected = _by_name(variables["batch_stats"])
  _assert_close([_by_name(after.batch_stats)], [expected], 1e-5, 1e-6)


def _grouped(groups, variables, images):
  """Logits and statistics of each group alone: rows in order, then a mean."""
  results = [
    _NO_DROPOUT.apply(variables, part, train=True, mutable=["batch_stats"])
    for part in jnp.split(images, groups)
  ]
  mean = jax.tree.map(lambda *x: sum(x) / groups, *(c for _, c in results))
  return jnp.concatenate([logits for logits, _ in results]), mean


@pytest.mark.parametrize("remat", [False, True])
def test_batch_norm_groups_are_normalised_apart(remat):
  batch = _uneven_batch()
  images = preprocess(batch["image"], _NO_DROPOUT.backbone)
  start = jax.tree.map(jnp.asarray, _tiny_start())

  def loss_of(params):
    variables = start.variables | {"params": params}
    logits, changed = _grouped(4, variables, images)
    total, count = losses.cross_entropy(logits, batch["label"])
    return losses.mean(total, count), changed["batch_stats"]

  gradient_of = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  (loss, statistics), gradient = gradient_of(start.params)
  _, fresh = _tiny_states()
  settings = {"model": _NO_DROPOUT, "weight_decay": 0.0, "remat": remat}
  step = _tiny_step(batch_norm_groups=4, **settings)
  after, metrics = step(fresh, batch)
  assert metrics["cross_entropy"] == pytest.approx(float(loss), rel=1e-6)
  gradient["logits"]["bias"] *= 2  # as the optimizer's rule is
  momentum = after.opt_state[2].trace
  found = _by_name(momentum), _by_name(after.batch_stats)
  expected = _by_name(gradient), _by_name(statistics)
  _assert_close(found, expected, rtol=1e-5, atol=1e-6)
  _, fresh = _tiny_states()
  whole, _ = _tiny_step(model=_NO_DROPOUT, weight_decay=0.0)(fresh, batch)
  norm = optax.tree.norm(momentum)
  apart = jax.tree.map(jnp.subtract, momentum, whole.opt_state[2].trace)
  assert optax.tree.norm(apart) > 0.01 * norm  # groups can be told from none


def test_batch_norm_groups_move_the_statistics_by_their_mean():
  """Of the first layer, in NumPy: biased means, unbiased variances."""
  batch = train_tiny.batch_of(0)
  before, fresh = _tiny_states()
  after, _ = _tiny_step(batch_norm_groups=8)(fresh, batch)
  images = np.asarray(preprocess(batch["image"], "mobilenet_v2"))
  x = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  kernel = before.params["backbone"]["kernel"].astype(np.float64)
  x = sum(  # 3x3, stride 2
    x[:, i : i + 17 : 2, j : j + 17 : 2] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )
  groups = x.reshape(8, -1, x.shape[-1])
  found = after.batch_stats["backbone"]["norm"]
  mean, var = groups.mean(1).mean(0), groups.var(1, ddof=1).mean(0)
  np.testing.assert_allclose(found["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_frozen_batch_norm_knows_no_groups():
  settings = {"model": _NO_DROPOUT, "train_batch_norm": False}
  found = _one_step(batch_norm_groups=4, **settings)
  _assert_close(found, _one_step(**settings), rtol=1e-6, atol=1e-7)


def test_dropout_differs_from_part_to_part():
  _, fresh = _tiny_states()
  batch = train_tiny.batch_of(0)
  batch = {name: np.repeat(x[:8], 2, axis=0) for name, x in batch.items()}
  model = train_tiny.Tiny(dropout_rate=0.5)
  settings = {"model": model, "train_batch_norm": False}
  halves = {name: x[::2] for name, x in batch.items()}
  _, once = _tiny_step(**settings)(fresh, halves)
  _, fresh = _tiny_states()
  _, twice = _tiny_step(accumulate_steps=2, **settings)(fresh, batch)
  assert once["cross_entropy"] != twice["cross_entropy"]


def test_rematerialisation_changes_nothing_but_what_is_stored():
  found, expected = _one_step(remat=True), _one_step()
  _assert_close(found, expected, rtol=1e-5, atol=1e-6)
  _, fresh = _tiny_states()
  batch = train_tiny.batch_of(0)
  again, once = (
    str(jax.make_jaxpr(_tiny_step(remat=remat))(fresh, batch))
    for remat in (True, False)
  )
  assert again.count("rsqrt") > once.count("rsqrt")
  assert again.count("dot_general[") == once.count("dot_general[")


def test_bfloat16_computes_beside_float32_parameters():
  """Found: 2e-4 of the loss, 2e-3 of the gradient's norm, 1e-3 of weights."""
  _, fresh = _tiny_states()
  model = train_tiny.Tiny(dropout_rate=0.0, dtype=jnp.bfloat16)
  after, metrics = _tiny_step(model=model)(fresh, train_tiny.batch_of(0))
  for leaf in jax.tree.leaves((after.variables, metrics)):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
  _, fresh = _tiny_states()
  wide, exact = _tiny_step(model=_NO_DROPOUT)(fresh, train_tiny.batch_of(0))
  loss, norm = (
    abs(metrics[name] / exact[name] - 1)
    for name in ("cross_entropy", "gradient_norm")
  )
  assert 0 < loss < 2e-3 and 0 < norm < 0.02
  for kind in ("params", "batch_stats"):
    new, old = (_by_name(getattr(x, kind)) for x in (after, wide))
    _assert_close([new], [old], rtol=0, atol=5e-3)


def _official_arrays(shared, variant: str) -> dict[str, np.ndarray]:
  """The weights that the golden runs started from, by official name."""
  sys.path.insert(0, str(shared / "reference"))
  try:
    import make_weights
  finally:
    sys.path.pop(0)
  return make_weights.weights(
    str(shared / f"reference/variables/{variant}.json")
  )


def _golden_config(settings: dict):
  config = config_lib.base_config()
  config.update(
    lr=settings["base_learning_rate"],
    steps=settings["training_number_of_steps"],
    momentum=settings["momentum"],
    weight_decay=settings["weight_decay"],
    last_layer_multiplier=settings["last_layer_gradient_multiplier"],
    train_batch_norm=settings["fine_tune_batch_norm"],
  )
  variant = settings["model_variant"]
  config.model.update(
    backbone=_BACKBONES.get(variant, variant),
    output_stride=settings["output_stride"],
    atrous_rates=tuple(settings["atrous_rates"] or ()),
    decoder=("conv2",) if settings["decoder_output_stride"] else (),
    dropout_rate=0.0,
    dtype="float64",
  )
  return config


def _golden_model(settings: dict):
  return config_lib.make_model(
    _golden_config(settings), settings["num_classes"]
  )


def _golden_run(golden, settings, arrays) -> dict:
  """Four steps on the golden batch: all metrics, and the first one's effect."""
  config, model = _golden_config(settings), _golden_model(settings)
  rule = optimizer.make_optimizer(config)
  variables = import_weights.from_tensorflow(arrays, model)
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
  current = state.TrainState(
    step=jnp.zeros((), jnp.int32),
    opt_state=rule.init(variables["params"]),
    **variables,
  )
  step = state.make_train_step(model, rule, config, sharding.make_mesh())
  batch = {"image": golden["image"], "label": golden["label"][..., 0]}
  current, metrics = step(current, batch)
  run = {
    "gradients": _by_name(current.opt_state[2].trace),  # momentum was 0
    "params": _by_name(current.params),
    "batch_stats": _by_name(current.batch_stats),
    "metrics": [metrics],
  }
  for _ in range(3):
    current, metrics = step(current, batch)
    run["metrics"].append(metrics)
  return run


def _by_name(tree) -> dict[str, np.ndarray]:
  flat = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in flat}


def _translate(names, values, *, arrays, model) -> dict[str, dict]:
  """Values by official name (a JSON list) -> by ours, NaN where there is none.

  A scalar fills an array of the variable's shape.
  """
  given = dict(zip(json.loads(str(names)), values))
  filled = {
    name: np.broadcast_to(np.float32(given.get(name, np.nan)), x.shape)
    for name, x in arrays.items()
  }
  variables = import_weights.from_tensorflow(filled, model)
  return {kind: _by_name(tree) for kind, tree in variables.items()}


def _check_rows(metrics, expected, frozen, check):
  """Tolerances of official-deeplab.md, section 14.

  With batch norm trained, the official run's float32 statistics part the two
  trajectories after the first step: by 2 % of the cross-entropy, 2e-5 of the
  decay.
  """
  cross_entropy = [float(row["cross_entropy"]) for row in metrics]
  tolerances = [1e-6, 1e-6, 1e-4, 1e-4] if frozen else [3e-5, 0.02, 0.02, 0.02]
  errors = np.abs(cross_entropy / expected[:, 0] - 1)
  for step, (error, tolerance) in enumerate(zip(errors, tolerances)):
    check(f"cross-entropy after {step} steps", error, tolerance)
  decay = [float(row["weight_decay"]) for row in metrics]
  tolerances = [1e-6] * 4 if frozen else [1e-6, 1e-6, 1e-4, 1e-4]
  errors = np.abs(decay / expected[:, 1] - 1)
  for step, (error, tolerance) in enumerate(zip(errors, tolerances)):
    check(f"weight decay after {step} steps", error, tolerance)
  loss = [float(row["loss"]) for row in metrics]
  np.testing.assert_allclose(loss, np.add(cross_entropy, decay), rtol=1e-12)
  rates = [float(row["learning_rate"]) for row in metrics]
  np.testing.assert_allclose(rates, expected[:, 3], rtol=1e-6)


def _check_gradients(found, expected, frozen, check):
  norms = np.array([value.flat[0] for value in expected.values()])
  errors = np.array([np.linalg.norm(found[name]) for name in expected])
  errors = np.abs(errors - norms) / norms
  # A beta before nothing but a linear layer and batch norm has no gradient.
  errors = errors[norms > 1e-4 * np.median(norms)]
  assert errors.size > 0.85 * norms.size
  check("gradient norms, median", np.median(errors), 1e-6 if frozen else 1e-2)
  check("gradient norms, worst", errors.max(), 4e-4 if frozen else 3e-2)
