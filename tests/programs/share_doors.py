"""What doors make of pictures that eight devices share.

  share_doors.py FOLDER DATA_DIR MESH_HEIGHT...

Trains on the data set `shapes`, continues, evaluates, predicts and examines,
each with the next of the heights, which come again. Prints as JSON what is to
be the same whatever they are.
"""

import contextlib
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from deeplab_jax import config as config_lib
from deeplab_jax import doctor, evaluate, predict, train
from deeplab_jax.train import records
from tests import tiny_runs
from tests.tiny_segmenter import random_image


def _train(workdir: pathlib.Path, config: ConfigDict, turn: Iterator[int]):
  for steps in (3, 5):
    config.update(steps=steps, mesh_height=next(turn))
    train.train_and_evaluate(config, workdir, evaluating=False)
  rows = records.read(workdir / "metrics.jsonl")
  return [row["train/loss"] for row in rows]


def _eval(workdir: pathlib.Path, config: ConfigDict, turn: Iterator[int]):
  config.mesh_height = next(turn)
  return evaluate.report(workdir, config, workdir).summary()


def _predict(workdir: pathlib.Path, config: ConfigDict, turn: Iterator[int]):
  picture = workdir / "picture.png"
  Image.fromarray(random_image(70, 41)).save(picture)
  flags = "--out", f"{workdir}/out", "--mesh_height", f"{next(turn)}"
  words = str(workdir), str(picture), *flags, "--probabilities"
  assert predict.main(words) == 0
  return np.load(workdir / "out/probabilities/picture.npy").tolist()


def _doctor(workdir: pathlib.Path, config: ConfigDict, turn: Iterator[int]):
  config.mesh_height = next(turn)
  checkup = doctor.examine(config, overfit_steps=3)
  assert len(checkup.overfit.losses) == 3
  return [str(error) for error in checkup.errors]


_DOORS = {
  "train": _train,
  "eval": _eval,
  "predict": _predict,
  "doctor": _doctor,
}


def main(folder: str, data: str, *heights: str) -> dict[str, Any]:
  """What each door gave, by its name."""
  config = config_lib.load(str(tiny_runs.CONFIG))
  config.update(batch_size=8, lr=0.01, keep_checkpoints=1)
  config.data.update(data_dir=data, eval_limit=3)
  common = pathlib.Path(folder), config, itertools.cycle(map(int, heights))
  return {name: door(*common) for name, door in _DOORS.items()}


if __name__ == "__main__":
  with contextlib.redirect_stdout(sys.stderr):
    results = main(*sys.argv[1:])
  print(json.dumps(results))
