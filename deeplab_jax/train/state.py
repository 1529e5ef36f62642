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
  model: Network,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
) -> TrainState:
  """A freshly drawn state; taps that the crop cannot reach are zero."""
  images = jnp.zeros((1, *crop_size, 3))
  variables = model.init(jax.random.key(seed), images, train=False)
  params = clear_unreached_taps(model, variables["params"], crop_size)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(params),
  )


def initializer(
  model: Network,
  optimizer: optax.GradientTransformation,
  crop_size: tuple[int, int],
  seed: int,
  mesh: Mesh,
) -> jax.stages.Wrapped:
  """Draws a state when it is called, in place on every device of `mesh`.

  Its method `eval_shape` gives shapes, dtypes and placements, and draws none.
  """
  create = functools.partial(create_state, model, optimizer, crop_size, seed)
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
