"""The training step: what it changes, and what it must not touch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import losses, optimizer, sharding
from deeplab_jax.models import preprocess
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.state import TrainState, abstract, init_state
from deeplab_jax.train.step import make_train_step
from tests.programs import train_tiny
from tests.trees import by_name


@functools.cache
def _tiny_step(seed=0, model=None, **changes):
  """The compiled step of the tiny model, for a changed config."""
  config = _changed(**{"lr": 0.1, "steps": 100, "seed": seed, **changes})
  rule, mesh = optimizer.make_optimizer(config), sharding.make_mesh()
  model = model or train_tiny.Tiny()
  return make_train_step(model, make_loss(config), rule, config, mesh)


@functools.cache
def _tiny_start() -> TrainState:
  """A fresh state on the host: steps take copies of it."""
  rule = optimizer.make_optimizer(config_lib.base_config())
  mesh = sharding.make_mesh()
  fresh = init_state(train_tiny.Tiny(), rule, (17, 17), 0, mesh)
  return jax.device_get(fresh)


def _tiny_states() -> tuple[TrainState, TrainState]:
  """The same fresh state on the host and on the devices."""
  placement = sharding.replicated(sharding.make_mesh())
  return _tiny_start(), jax.device_put(_tiny_start(), placement)


def test_a_step_trains_every_parameter_and_moves_every_statistic():
  before, fresh = _tiny_states()
  after, metrics = _tiny_step()(fresh, train_tiny.batch_of(0))
  assert int(after.step) == 1
  for kind in ("params", "batch_stats"):
    old, new = (by_name(getattr(x, kind)) for x in (before, after))
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
  old, new = by_name(before.params), by_name(after.params)
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
  return jax.device_get(metrics), by_name(after.opt_state)


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
  apply = functools.partial(
    _NO_DROPOUT.apply, train=True, mutable=["batch_stats"]
  )
  apply = jax.jit(apply)
  for first in range(2):  # parts are the even and the odd rows
    images = preprocess(batch["image"][first::2], _NO_DROPOUT.backbone)
    _, changed = apply(variables, images)
    variables |= changed
  expected = by_name(variables["batch_stats"])
  _assert_close([by_name(after.batch_stats)], [expected], 1e-5, 1e-6)


def _grouped(groups, variables, images):
  """Logits and statistics of each group alone: rows in order, then a mean."""
  apply = functools.partial(
    _NO_DROPOUT.apply, variables, train=True, mutable=["batch_stats"]
  )
  parts = images.reshape(groups, -1, *images.shape[1:])
  logits, changed = jax.lax.map(apply, parts)  # compiled once, not for each
  logits = logits.reshape(-1, *logits.shape[2:])
  return logits, jax.tree.map(lambda x: x.mean(0), changed)


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
  found = by_name(momentum), by_name(after.batch_stats)
  expected = by_name(gradient), by_name(statistics)
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
    new, old = (by_name(getattr(x, kind)) for x in (after, wide))
    _assert_close([new], [old], rtol=0, atol=5e-3)


# What the paper has not, all of it.
_RECIPE = {
  "optimizer": "adamw",
  "lr": 0.01,
  "lr_policy": "cosine",
  "weight_decay": 0.05,
  "clip_norm": 0.05,
  "ema_decay": 0.5,
}


def _run(first: TrainState, steps: range, **settings) -> list[TrainState]:
  """The states after each of the steps, on the host."""
  placement = sharding.replicated(sharding.make_mesh())
  current = jax.device_put(first, placement)
  step, states = _tiny_step(model=_NO_DROPOUT, **settings), []
  for number in steps:
    current, _ = step(current, train_tiny.batch_of(number))
    states.append(jax.device_get(current))
  return states


def _start(**settings) -> TrainState:
  config = _changed(**settings)
  rule = optimizer.make_optimizer(config)
  mesh, averaged = sharding.make_mesh(), config.ema_decay > 0
  fresh = init_state(_NO_DROPOUT, rule, (17, 17), 0, mesh, averaged)
  return jax.device_get(fresh)


def test_a_recipe_equals_optax_written_by_hand():
  start = _start(**_RECIPE)
  found = _run(start, range(3), **_RECIPE)
  rule = optax.chain(
    optax.clip_by_global_norm(0.05),
    optax.adamw(
      optax.cosine_decay_schedule(0.01, 100),
      weight_decay=0.05,
      mask=lambda params: jax.tree.map_with_path(
        lambda path, _: "kernel" in path[-1].key, params
      ),
    ),
  )

  @jax.jit
  def update(params, stats, state, batch):
    def loss_of(params):
      images = preprocess(batch["image"], _NO_DROPOUT.backbone)
      logits, changed = _NO_DROPOUT.apply(
        {"params": params, "batch_stats": stats},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      total, count = losses.cross_entropy(logits, batch["label"])
      return total / count, changed["batch_stats"]

    gradient, stats = jax.grad(loss_of, has_aux=True)(params)
    updates, state = rule.update(gradient, state, params)
    return optax.apply_updates(params, updates), stats, state

  params, stats = start.params, start.batch_stats
  mean, state = start.variables, rule.init(params)
  for number, after in enumerate(found, 1):
    batch = train_tiny.batch_of(number - 1)
    params, stats, state = update(params, stats, state, batch)
    share = min(0.5, (1 + number) / (10 + number))
    mean = jax.tree.map(
      lambda a, b, share=share: share * a + (1 - share) * b,
      mean,
      {"params": params, "batch_stats": stats},
    )
    trees = {"params": params, "batch_stats": stats}, mean
    for one, other in zip((after.variables, after.average), trees):
      _assert_close([by_name(one)], [by_name(other)], rtol=1e-4, atol=1e-5)


def test_frozen_weights_stay_until_they_thaw_and_their_moments_follow():
  fields = {**_RECIPE, "clip_norm": 0.0, "freeze": ("aspp", "*/norm")}
  start = _start(**fields)
  held = by_name(optimizer.frozen(_changed(**fields), start.params))
  assert 0 < sum(held.values()) < len(held)
  for_good = _run(start, range(2), **fields)
  thawing = _run(start, range(3), **fields, thaw_step=2)
  for after in (*for_good, *thawing[:2]):
    new, old = by_name(after.params), by_name(start.params)
    for name, frozen in held.items():
      assert np.array_equal(new[name], old[name]) == frozen, name
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    for_good[1].params,
    thawing[1].params,
  )
  new, old = by_name(thawing[2].params), by_name(start.params)
  assert not any(np.array_equal(new[name], old[name]) for name in held)
  of_good, of_thawing = (x[1].opt_state[0].nu for x in (for_good, thawing))
  for name, x in by_name(of_good).items():
    assert np.any(x) != held[name], name
  assert all(np.all(x > 0) for x in jax.tree.leaves(of_thawing))
  moved = by_name(for_good[1].batch_stats), by_name(start.batch_stats)
  assert not any(np.array_equal(moved[0][n], moved[1][n]) for n in moved[0])


def test_a_recipe_goes_on_bit_for_bit_from_its_checkpoint(tmp_path):
  settings = _RECIPE | {"freeze": ("backbone",), "thaw_step": 3}
  start = _start(**settings)
  whole = _run(start, range(4), **settings)
  saver = Checkpoints(tmp_path, keep=1)
  saver.save(whole[1])
  saver.wait()
  placement = sharding.replicated(sharding.make_mesh())
  restored = saver.restore_newest(abstract(jax.device_put(start, placement)))
  saver.close()
  again = _run(jax.device_get(restored), range(2, 4), **settings)
  jax.tree.map(np.testing.assert_array_equal, again[-1], whole[-1])
  assert int(again[-1].step) == 4


def _changed(**settings):
  config = config_lib.base_config()
  config.update(settings)
  return config
