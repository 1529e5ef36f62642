"""Runs `:runlocal` of several configs through `main`, for tests.

On a backbone of five convolutions: what configs differ in is their data.

  run_configs.py DATA_DIR RUNS_FOLDER NAME...

One process for all: starting Python and jax takes longer than a run.
"""

import pathlib
import sys

from absl import flags

from deeplab_jax import main
from deeplab_jax.models import BACKBONES
from tests.tiny_backbone import TINY

_REPOSITORY = pathlib.Path(__file__).parent.parent.parent


def run(name: str, data_dir: str, folder: str) -> None:
  """Runs `configs/NAME.py:runlocal` as the command line does."""
  fields = {
    "data.data_dir": data_dir,
    "model.backbone": "tiny",
    "model.width_multiplier": 1.0,
  }
  sys.argv = [  # where the flags of a config look for its fields
    "main",
    f"--config={_REPOSITORY / 'configs' / name}.py:runlocal",
    f"--workdir={folder}/{name}",
    *(f"--config.{field}={value}" for field, value in fields.items()),
  ]
  flags.FLAGS.unparse_flags()
  flags.FLAGS(sys.argv)
  main.main()
  for field in fields:
    delattr(flags.FLAGS, f"config.{field}")  # each config defines its own


if __name__ == "__main__":
  _, data_dir, folder, *names = sys.argv
  BACKBONES["tiny"] = TINY
  for name in names:
    run(name, data_dir, folder)
