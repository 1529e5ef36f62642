"""Model directories: finding, verifying, reading and writing them, with Orbax.

A workdir and an imported model directory hold the same:

  DIR/model.json                what the weights are: see `write_model_json`
  DIR/checkpoints/<step>/       items `variables` and (workdirs) `training`
  DIR/best/<step>/              the step of the best score, `variables` only

Saves are asynchronous and appear under their final name only when whole.
"""

from deeplab_jax.checkpoints.model_directory import (
  find_step,
  load_variables,
  local_path,
  read_model,
  refuse_to_replace,
  save_model,
  write_model_json,
)

__all__ = [
  "find_step",
  "load_variables",
  "local_path",
  "read_model",
  "refuse_to_replace",
  "save_model",
  "write_model_json",
]
