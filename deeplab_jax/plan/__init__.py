"""What a training step would need on a machine, from compiling it.

The step that `train` runs is compiled ahead of time, for the local devices or
for TPU slices that are elsewhere; nothing runs. Memory and collectives are the
compiler's, the floor of the step time follows from published peak figures.
"""

import dataclasses
import math
from collections.abc import Callable

from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax.data.source import dataset_info
from deeplab_jax.models import Classifier, DeepLab
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
)
from deeplab_jax.summary import Summary, multiply_adds

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
  "largest_crop",
  "largest_that_fits",
  "local_machine",
  "make_plan",
  "tpu_machine",
]


Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Floor:
  """Seconds that a step takes at least, by what limits it at its peak rate.

  Attributes:
    compute: for the operations of the network.
    memory: for the HBM traffic that layers cannot do without.
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
    model: its network.
    machine: where.
    program: what the compiler says; None if the step does not fit into memory.
    network: the exact count of what one image costs.
  """

  config: ConfigDict
  model: DeepLab | Classifier
  machine: Machine
  program: Program | None
  network: Summary

  @property
  def images_per_device(self) -> int | float:
    """The share of the batch that each device has."""
    share = self.config.batch_size / len(self.machine.devices)
    return int(share) if share.is_integer() else share

  @property
  def flops(self) -> int:
    """Of the convolutions, per device and step.

    Twice the multiply-adds, three times: for the outputs, and for the gradients
    of inputs and of kernels.
    """
    return int(3 * 2 * self.network.total * self.images_per_device)

  @property
  def least_traffic(self) -> int:
    """Bytes between a chip and its HBM in a step, if all is fused that can be.

    Forwards every layer reads its input and writes its output; backwards it
    reads its input and the output's gradient and writes the input's: two and a
    half times both. Parameters, optimizer state and average are read and
    written.
    """
    memory = self.program.memory
    activations = int(self.network.activation_bytes * self.images_per_device)
    state = memory.parameters + memory.optimizer + memory.average
    return 5 * activations // 2 + 2 * state

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
      memory=self.least_traffic / chip.memory_bandwidth,
      interconnect=self.bytes_sent / chip.link_bandwidth,
    )


def make_plan(
  config: ConfigDict,
  machine: Machine,
  effort: float = QUICK,
  say: Say = lambda line: None,
) -> Plan:
  """Compiles the training step of `config` for `machine`.

  Args:
    config: what is trained.
    machine: where.
    effort: the compiler's, see `compile_step`.
    say: is told what begins.

  Raises:
    ValueError: a wrong field, or a batch that the devices cannot share.
  """
  config_lib.check(config, len(machine.devices))
  config = config_lib.with_crop(config, largest=None)
  config = config_lib.with_largest_crop(config)
  info = dataset_info(config.data, config.task == "multilabel")
  config_lib.check_classes(config, info.num_classes)
  images = config_lib.image_arguments(info)
  model = config_lib.make_model(config, info.num_classes, **images)
  program = compile_step(config, model, machine, effort, say)
  network = multiply_adds(model, config.data.crop_size)
  return Plan(config, model, machine, program, network)


def largest_batch(
  plan: Plan, effort: float = QUICK, say: Say = lambda line: None
) -> int:
  """The largest global batch whose step fits, by compiling several; 0 if none.

  Found to an eighth, starting from the batch planned, among those that devices,
  `accumulate_steps` and `batch_norm_groups` can share.

  Raises:
    ValueError: the memory of the devices is unknown.
  """
  machine, planned = plan.machine, plan.config.batch_size
  if machine.memory is None:
    raise ValueError(f"the memory of a {machine.kind} is unknown")
  unit = _least_batch(plan.config, len(machine.devices))

  def fits(units: int) -> bool:
    if units * unit == planned:
      return plan.program is not None
    config = plan.config.copy_and_resolve_references()
    config.batch_size = units * unit
    return compile_step(config, plan.model, machine, effort, say) is not None

  return unit * largest_that_fits(fits, planned // unit)


def largest_crop(
  plan: Plan, effort: float = QUICK, say: Say = lambda line: None
) -> tuple[int, int] | None:
  """The largest crop of the planned one's form whose step fits; None if none.

  Found to an eighth of its sides, by compiling several, with the batch, and the
  number of devices that share a picture, that were planned.

  Raises:
    ValueError: the memory of the devices is unknown.
  """
  machine, planned = plan.machine, tuple(plan.config.data.crop_size)
  if machine.memory is None:
    raise ValueError(f"the memory of a {machine.kind} is unknown")
  stride = plan.config.model.output_stride

  def crop(sixteenths: int) -> tuple[int, int]:
    sides = ((side - 1) * sixteenths / 16 for side in planned)
    height, width = (max(round(x / stride), 1) * stride + 1 for x in sides)
    return height, width

  def fits(sixteenths: int) -> bool:
    if sixteenths == 16:
      return plan.program is not None
    config = plan.config.copy_and_resolve_references()
    config.data.crop_size = crop(sixteenths)
    return compile_step(config, plan.model, machine, effort, say) is not None

  found = largest_that_fits(fits, 16)
  return crop(found) if found else None


def _least_batch(config: ConfigDict, devices: int) -> int:
  """What every batch size must be a multiple of, see `config.check`."""
  shares = devices // config.mesh_height
  return config.accumulate_steps * math.lcm(shares, config.batch_norm_groups)


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
