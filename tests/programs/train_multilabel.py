"""Trains on a folder of overlapping classes, for tests of whole processes.

  train_multilabel.py FOLDER WORKDIR

Prints the score, and reports on the model. In float64, where rounding cannot
grow in few steps.
"""

import pathlib
import sys

from deeplab_jax import runtime, tasks, train
from deeplab_jax.models import BACKBONES
from tests.multilabel_scenes import make_config
from tests.tiny_backbone import TINY

if __name__ == "__main__":
  BACKBONES["tiny"] = TINY
  runtime.start_runtime()
  folder, workdir = map(pathlib.Path, sys.argv[1:])
  config = make_config(folder, **{"model.dtype": "float64"})
  score = train.train_and_evaluate(config, workdir)
  tasks.MULTILABEL.report(workdir, config, workdir)
  print(score)
