"""Evaluates a small random network, for tests of whole processes.

  evaluate_tiny.py IMAGES_FOLDER

The folder holds images/ and masks/. Process 0 prints the figures, and what is
in the pictures that it has, as JSON.
"""

import json
import sys

import jax

from deeplab_jax import config as config_lib
from deeplab_jax import evaluate, runtime, sharding
from deeplab_jax.evaluate import Evaluation, ScoredPicture
from deeplab_jax.models import BACKBONES
from tests.random_variables import random_variables
from tests.tiny_backbone import TINY
from tests.tiny_segmenter import tiny_model

SIZE = (65, 65)


def make_config(folder: str):
  config = config_lib.base_config()
  config.data.update(
    name="folder", path=folder, data_dir=f"{folder}_built", eval_size=SIZE
  )
  config.eval.update(batch_size=2, pictures=2)
  return config


def evaluate_folder(folder: str, detailed: bool = True) -> Evaluation:
  model = tiny_model()
  variables = random_variables(model, jax.numpy.zeros((1, *SIZE, 3)))
  mesh = sharding.make_mesh()
  variables = jax.device_put(variables, sharding.replicated(mesh))
  return evaluate.evaluate(
    model, variables, make_config(folder), mesh=mesh, detailed=detailed
  )


def fingerprint(picture: ScoredPicture) -> list:
  """Name, sums of image and labels, and the size; labels found may differ in
  single pixels."""
  sums = int(picture.image.sum()), int(picture.labels.sum())
  return [picture.name, *sums, list(picture.predictions.shape)]


if __name__ == "__main__":
  BACKBONES["tiny"] = TINY
  runtime.start_runtime()
  evaluation = evaluate_folder(sys.argv[1])
  if jax.process_index() == 0:
    kept = {
      "examples": evaluation.examples,
      "worst": evaluation.detail.worst,
      "best": evaluation.detail.best,
    }
    prints = {
      name: list(map(fingerprint, found)) for name, found in kept.items()
    }
    print(json.dumps(evaluation.to_dict() | prints))
