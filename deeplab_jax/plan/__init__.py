"""What a training step would need on a machine, from compiling it.

The step that `train` runs is compiled ahead of time, for the local devices or
for TPU slices that are elsewhere; nothing runs. Memory and collectives are the
compiler's, the floor of the step time follows from published peak figures.
"""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from deeplab_jax.plan.machines import (
  TOPOLOGIES,
  Chip,
  Machine,
  local_machine,
  tpu_machine,
)
from deeplab_jax.plan.program import (
  QUICK,
  Memory,
  Program,
  compile_step,
  make_model,
)
from deeplab_jax.summary import multiply_adds

__all__ = [
  "QUICK",
  "TOPOLOGIES",
  "Chip",
  "Floor",
  "Machine",
  "Memory",
  "Plan",
  "Program",
  "compile_step",
  "largest_batch",
  "largest_that_fits",
  "local_machine",
  "make_plan",
  "tpu_machine",
]


@dataclasses.dataclass(frozen=True)
class Floor:
  """Seconds that a step takes at least, by what limits it at its peak rate.

  Attributes:
    compute: for the operations of the network.
    memory: for the HBM traffic of the compiled program.
    interconnect: for the collectives.
  """

  compute: float
  memory: float
  interconnect: float

  @property
  def limit(self) -> str:
    """Which of the three is the largest."""
    return max(dataclasses.asdict(self), key=lambda name: getattr(self, name))

  @property
  def seconds(self) -> float:
    """The largest: all three may overlap."""
    return max(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Plan:
  """A training step on a machine.

  Attributes:
    config: what is trained.
    machine: where.
    program: what the compiler says; None if the step does not fit into memory.
    flops: per device and step, twice the exact multiply-adds, three times: the
      forward pass and the gradients of the activations and of the kernels.
  """

  config: ConfigDict
  machine: Machine
  program: Program | None
  flops: float

  @property
  def images_per_device(self) -> int:
    """The share of the batch that each device has."""
    return self.config.batch_size // len(self.machine.devices)

  @property
  def bytes_sent(self) -> float:
    """By every device in a step, to other devices."""
    return sum(
      collective.sent(kind, len(self.machine.devices))
      for kind, collective in self.program.collectives.items()
    )

  @property
  def floor(self) -> Floor | None:
    """The least step time; None for a chip of unknown speed."""
    chip = self.machine.chip
    if chip is None:
      return None
    return Floor(
      compute=self.flops / chip.flops,
      memory=self.program.memory_traffic / chip.memory_bandwidth,
      interconnect=self.bytes_sent / chip.link_bandwidth,
    )


def make_plan(
  config: ConfigDict, machine: Machine, effort: float = QUICK
) -> Plan:
  """Compiles the training step of `config` for `machine`.

  Raises:
    ValueError: a wrong field, or a batch that the devices cannot share.
  """
  program = compile_step(config, machine, effort)
  count = multiply_adds(make_model(config), config.data.crop_size).total
  images = config.batch_size // len(machine.devices)
  return Plan(config, machine, program, flops=3 * 2 * count * images)


def largest_batch(
  config: ConfigDict, machine: Machine, effort: float = QUICK
) -> int:
  """The largest global batch whose step fits, by compiling several; 0 if none.

  Found to an eighth, starting from the config's batch.

  Raises:
    ValueError: the memory of the devices is unknown.
  """
  if machine.memory is None:
    raise ValueError(f"the memory of a {machine.kind} is unknown")
  devices = len(machine.devices)

  def fits(images: int) -> bool:
    sized = config.copy_and_resolve_references()
    sized.batch_size = images * devices
    return compile_step(sized, machine, effort) is not None

  return devices * largest_that_fits(fits, config.batch_size // devices)


def largest_that_fits(fits: Callable[[int], bool], start: int) -> int:
  """The largest number that fits, found to an eighth; 0 if none does.

  Args:
    fits: true up to some number, which need not be near.
    start: the number to begin from, 1 or more.
  """
  low, high = 0, start
  while fits(high):
    low, high = high, 2 * high
  while high - low > max(low // 8, 1):
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low
