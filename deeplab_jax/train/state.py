"""The training state: all that a step reads and writes."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from deeplab_jax import sharding
from deeplab_jax.models import Classifier, DeepLab
from deeplab_jax.train.unreached_taps import clear_unreached_taps

Tree = Any
Network = DeepLab | Classifier


@flax.struct.dataclass
class TrainState:
  """All that a step reads and writes, and so all that a checkpoint holds.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: the trainable leaves, float32.
    batch_stats: the moving means and variances, float32.
    opt_state: the optimizer's, of the structure optax gives it.
    average: the moving average of {"params", "batch_stats"}; None without one.
  """

  step: jax.Array
  params: Tree
  batch_stats: Tree
  opt_state: Tree
  average: Tree = None

  @property
  def variables(self) -> dict[str, Tree]:
    """The arguments of `model.apply`."""
    return {"params": self.params, "batch_stats": self.batch_stats}

  @property
  def shipped(self) -> dict[str, Tree]:
    """What is evaluated, and what a checkpoint gives to all but training: the
    average, where there is one."""
    return self.variables if self.average is None else self.average

  def starting_from(self, variables: dict[str, Tree]) -> "TrainState":
    """The same with other variables, from which the average begins, too."""
    average = self.average
    if average is not None:  # In memory of its own, as a step is given both.
      average = jax.tree.map(jnp.copy, variables)
    return self.replace(**variables, average=average)


def create_state(
  model: Network,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
  averaged: bool = False,
) -> TrainState:
  """A freshly drawn state; taps that the crop cannot reach are zero.

  Args:
    model: the network.
    optimizer: whose state it is to hold.
    crop_size: height and width of a training crop.
    seed: of the draws.
    averaged: whether there is to be a moving average.
  """
  channels = getattr(model, "channels", 3)
  images = jnp.zeros((1, *crop_size, channels))
  variables = model.init(jax.random.key(seed), images, train=False)
  params = clear_unreached_taps(model, variables["params"], crop_size)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(params),
  )
  return state.replace(average=state.variables) if averaged else state


def initializer(
  model: Network,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
  mesh: Mesh,
  averaged: bool = False,
) -> jax.stages.Wrapped:
  """Draws a state when it is called, in place on every device of `mesh`.

  Its method `eval_shape` gives shapes, dtypes and placements, and draws none.
  """
  create = functools.partial(
    create_state, model, optimizer, crop_size, seed, averaged
  )
  return jax.jit(create, out_shardings=sharding.replicated(mesh))


def init_state(*arguments: Any) -> TrainState:
  """A freshly drawn state; takes what `initializer` does."""
  return initializer(*arguments)()


def abstract(state: TrainState) -> TrainState:
  """Shapes, dtypes and placements of `state`, without its arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )
