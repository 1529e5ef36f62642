"""One program on any number of devices: the mesh and placements on it.

Parameters are replicated and batches divided along one mesh axis. Under `jit`
the batch axis is global, so batch statistics, losses and gradients are those
of the whole batch whatever the number of devices. Pictures that are too large
for one device are shared by several: along a second axis the rows of their maps
are divided, see `models.divided`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"
HEIGHT_AXIS = "height"


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


def make_mesh(
  height: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Devices along one axis, `BATCH_AXIS`, or two, where they share pictures.

  Args:
    height: of so many devices, neighbours along `HEIGHT_AXIS`, each has a part
      of the rows of a picture; with 1 there is no such axis.
    devices: of the mesh; all of all processes by default, and then those that
      share a picture are of one process, as it is one that reads it.

  Raises:
    ValueError: the devices cannot be divided so.
  """
  if height == 1:
    return Mesh(np.asarray(devices or jax.devices()), (BATCH_AXIS,))
  count, of = len(devices or ()), ""
  if devices is None:
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    count = jax.local_device_count()
    of = " of a process" if jax.process_count() > 1 else ""
  if height not in (fitting := fitting_heights(count)):
    raise ValueError(
      f"mesh_height must be one of {fitting}, which divide the {count} devices"
      f"{of}, got {height}"
    )
  grid = np.asarray(devices).reshape(-1, height)
  return Mesh(grid, (BATCH_AXIS, HEIGHT_AXIS))


def fitting_heights(devices: int) -> list[int]:
  """How many of so many devices can share a picture."""
  return [n for n in range(1, devices + 1) if devices % n == 0]


def batch_shares(mesh: Mesh) -> int:
  """How many parts a batch is divided into: its size is a multiple."""
  return mesh.shape[BATCH_AXIS]


def replicated(mesh: Mesh) -> NamedSharding:
  """The placement of parameters: whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Places `tree`, which all processes have alike, whole on every device."""
  # From the host: an array of one device cannot go to those of other processes.
  return jax.device_put(jax.device_get(tree), replicated(mesh))


def divided(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """The placement of batches: one axis of theirs divided over the devices.

  Devices that share pictures hold them whole, of bytes, to begin with: XLA
  takes no arguments that it would have to pad.
  """
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


def any_process(flag: bool) -> bool:
  """Whether `flag` is set on any process; every process must ask."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def of_first_process(value: int) -> int:
  """The value that the first process has; every process must ask."""
  return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))
