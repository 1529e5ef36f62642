"""Networks whose pictures are shared by devices, and the same on one device.

  share_pictures.py train BACKBONE SIDE MESH_HEIGHT...
  share_pictures.py label MESH_HEIGHT...
  share_pictures.py evaluate IMAGES_FOLDER MESH_HEIGHT...

Prints as JSON, by number of devices that share a picture, how results differ.
"""

import json
import re
import sys
from typing import Any

import jax
import numpy as np

from deeplab_jax import config as config_lib
from deeplab_jax import evaluate, optimizer, sharding
from deeplab_jax.models import BACKBONES
from deeplab_jax.plan import hlo
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.state import init_state
from deeplab_jax.train.step import make_train_step
from tests.programs.evaluate_tiny import SIZE, make_config
from tests.tiny_backbone import TINY
from tests.tiny_segmenter import (
  make_variables,
  random_image,
  segmenter,
  small_model,
)

_CLASSES, _BATCH = 3, 4


def train(backbone: str, side: str, *heights: str) -> dict[str, Any]:
  """Two steps of training from equal weights."""
  config = config_lib.base_config()
  dtype = "float64" if jax.config.jax_enable_x64 else "float32"
  config.update(batch_size=_BATCH, lr=0.01, steps=10)
  config.model.update(backbone=backbone, dtype=dtype, dropout_rate=0.0)
  config.data.crop_size = (int(side), int(side))
  model = config_lib.make_model(config, _CLASSES)
  rule = optimizer.make_optimizer(config)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  drawn = init_state(model, rule, config.data.crop_size, 0, mesh)
  drawn = jax.device_get(drawn)
  expected, _ = _train(config, model, drawn, mesh)
  results = {}
  for height in heights:
    mesh = sharding.make_mesh(int(height))
    found, text = _train(config, model, drawn, mesh)
    parts = {name: _difference(found[name], expected[name]) for name in found}
    collectives = hlo.collectives(text, mesh.size)
    counts = {kind: found.count for kind, found in collectives.items()}
    results[height] = parts | counts | {"gathered": _gathered(text)}
  return results


def _train(config, model, state, mesh) -> tuple[dict[str, Any], str]:
  state = jax.device_put(state, sharding.replicated(mesh))
  rule, loss = optimizer.make_optimizer(config), make_loss(config)
  step = make_train_step(model, loss, rule, config, mesh)
  batch = sharding.global_batch(_batch(config.data.crop_size), mesh)
  compiled = step.lower(state, batch).compile()
  for _ in range(2):
    state, metrics = compiled(state, batch)
  names = "params", "batch_stats", "opt_state"
  found = {name: jax.device_get(getattr(state, name)) for name in names}
  return found | {"metrics": jax.device_get(metrics)}, compiled.as_text()


def _batch(size: tuple[int, int]) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (_BATCH, *size, 3)).astype(np.uint8)
  label = image[..., 0] // 86
  label[rng.random(label.shape) < 0.1] = 255
  return {"image": image, "label": label}


def _difference(found: Any, expected: Any) -> float:
  """The largest of any leaf, of its root of the mean square.

  What ought to be 0, such as the gradient of what batch norm undoes, is noise:
  leaves a billion times smaller than others count as if they were not.
  """
  pairs = list(zip(*map(jax.tree.leaves, (found, expected)), strict=True))
  sizes = [np.sqrt(np.square(b).mean(dtype=np.float64)) for _, b in pairs]
  least = 1e-9 * max(sizes)
  return max(
    float(np.abs(a - b).max() / max(size, least))
    for (a, b), size in zip(pairs, sizes, strict=True)
  )


def _gathered(text: str) -> list[list[int]]:
  """The shapes that are gathered, without repetitions."""
  found = re.findall(r"= \(?\w+\[([\d,]+)\]\S* all-gather\(", text)
  return [[int(n) for n in shape.split(",")] for shape in sorted(set(found))]


def label(*heights: str) -> dict[str, Any]:
  """Large pictures, whole and each of two scales with its mirror image."""
  model = small_model(
    atrous_rates=(6, 12), decoder=("conv2",), output_stride=16
  )
  options = {"max_pixels": 2**30, "fold_batch_norm": False}
  results = {height: [] for height in heights}
  for views in ({}, {"scales": (0.75, 1.0), "flip": True}):
    alone = segmenter(model, **options, **views)
    image = random_image(203, 131)
    wanted = "labels", "probabilities"
    expected = alone.outputs(image, *wanted)
    for height in heights:
      shared = segmenter(
        model, **options, **views, mesh_height=int(height)
      )
      found = shared.outputs(image, *wanted)
      labels, probabilities = (np.abs(
        found[n].astype(float) - expected[n]) for n in wanted)
      results[height] += [float((labels > 0).mean()), probabilities.max()]
  return results


def evaluated(folder: str, *heights: str) -> dict[str, Any]:
  """The confusion matrix of a folder, and labels of its examples."""
  model = small_model()
  variables = make_variables(model)
  results = {}
  for height in heights:
    config = make_config(folder)
    config.mesh_height = int(height)
    found = evaluate.evaluate(model, variables, config, detailed=True)
    results[height] = found.to_dict()
  return results


_COMMANDS = {"train": train, "label": label, "evaluate": evaluated}

if __name__ == "__main__":
  BACKBONES["tiny"] = TINY
  assert SIZE
  print(json.dumps(_COMMANDS[sys.argv[1]](*sys.argv[2:]), default=float))
