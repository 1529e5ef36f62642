"""SGD with momentum as the official implementation sets it up.

Decay belongs to the gradient, so the gradient multipliers of the last layers
multiply it too, and the momentum accumulates before the learning rate:
`a = momentum * a + multiplier * (g + decay * w)`, `w -= lr * a`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

Tree = Any


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """The update rule that `config` describes (see `config.base_config`)."""
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    scale_last_layers(config.last_layer_multiplier),
    optax.trace(config.momentum, nesterov=config.nesterov),
    optax.scale_by_learning_rate(learning_rate(config)),
  )


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate as a function of the number of updates made before.

  `poly`: from `lr` to `lr_end` over `steps`, as (1 - t) ** `lr_power`;
  `step`: `lr` times `lr_decay_factor` every `lr_decay_steps`. The first
  `slow_start_steps` run at `slow_start_lr`, or rise from it to `lr` in a line
  with `slow_start_burn_in`; the policy starts after them.
  """
  slow = config.slow_start_steps
  if config.lr_policy == "poly":
    main = optax.polynomial_schedule(
      config.lr, config.lr_end, config.lr_power, max(config.steps - slow, 1)
    )
  elif config.lr_policy == "step":
    main = optax.exponential_decay(
      config.lr, config.lr_decay_steps, config.lr_decay_factor, staircase=True
    )
  else:
    raise ValueError(
      f"lr_policy must be 'poly' or 'step', got {config.lr_policy!r}"
    )
  if slow == 0:
    return main
  rise = config.lr - config.slow_start_lr if config.slow_start_burn_in else 0.0
  # Not optax.linear_schedule, which cancels: it is 2e-5 off at the start.
  return optax.join_schedules(
    [lambda step: config.slow_start_lr + rise * step / slow, main], [slow]
  )


def decay_mask(params: Tree) -> Tree:
  """True at the leaves under weight decay: those named `kernel`.

  These are the full and pointwise convolutions and the logits. Depthwise
  kernels, biases and batch norm's parameters are never decayed.
  """
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )


def decay_loss(params: Tree, rate: float) -> jax.Array:
  """The loss whose gradient the decay is: rate * sum(w ** 2) / 2, a scalar."""
  squares = jax.tree.map(
    lambda w, decayed: jnp.sum(w**2) if decayed else 0.0,
    params,
    decay_mask(params),
  )
  return rate / 2 * sum(jax.tree.leaves(squares))


def scale_last_layers(multiplier: float) -> optax.GradientTransformation:
  """Multiplies the gradients of all but the backbone by `multiplier`.

  Convolution biases, of which only the logits have one, get twice that.
  """

  def multiply(path: tuple, update: jax.Array) -> jax.Array:
    names = [key.key for key in path]
    if names == ["logits", "bias"]:
      return 2 * multiplier * update
    return update if names[0] == "backbone" else multiplier * update

  return optax.stateless(
    lambda updates, _: jax.tree.map_with_path(multiply, updates)
  )
