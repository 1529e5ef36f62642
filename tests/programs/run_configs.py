"""Runs `:runlocal` of several configs through `main`, for tests.

  run_configs.py DATA_DIR RUNS_FOLDER NAME...

One process for all: starting Python and jax takes longer than a run.
"""

import pathlib
import sys

from absl import flags

from deeplab_jax import main

_REPOSITORY = pathlib.Path(__file__).parent.parent.parent


def run(name: str, data_dir: str, folder: str) -> None:
  """Runs `configs/NAME.py:runlocal` as the command line does."""
  sys.argv = [  # where the flags of a config look for its fields
    *("main", f"--config={_REPOSITORY / 'configs' / name}.py:runlocal"),
    *(f"--workdir={folder}/{name}", f"--config.data.data_dir={data_dir}"),
  ]
  flags.FLAGS.unparse_flags()
  flags.FLAGS(sys.argv)
  main.main()
  delattr(flags.FLAGS, "config.data.data_dir")  # each config defines its own


if __name__ == "__main__":
  _, data_dir, folder, *names = sys.argv
  for name in names:
    run(name, data_dir, folder)
