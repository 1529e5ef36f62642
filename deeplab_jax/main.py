"""Trains or evaluates what a config describes.

  python -m deeplab_jax.main --config configs/voc.py --workdir runs/voc

The same command continues a run that was cut off. `--verbosity=1` shows where
an error came from.
"""

import contextlib

from absl import flags

from deeplab_jax import checkpoints, peers, runtime, tasks, train
from deeplab_jax import config as config_lib
from deeplab_jax.config import door

_CONFIG = door.config_flag()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; to evaluate --checkpoint, of the report."
)
_MODE = flags.DEFINE_enum(
  "mode",
  "train_and_eval",
  ["train", "eval", "train_and_eval"],
  "Train without or with evaluations on the way, or evaluate a checkpoint.",
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "What to evaluate; the workdir's newest by default."
)
_COMPARE = flags.DEFINE_string(
  "compare", None, "Another evaluation to show beside: its workdir."
)
_ALLOW_CHANGES = flags.DEFINE_bool(
  "allow_changes",
  False,
  "Continue a run although its model, task or data have changed.",
)


def main() -> None:
  """Runs the mode that the flags ask for."""
  runtime.start_runtime()
  with peers.watched():
    _run_mode()


def _run_mode() -> None:
  config, workdir = _CONFIG.value, _WORKDIR.value
  if workdir is not None:
    workdir = checkpoints.local_path(workdir)
  evaluates = _MODE.value == "eval"
  checkpoint = _CHECKPOINT.value or workdir
  if (checkpoint if evaluates else workdir) is None:
    remedy = " or --checkpoint" if evaluates else ""
    raise ValueError(f"give --workdir{remedy}, the folder of the run")
  if evaluates:
    config_lib.check(config)
    report = tasks.find_task(config).report
    with contextlib.closing(runtime.StopRequest(saves=False)):
      report(checkpoint, config, workdir, compare=_COMPARE.value)
  else:
    evaluating = _MODE.value == "train_and_eval"
    train.train_and_evaluate(
      config,
      workdir,
      evaluating=evaluating,
      allow_changes=_ALLOW_CHANGES.value,
    )


if __name__ == "__main__":
  door.run(main)
