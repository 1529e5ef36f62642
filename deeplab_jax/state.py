"""The training state and the one step that advances it."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import losses, sharding
from deeplab_jax.models import DeepLab, preprocess
from deeplab_jax.optimizer import decay_loss, learning_rate

Tree = Any
Metrics = dict[str, jax.Array]
TrainStep = Callable[
  ["TrainState", dict[str, jax.Array]], tuple["TrainState", Metrics]
]


@flax.struct.dataclass
class TrainState:
  """All that a step reads and writes, and so all that a checkpoint holds.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: the trainable leaves, float32.
    batch_stats: the moving means and variances, float32.
    opt_state: the optimizer's, of the structure optax gives it.
  """

  step: jax.Array
  params: Tree
  batch_stats: Tree
  opt_state: Tree

  @property
  def variables(self) -> dict[str, Tree]:
    """The arguments of `model.apply`."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
  model: DeepLab,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
) -> TrainState:
  """A freshly drawn state."""
  images = jnp.zeros((1, *crop_size, 3))
  variables = model.init(jax.random.key(seed), images, train=False)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=optimizer.init(variables["params"]),
  )


def init_state(
  model: DeepLab,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """A freshly drawn state, made in place on every device of `mesh`."""
  create = functools.partial(create_state, model, optimizer, crop_size, seed)
  return jax.jit(create, out_shardings=sharding.replicated(mesh))()


def abstract(state: TrainState) -> TrainState:
  """Shapes, dtypes and placements of `state`, without its arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def make_train_step(
  model: DeepLab,
  optimizer: optax.GradientTransformation,
  config: ConfigDict,
  mesh: Mesh,
) -> TrainStep:
  """Compiles one update: (state, batch) -> (state, metrics).

  The batch holds `image` uint8 (b, h, w, 3) and `label` uint8 (b, h, w).
  Random draws follow from the seed and the step's number alone. The state is
  donated: the one passed in is gone afterwards.
  """
  schedule = learning_rate(config)

  def loss_of(params, state, batch):
    key = jax.random.key(config.seed)
    logits, changed = model.apply(
      {"params": params, "batch_stats": state.batch_stats},
      preprocess(batch["image"], model.backbone),
      train=True,
      frozen_batch_norm=not config.train_batch_norm,
      rngs={"dropout": jax.random.fold_in(key, state.step)},
      mutable=["batch_stats"],
    )
    loss = losses.cross_entropy(
      logits, batch["label"], step=state.step, **config.loss
    )
    return loss, changed.get("batch_stats", state.batch_stats)

  def train_step(state, batch):
    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    (loss, batch_stats), grads = gradient_of(state.params, state, batch)
    decay = decay_loss(state.params, config.weight_decay)
    metrics = {
      "loss": loss + decay,
      "cross_entropy": loss,
      "weight_decay": decay,
      "gradient_norm": optax.tree.norm(grads),
      "learning_rate": schedule(state.step),
    }
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

  whole, divided = sharding.replicated(mesh), sharding.divided(mesh)
  return jax.jit(
    train_step,
    in_shardings=(whole, divided),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )
