"""Trains small encoders on one device and on all, for tests of forced devices.

  divide_encoders.py FOLDER ENCODER...

Prints as JSON, by encoder, the losses of some steps on one device; and those of
the same steps, the first half on all devices, the others on one that continues
from the checkpoint of these, which is kept in FOLDER. Residual blocks are
dropped at random, as in training.
"""

import json
import pathlib
import sys

import jax

from deeplab_jax import config as config_lib
from deeplab_jax import optimizer, sharding
from deeplab_jax.models import DeepLab, convnext, efficient, vit
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.state import abstract, init_state
from deeplab_jax.train.step import make_train_step
from tests.programs.train_tiny import batch_of

_STEPS = 6


def shrink() -> None:
  """Leaves every encoder few blocks of few channels."""
  for name in convnext.VARIANTS:
    few = convnext.Variant((1, 1, 1, 1), (8, 16, 24, 32))
    convnext.VARIANTS[name] = few
  for name, variant in vit.VARIANTS.items():
    vit.VARIANTS[name] = variant._replace(features=64, depth=4)
  for name, variant in efficient.VARIANTS.items():
    stages = tuple(
      tuple(
        block._replace(features=max(8, block.features // 8))
        for block in (stage[0], *stage[1:][-1:])
      )
      for stage in variant.stages
    )
    efficient.VARIANTS[name] = variant._replace(stages=stages)


def run(encoder: str, folder: pathlib.Path) -> list[list[float]]:
  """Losses without an interruption, and with one."""
  config = config_lib.base_config()
  config.update(lr=0.01, steps=100)
  model = DeepLab(
    3,
    encoder,
    atrous_rates=(2,),
    aspp_channels=16,
    decoder_convs=((3, 16),),
    drop_path_rate=0.3,
  )
  rule = optimizer.make_optimizer(config)
  one, every = (
    sharding.make_mesh(1, devices)
    for devices in (jax.devices()[:1], jax.devices())
  )

  steps = {
    mesh: make_train_step(model, make_loss(config), rule, config, mesh)
    for mesh in (one, every)
  }

  def train(state, mesh, numbers):
    losses = []
    for number in numbers:
      batch = sharding.global_batch(batch_of(number), mesh)
      state, metrics = steps[mesh](state, batch)
      losses.append(float(metrics["loss"]))
    return state, losses

  def start(mesh):
    return init_state(model, rule, (17, 17), config.seed, mesh)

  _, expected = train(start(one), one, range(_STEPS))
  state, losses = train(start(every), every, range(_STEPS // 2))
  checkpoints = Checkpoints(folder, keep=1)
  checkpoints.save(state)
  state = checkpoints.restore_newest(abstract(start(one)))
  checkpoints.close()
  _, others = train(state, one, range(_STEPS // 2, _STEPS))
  return [expected, losses + others]


def main(folder: str, encoders: list[str]) -> None:
  shrink()
  found = {name: run(name, pathlib.Path(folder, name)) for name in encoders}
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2:])
