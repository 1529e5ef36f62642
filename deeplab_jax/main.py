"""Trains or evaluates what a config describes.

  python -m deeplab_jax.main --config configs/voc.py --workdir runs/voc

The same command continues a run that was cut off.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from deeplab_jax import config as config_lib
from deeplab_jax import sharding

_CONFIG = config_flags.DEFINE_config_file(
  "config", help_string="File of configs/, optionally with :ARGUMENTS."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODE = flags.DEFINE_enum(
  "mode",
  "train_and_eval",
  ["train", "eval", "train_and_eval"],
  "Train without or with evaluations, or evaluate a checkpoint once.",
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "What to evaluate; the workdir's newest by default."
)


def main(arguments: list[str]) -> None:
  """Runs the mode that the flags ask for."""
  if len(arguments) > 1:
    raise ValueError(f"unexpected arguments {arguments[1:]}; flags begin with --")
  sharding.start_runtime()
  config = _CONFIG.value
  if _MODE.value == "eval":
    from deeplab_jax import evaluate

    evaluate.report(_CHECKPOINT.value or _WORKDIR.value, config, _WORKDIR.value)
  else:
    from deeplab_jax import train

    train.train_and_evaluate(config, _WORKDIR.value)


def run() -> None:
  """Parses the command line; turns callers' mistakes into one line each."""
  flags.mark_flags_as_required(["config", "workdir"])
  try:
    config_lib.check_overrides(sys.argv[1:])
    app.run(main)
  except (ValueError, FloatingPointError, AttributeError) as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  run()
