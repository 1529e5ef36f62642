"""The training step of a config, compiled for a machine but not run."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from deeplab_jax import sharding
from deeplab_jax.models import Classifier, DeepLab
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.optimizer import make_optimizer
from deeplab_jax.plan import hlo
from deeplab_jax.plan.machines import Machine
from deeplab_jax.tasks import find_task
from deeplab_jax.train.state import create_state
from deeplab_jax.train.step import make_train_step

QUICK = -1.0
"""XLA's least effort. For Xception-65 on a v5e, 16 images a chip, jaxlib 0.10
compiles in 64 s rather than 341 s, to 1 % less memory and 25 % more memory
traffic; for 4 images a chip, to 7 % less memory and more than twice the
traffic. With newer ones, which have levels (see `_compile`), it was not
compared."""


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes that a training step takes on each device.

  Attributes:
    parameters: the trainable leaves.
    statistics: batch norm's moving means and variances.
    optimizer: its state.
    average: the moving average of parameters and statistics, if there is one.
    batch: images and labels, or classes.
    padding: added by the layouts of all these.
    outputs: that do not replace an argument in place.
    temporaries: activations and gradients, at their peak.
    code: the program itself.
  """

  parameters: int
  statistics: int
  optimizer: int
  average: int
  batch: int
  padding: int
  outputs: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    """Bytes of all kinds."""
    return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Program:
  """What the compiler says of one training step; all figures per device.

  Attributes:
    memory: by kind.
    collectives: by kind, see `hlo.Collective`.
    flops: as the compiler counts them; None if it does not, as for a GPU that
      is elsewhere.
    memory_traffic: bytes between chip and HBM, see `hlo.memory_traffic`.
    seconds: that compiling took here.
    text: the program in XLA's text form.
  """

  memory: Memory
  collectives: dict[str, hlo.Collective]
  flops: float | None
  memory_traffic: int
  seconds: float
  text: str = dataclasses.field(repr=False)


def compile_step(
  config: ConfigDict,
  model: DeepLab | Classifier,
  machine: Machine,
  effort: float = QUICK,
  say: Callable[[str], None] = lambda line: None,
) -> Program | None:
  """Compiles the step that training would run.

  Args:
    config: see `config.base_config`; checked.
    model: the network that `config` describes, for the classes of its data set.
    machine: with devices that need not exist.
    effort: the compiler's, from `QUICK` to 1; 0 is what training has.
    say: is told what begins, as it may take many minutes.

  Returns:
    What the compiler says, or None if the step does not fit into memory.
  """
  height, width = config.data.crop_size
  say(
    f"compiling for {len(machine.devices)} x {machine.kind}: batch "
    f"{config.batch_size}, crops of {height} x {width} ..."
  )
  mesh = sharding.make_mesh(config.mesh_height, machine.devices)
  optimizer = make_optimizer(config)
  averaged = config.ema_decay > 0
  create = functools.partial(
    create_state, model, optimizer, (height, width), config.seed, averaged
  )
  task = find_task(config)
  batch = task.abstract_batch(config, model)
  arguments = shapes_of(create), batch
  loss = task.make_loss(config)
  step = make_train_step(model, loss, optimizer, config, mesh)
  step = step.lower(*arguments)
  begin = time.monotonic()
  try:
    compiled = _compile(step, effort)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      return None
    raise
  seconds = time.monotonic() - begin
  memory = _memory(compiled, *arguments, sharding.batch_shares(mesh))
  if machine.memory is not None and memory.total > machine.memory:
    return None
  return _program(compiled, memory, len(machine.devices), seconds)


def _compile(step: jax.stages.Lowered, effort: float) -> jax.stages.Compiled:
  """Compiles with XLA's `exec_time_optimization_effort`, a number.

  From jaxlib 0.11 on there is `optimization_level` in its place, of which the
  lowest stands for efforts below that of training, the highest for those above.
  """
  if not effort:
    return step.compile()
  try:
    return step.compile({"exec_time_optimization_effort": effort})
  except jax.errors.JaxRuntimeError as error:
    if "No such compile option" not in str(error):
      raise
  return step.compile({"optimization_level": "O0" if effort < 0 else "O3"})


def _program(
  compiled: jax.stages.Compiled, memory: Memory, devices: int, seconds: float
) -> Program:
  text = compiled.as_text()
  return Program(
    memory=memory,
    collectives=hlo.collectives(text, devices),
    flops=(compiled.cost_analysis() or {}).get("flops"),
    memory_traffic=hlo.memory_traffic(text),
    seconds=seconds,
    text=text,
  )


def _memory(
  compiled: jax.stages.Compiled, state: Any, batch: Any, shares: int
) -> Memory:
  found = compiled.memory_analysis()
  kinds = {
    "parameters": _bytes(state.params),
    "statistics": _bytes(state.batch_stats),
    "optimizer": _bytes(state.opt_state),
    "average": _bytes(state.average),
    "batch": _bytes(batch) // shares,
  }
  return Memory(
    **kinds,
    padding=found.argument_size_in_bytes - sum(kinds.values()),
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    code=found.generated_code_size_in_bytes,
  )


def _bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
