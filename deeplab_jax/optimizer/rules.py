"""The update rules: SGD as the official implementation sets it up, and AdamW.

Decay belongs to the gradient of SGD, so the gradient multipliers of the last
layers multiply it too, and the momentum accumulates before the learning rate:
`a = momentum * a + multiplier * (g + decay * w)`, `w -= lr * a`.

AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization") divides
the mean gradient by its size, which would undo any multiplier of gradients: its
multipliers are of the rate. Decay joins after that:
`w -= lr * multiplier * (adam(g) + decay * w)`.

The learning rate of a backbone may fall with the depth of its units (as Bao et
al. tune BEiT, and Liu et al. ConvNeXt): see `depth_factors`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from deeplab_jax.models.units import backbone_units
from deeplab_jax.optimizer.schedules import learning_rate

Tree = Any
OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """The update rule that `config` describes (see `config.base_config`).

  The structure of its state depends on `config.optimizer` alone, so that a run
  goes on with other settings: Orbax restores no other structure, even where the
  difference holds no array.
  """
  rule = _adamw if config.optimizer == "adamw" else _sgd
  return rule(config)


def _sgd(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
  last, deep = config.last_layer_multiplier, depth_factors(config)
  return optax.chain(
    _clipped(config, decay),
    # By depth, too: of the gradient, as momentum is linear in it.
    _scale(lambda names: last_layer_factor(names, last) * deep(names)),
    optax.trace(config.momentum, nesterov=config.nesterov),
    optax.scale_by_learning_rate(learning_rate(config)),
  )


def _adamw(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  deep, last = depth_factors(config), config.last_layer_multiplier

  def factor(names: list[str]) -> float:
    return deep(names) if names[0] == "backbone" else last

  adam = optax.scale_by_adam(
    b1=config.momentum,
    b2=config.adam_beta2,
    eps=config.adam_epsilon,
    nesterov=config.nesterov,
  )
  return optax.chain(
    _clipped(config, adam),
    optax.add_decayed_weights(config.weight_decay, mask=kernel_mask),
    _scale(factor),
    optax.scale_by_learning_rate(learning_rate(config)),
  )


def _clipped(
  config: ml_collections.ConfigDict, rule: optax.GradientTransformation
) -> optax.GradientTransformation:
  """`rule`, given gradients whose global norm is at most `clip_norm`."""
  if not config.clip_norm:
    return rule
  clip = optax.clip_by_global_norm(config.clip_norm)

  def update(gradients, state, params):
    clipped, _ = clip.update(gradients, optax.EmptyState())
    return rule.update(clipped, state, params)

  return optax.GradientTransformation(rule.init, update)


def depth_factors(
  config: ml_collections.ConfigDict,
) -> Callable[[list[str]], float]:
  """What the learning rate of a leaf is multiplied by, by its path.

  The i-th of the n units of a backbone, counted from the image and from 0, has
  `layer_decay` ** (n - i), leaves that are in no unit are as the first one, and
  all but the backbone has 1. Units are as `backbone_units` finds them.
  """
  if config.layer_decay == 1:
    return lambda names: 1.0
  units = backbone_units(config.model.backbone, config.model.width_multiplier)
  left = {name: len(units) - i for i, name in enumerate(units)}

  def factor(names: list[str]) -> float:
    if names[0] != "backbone":
      return 1.0
    return config.layer_decay ** left.get(names[1], len(units))

  return factor


def decay_mask(params: Tree) -> Tree:
  """True at the leaves that SGD decays: those named `kernel`.

  These are the full and pointwise convolutions and the logits. Depthwise
  kernels, biases and batch norm's parameters are never decayed.
  """
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )


def kernel_mask(params: Tree) -> Tree:
  """True at the leaves that AdamW decays: all kernels, depthwise ones too.

  Not the biases, nor what normalises, scales layers or marks positions.
  """
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key.endswith("kernel"), params
  )


def decay_loss(params: Tree, rate: float) -> jax.Array:
  """The loss whose gradient the decay is: rate * sum(w ** 2) / 2, a scalar."""
  squares = jax.tree.map(
    lambda w, decayed: jnp.sum(w**2) if decayed else 0.0,
    params,
    decay_mask(params),
  )
  return rate / 2 * sum(jax.tree.leaves(squares))


def last_layer_factor(names: list[str], multiplier: float) -> float:
  """What SGD multiplies gradients by: all but the backbone's by `multiplier`.

  Convolution biases, of which only the logits have one, get twice that.
  """
  if names == ["logits", "bias"]:
    return 2 * multiplier
  return 1.0 if names[0] == "backbone" else multiplier


def _scale(
  factor: Callable[[list[str]], float],
) -> optax.GradientTransformation:
  """Multiplies updates by what `factor` gives for the names of their path."""

  def multiply(path: tuple, update: jax.Array) -> jax.Array:
    by = factor([key.key for key in path])
    return update if by == 1 else by * update

  return optax.stateless(
    lambda updates, _: jax.tree.map_with_path(multiply, updates)
  )
