"""The one step that advances a training state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import losses, sharding
from deeplab_jax.losses import Loss
from deeplab_jax.models import preprocess, resize_bilinear
from deeplab_jax.models.divided import by_rows
from deeplab_jax.models.layers import CONVOLUTION
from deeplab_jax.optimizer import (
  average,
  average_decay,
  decay_loss,
  frozen,
  learning_rate,
)
from deeplab_jax.train.state import Network, TrainState, Tree

Metrics = dict[str, jax.Array]
TrainStep = Callable[
  [TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]
]


def make_train_step(
  model: Network,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  config: ConfigDict,
  mesh: Mesh,
) -> TrainStep:
  """Compiles one update: (state, batch) -> (state, metrics).

  The metrics are "loss", which is the sum of the next two, the loss under its
  own name, those of a sum of losses also under theirs, "weight_decay" (not of
  AdamW, whose decay is of no loss), "gradient_norm", before clipping, and
  "learning_rate".

  The batch holds `image` (b, h, w, channels), of the model's `image_dtype`, and
  `label`, uint8 (b, h, w), with classes behind where they overlap, or, of a
  classifier, int32 (b,). Random draws follow from the seed and the step's
  number alone. The state is donated: the one passed in is gone afterwards.

  With `config.accumulate_steps` the batch goes through the network in so many
  parts. Loss and gradient are those of the whole, normalised by all its
  labelled pixels, where batch norm is frozen; else each part is normalised by
  its own statistics. Hard pixels are mined, and dropout is drawn, by the part;
  in a sum of losses each is normalised over the whole batch all the same.
  `config.batch_norm_groups` are groups of the rows of such a part.

  Weights that are frozen for good have no gradient, which is not computed.
  Those that will thaw have one, which the optimizer's moments follow, so that
  it knows their size by then. Batch statistics of frozen layers move as others.

  On a mesh whose devices share pictures, see `sharding.make_mesh`, each of them
  computes its rows of every map; nothing else changes.
  """
  schedule = learning_rate(config)
  loss_of = _loss_function(model, loss, config)
  loss_of = by_rows(loss_of, mesh, sharding.HEIGHT_AXIS)

  def train_step(state, batch):
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    parts = _split(batch, config.accumulate_steps, mesh)
    keys = jax.random.split(key, config.accumulate_steps)
    whole = batch["label"] if config.accumulate_steps > 1 else None
    sums, batch_stats = _accumulate(loss_of, state, parts, keys, whole)
    value, grads = jax.tree.map(
      lambda total: losses.mean(total, sums["count"]),
      (sums["loss"], sums["gradient"]),
    )
    metrics = {
      loss.name: value,
      **{name: losses.mean(*found) for name, found in sums["terms"].items()},
      **_with_decay(value, state.params, config),
      "gradient_norm": optax.tree.norm(grads),
      "learning_rate": schedule(state.step),
    }
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = _hold(updates, state.step, config)
    params = optax.apply_updates(state.params, updates)
    after = TrainState(state.step + 1, params, batch_stats, opt_state)
    return _averaged(after, state.average, config), metrics

  whole, divided = sharding.replicated(mesh), sharding.divided(mesh)
  return jax.jit(
    train_step,
    in_shardings=(whole, divided),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )


def _with_decay(value: jax.Array, params: Tree, config: ConfigDict) -> Metrics:
  """The loss with the decay that the gradients of SGD have in them."""
  if config.optimizer == "adamw":
    return {"loss": value}
  decay = decay_loss(params, config.weight_decay)
  return {"loss": value + decay, "weight_decay": decay}


def _without_frozen(params: Tree, config: ConfigDict) -> Tree:
  """`params`, without gradients of those that are frozen for good."""
  if config.thaw_step or not _freezes(config):
    return params
  stop = jax.lax.stop_gradient
  held = frozen(config, params)
  return jax.tree.map(lambda w, held: stop(w) if held else w, params, held)


def _hold(updates: Tree, step: jax.Array, config: ConfigDict) -> Tree:
  """`updates`, 0 for weights that are frozen at `step`."""
  if not _freezes(config):
    return updates
  freezing = step < config.thaw_step if config.thaw_step else True
  held = frozen(config, updates)
  return jax.tree.map(
    lambda u, held: jnp.where(freezing, 0, u) if held else u, updates, held
  )


def _freezes(config: ConfigDict) -> bool:
  return bool(config.freeze or config.freeze_stride)


def _averaged(after: TrainState, old: Tree, config: ConfigDict) -> TrainState:
  """The state after a step with the average moved, if it has one."""
  if old is None:
    return after
  decay = average_decay(config.ema_decay, after.step)
  return after.replace(average=average(old, after.variables, decay))


def _loss_function(model: Network, loss: Loss, config: ConfigDict) -> Callable:
  """(params, batch_stats, batch, key, step, labels of all parts or None) ->
  sum, (count, sums and counts of the terms of a sum, batch_stats)."""
  apply = _forward_pass(model, config)

  def sums_of(logits, labels, step, whole):
    if not loss.terms:
      return *loss.sums(logits, labels, step=step), {}
    if whole is not None:
      whole = losses.whole_batch(loss, whole, logits.shape[-1])
    found = {n: f(logits, labels, step=step) for n, f in loss.terms.items()}
    return *losses.join(loss, found, labels, whole), found

  def loss_of(params, batch_stats, batch, key, step, whole):
    params = _without_frozen(params, config)
    variables = {"params": params, "batch_stats": batch_stats}
    (logits, *others), moved = apply(variables, batch["image"], key)
    if getattr(model, "half_pixel", False):
      # Losses align corners, unless there is nothing left to resize.
      size = batch["label"].shape[1:3]
      logits = resize_bilinear(logits, size, True)
      others = [resize_bilinear(other, size, True) for other in others]
    total, count, terms = sums_of(logits, batch["label"], step, whole)
    count = jnp.asarray(count)
    for other in others:
      value = losses.mean(*sums_of(other, batch["label"], step, whole)[:2])
      total += config.loss.auxiliary_weight * value * count
    return total, (count, terms, {**batch_stats, **moved})

  return loss_of


def _forward_pass(model: Network, config: ConfigDict) -> Callable:
  """(variables, images, key) -> logits of every head, the main one's first,
  and the batch statistics that moved."""

  def apply(variables, images, key):
    logits, changed = model.apply(
      variables,
      preprocess(images, model.backbone, getattr(model, "value_range", ())),
      train=True,
      frozen_batch_norm=not config.train_batch_norm,
      rngs={"dropout": key},
      mutable=["batch_stats", "intermediates"],
    )
    others = jax.tree.leaves(changed.get("intermediates", {}))
    return [logits, *others], changed.get("batch_stats", {})

  if config.batch_norm_groups > 1 and config.train_batch_norm:
    apply = _in_groups(apply, config.batch_norm_groups)
  if not config.remat:
    return apply
  # Normalised and activated features are cheap to compute again, and so are
  # depthwise convolutions.
  stored = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
  return jax.checkpoint(apply, policy=stored)


def _in_groups(apply: Callable, groups: int) -> Callable:
  """`apply` with batch statistics of so many groups of neighbouring rows.

  Groups are of the global batch, so that devices do not change them; those that
  lie within a device need nothing of others. Every group moves the statistics
  from where they were, and the mean over groups is kept: of the means exactly
  that of the whole batch, of the variances that within groups.
  """

  def apply_in_groups(variables, images, key):
    images = images.reshape(groups, -1, *images.shape[1:])
    keys = jax.random.split(key, groups)
    in_axes = (None, 0, 0)
    logits, moved = jax.vmap(apply, in_axes)(variables, images, keys)
    logits = [x.reshape(-1, *x.shape[2:]) for x in logits]
    return logits, jax.tree.map(lambda x: x.mean(0), moved)

  return apply_in_groups


def _split(batch: Tree, parts: int, mesh: Mesh) -> Tree:
  """Arrays (b, ...) as (parts, b / parts, ...); each device splits its own."""
  placement = sharding.divided(mesh, axis=1)

  def split(x):
    x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, placement)

  return jax.tree.map(split, batch)


def _accumulate(
  loss_of: Callable,
  state: TrainState,
  parts: Tree,
  keys: jax.Array,
  whole: jax.Array | None,
) -> tuple[dict[str, Any], Tree]:
  """Sums over the parts of a batch, taken one after the other.

  Returns:
    {"loss", "count", "terms", "gradient"} of the whole batch, and the moving
    statistics, which each part has moved.
  """

  gradient_of = jax.value_and_grad(loss_of, has_aux=True)

  def sums_of(batch_stats, part, key):
    (loss, (count, terms, batch_stats)), gradient = gradient_of(
      state.params, batch_stats, part, key, state.step, whole
    )
    sums = {"loss": loss, "count": count, "terms": terms}
    return sums | {"gradient": gradient}, batch_stats

  if len(keys) == 1:
    # Not as a loop: XLA's CPU backend leaves the gradients of convolutions in
    # loops in a form that is ten times slower or more.
    part = jax.tree.map(lambda x: x[0], parts)
    return sums_of(state.batch_stats, part, keys[0])

  def add(before, part_and_key):
    gradient, batch_stats = before
    sums, batch_stats = sums_of(batch_stats, *part_and_key)
    gradient = jax.tree.map(jnp.add, gradient, sums.pop("gradient"))
    return (gradient, batch_stats), sums

  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (gradient, batch_stats), sums = jax.lax.scan(
    add, (zeros, state.batch_stats), (parts, keys)
  )
  totals = jax.tree.map(jnp.sum, sums)
  return totals | {"gradient": gradient}, batch_stats
