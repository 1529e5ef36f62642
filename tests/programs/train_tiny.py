"""Trains a tiny network on random batches, for tests of whole processes.

  train_tiny.py FIRST_STEP LAST_STEP FOLDER [MESH_HEIGHT]

Continues the checkpoint in FOLDER, if there is one, and saves the last step
there. MESH_HEIGHT devices share a picture. Process 0 prints the losses as a
JSON list.
"""

import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax import config as config_lib
from deeplab_jax import optimizer, runtime, sharding
from deeplab_jax.models.layers import Conv, ConvNorm, Norm, SeparableConv
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.state import abstract, init_state
from deeplab_jax.train.step import make_train_step

_NORM = Norm(momentum=0.9, epsilon=1e-3)
_BATCH, _SIDE, _CLASSES = 16, 17, 3


class Tiny(nn.Module):
  """A strided and a separable convolution, with all that a step deals with."""

  backbone: str = "mobilenet_v2"
  dropout_rate: float = 0.1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, *, train=False, frozen_batch_norm=False):
    use_batch_stats = train and not frozen_batch_norm
    options = {"norm": _NORM, "dtype": self.dtype}
    x = ConvNorm(8, kernel_size=3, stride=2, **options, name="backbone")(
      images, use_batch_stats
    )
    x = SeparableConv(8, rate=2, **options, name="aspp")(x, use_batch_stats)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return Conv(_CLASSES, name="logits")(x)


def batch_of(step: int) -> dict[str, np.ndarray]:
  """The rows of this process of the global batch of `step`."""
  rng = np.random.default_rng(step)
  squares = rng.integers(0, _CLASSES, (_BATCH, 3, 3)).astype(np.uint8)
  labels = np.kron(squares, np.ones((1, 6, 6), np.uint8))[:, :_SIDE, :_SIDE]
  images = np.repeat(labels[..., None] * 80, 3, axis=-1).astype(np.uint8)
  images += rng.integers(0, 40, images.shape).astype(np.uint8)
  labels[rng.random(labels.shape) < 0.1] = 255
  rows = _BATCH // jax.process_count()
  first = jax.process_index() * rows
  return {
    "image": images[first : first + rows],
    "label": labels[first : first + rows],
  }


def main(first_step: int, last_step: int, folder: str, height: int = 1) -> None:
  runtime.start_runtime()
  config = config_lib.base_config()
  config.update(lr=0.1, steps=100, last_layer_multiplier=2.0)
  mesh = sharding.make_mesh(height)
  rule = optimizer.make_optimizer(config)
  current = init_state(Tiny(), rule, (_SIDE, _SIDE), config.seed, mesh)
  checkpoints = Checkpoints(folder, keep=1)
  restored = checkpoints.restore_newest(abstract(current))
  current = current if restored is None else restored
  assert int(current.step) == first_step, current.step
  train_step = make_train_step(Tiny(), make_loss(config), rule, config, mesh)
  losses = []
  for step in range(first_step, last_step):
    batch = sharding.global_batch(batch_of(step), mesh)
    current, metrics = train_step(current, batch)
    losses.append(float(metrics["loss"]))
  checkpoints.save(current)
  checkpoints.close()
  if jax.process_index() == 0:
    print(json.dumps(losses))


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
