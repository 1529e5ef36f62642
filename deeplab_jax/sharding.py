"""One program on any number of devices: mesh, placements, process start.

Parameters are replicated and batches divided along one mesh axis. Under `jit`
the batch axis is global, so batch statistics, losses and gradients are those
of the whole batch whatever the number of devices.
"""

import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"


def start_runtime() -> None:
  """Joins the other processes, if any, and turns the compilation cache on.

  Call it before anything touches a device.
  """
  # Orbax tells of every file, jax of every accelerator that is not there.
  logging.getLogger("absl").setLevel(logging.ERROR)
  logging.getLogger("jax").setLevel(logging.WARNING)
  _start_processes()
  _start_compilation_cache()


def _start_processes() -> None:
  """Joins the other processes of a run where the environment asks for it.

  `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name a
  process by hand; with `DEEPLAB_DISTRIBUTED=1` jax finds them out itself, on
  TPU pods, under SLURM and Open MPI.
  """
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
      if name not in os.environ:
        raise ValueError(f"{name} must be set beside JAX_COORDINATOR_ADDRESS")
    jax.distributed.initialize(
      num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
      process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
  elif os.environ.get("DEEPLAB_DISTRIBUTED") == "1":
    jax.distributed.initialize()
  if jax.distributed.is_initialized():
    # On CPUs processes wait 30 s for each other where they first meet, and as
    # long as it takes later: let it be before one compiles longer than others.
    multihost_utils.sync_global_devices("start")


def cache_folder() -> pathlib.Path:
  """`$DEEPLAB_CACHE`, or `~/.cache/deeplab_jax`."""
  default = pathlib.Path.home() / ".cache" / "deeplab_jax"
  return pathlib.Path(os.environ.get("DEEPLAB_CACHE", default))


def _start_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless jax is set up to already."""
  if jax.config.jax_compilation_cache_dir is None:
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))


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
