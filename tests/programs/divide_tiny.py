"""Trains a tiny network on one device and on all, for tests of forced devices.

  divide_tiny.py NAME=VALUE;...

Each word is one case: fields of the config that it changes, "loss" being its
name and "hard" the fraction of its pixels. Prints as JSON, by case, what steps
on one device and on all gave; on one no other shares a picture.
"""

import ast
import json
import sys
from typing import Any

import jax
import numpy as np

from deeplab_jax import config as config_lib
from deeplab_jax import optimizer, sharding
from deeplab_jax.plan import hlo
from deeplab_jax.tasks import multilabel, segmentation
from deeplab_jax.train.state import init_state
from deeplab_jax.train.step import make_train_step
from tests.programs.train_tiny import Tiny, batch_of

_STEPS = 20


def run(changes: dict[str, Any], devices: list[jax.Device]) -> dict[str, Any]:
  """Losses, weights and statistics after some steps; bytes reduced in one."""
  config = config_lib.base_config()
  changes = dict(changes)
  config.loss.name = changes.pop("loss", config.loss.name)
  config.loss.hard_pixel_fraction = changes.pop("hard", 1.0)
  config.update({"lr": 0.1, "steps": 100, **changes})
  if len(devices) == 1:
    config.mesh_height = 1
  config_lib.check(config, len(devices))
  mesh = sharding.make_mesh(config.mesh_height, devices)
  model, rule = Tiny(dropout_rate=0.0), optimizer.make_optimizer(config)
  current = init_state(model, rule, (17, 17), 0, mesh, config.ema_decay > 0)
  overlap = config.task == "multilabel"
  loss = (multilabel if overlap else segmentation).make_loss(config)
  step = make_train_step(model, loss, rule, config, mesh)
  losses = []
  for number in range(_STEPS):
    batch = batch_of(number)
    if overlap:
      batch["label"] = _planes(batch["label"])
    batch = sharding.global_batch(batch, mesh)
    if number == 0:
      text = step.lower(current, batch).compile().as_text()
      reduced = hlo.collectives(text, len(devices))
    current, metrics = step(current, batch)
    losses.append(float(metrics["loss"]))
  leaves = jax.tree.leaves((current.variables, current.average))
  return {
    "losses": losses,
    "variables": [np.asarray(x).ravel().tolist() for x in leaves],
    "collectives": {k: c._asdict() for k, c in reduced.items()},
  }


def _planes(labels: np.ndarray) -> np.ndarray:
  """Labels (b, h, w) of classes that overlap: each is also the one before."""
  planes = [(labels == c) | (labels == c + 1) for c in range(3)]
  planes = np.stack(planes, -1).astype(np.uint8)
  planes[labels == 255] = 255
  return planes


def main(cases: list[str]) -> None:
  results = {}
  for case in cases:
    pairs = (word.split("=") for word in case.split(";") if word)
    changes = {name: ast.literal_eval(value) for name, value in pairs}
    devices = jax.devices()
    results[case] = [run(changes, devices[:1]), run(changes, devices)]
  print(json.dumps(results))


if __name__ == "__main__":
  main(sys.argv[1:])
