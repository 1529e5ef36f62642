"""Saving, finding, verifying and restoring checkpoints, with Orbax.

A workdir and an imported model directory hold the same:

  DIR/model.json                what the weights are: see `write_model_json`
  DIR/checkpoints/<step>/       items `variables` and (workdirs) `training`
  DIR/best/<step>/              the step of the best score, `variables` only

Saves are asynchronous and appear under their final name only when whole.
"""

from deeplab_jax.checkpoints.initialize import initialize_from
from deeplab_jax.checkpoints.models import (
  find_step,
  load_variables,
  local_path,
  save_model,
  write_json,
  write_model_json,
)
from deeplab_jax.checkpoints.training import Checkpoints

__all__ = [
  "Checkpoints",
  "find_step",
  "initialize_from",
  "load_variables",
  "local_path",
  "save_model",
  "write_json",
  "write_model_json",
]
