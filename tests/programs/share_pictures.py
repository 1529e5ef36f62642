"""Networks whose pictures are shared by devices, and the same on one device.

  share_pictures.py train BACKBONE SIDE MESH_HEIGHT...
  share_pictures.py infer IMAGES_FOLDER MESH_HEIGHT...

Prints as JSON, by number of devices that share a picture, how training differs
from that on one device, or what is inferred.
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
from tests.programs.evaluate_tiny import make_config
from tests.tiny_backbone import TINY
from tests.tiny_segmenter import (
  make_variables,
  random_image,
  segmenter,
  tiny_model,
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


def infer(folder: str, *heights: str) -> dict[str, Any]:
  """Labels of a large picture of two scales, and the evaluation of a folder."""
  model = tiny_model(atrous_rates=(6,), decoder=("conv2",))
  variables, image = make_variables(model), random_image(203, 131)
  results = {}
  for height in map(int, heights):
    options = {"max_pixels": 2**30, "scales": (0.75, 1), "mesh_height": height}
    found = segmenter(model, **options).outputs(image, "labels", "uncertainty")
    config = make_config(folder)
    config.mesh_height = height
    evaluation = evaluate.evaluate(model, variables, config)
    confusion = evaluation.confusion
    results[height] = {**found, "confusion": confusion}
  return jax.tree.map(lambda x: x.tolist(), results)


_COMMANDS = {"train": train, "infer": infer}

if __name__ == "__main__":
  BACKBONES["tiny"] = TINY
  print(json.dumps(_COMMANDS[sys.argv[1]](*sys.argv[2:]), default=float))
