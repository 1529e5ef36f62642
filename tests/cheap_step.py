"""A training step for tests of data, which need no network trained."""

import jax.numpy as jnp


def make_cheap_step(*_):
  """As `make_train_step`: nothing is compiled, and the loss tells the batch."""

  def step(state, batch):
    names = ("gradient_norm", "learning_rate", "cross_entropy")
    loss = jnp.mean(batch["image"]) + 1000 * jnp.mean(batch["label"])
    metrics = dict.fromkeys(names, 1.0) | {"loss": loss}
    return state.replace(step=state.step + 1), metrics

  return step
