"""One program on any number of devices: the mesh and placements on it.

Parameters are replicated and batches divided along one mesh axis. Under `jit`
the batch axis is global, so batch statistics, losses and gradients are those
of the whole batch whatever the number of devices.
"""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"


def require_same(text: str, subject: str) -> None:
  """Refuses a `text` that is another one on another process; all call this.

  Args:
    text: of any length; only a digest of it is exchanged.
    subject: what the text tells of, for the message.
  """
  if jax.process_count() == 1:
    return
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  if (multihost_utils.process_allgather(digest) != digest).any():
    raise ValueError(
      f"{subject} must be the same on all {jax.process_count()} processes, got "
      "another one on some; make it so, and start again"
    )


def make_mesh() -> Mesh:
  """All devices of all processes along one axis, `BATCH_AXIS`."""
  return Mesh(np.asarray(jax.devices()), (BATCH_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The placement of parameters: whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def divided(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """The placement of batches: one axis of theirs divided over the devices."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Places this process's rows of a batch as part of the global one.

  Args:
    batch: arrays (b / processes, ...), the rows of this process in order.
    mesh: as `make_mesh` gives it.

  Returns:
    The same names with arrays (b, ...) divided over all devices.
  """
  placement = divided(mesh)
  return {
    name: jax.make_array_from_process_local_data(placement, rows)
    for name, rows in batch.items()
  }


def of_first_process(value: int) -> int:
  """The value that the first process has; every process must ask."""
  return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))
