"""A plan as text for people and as plain values for JSON."""

import dataclasses
from typing import Any

from deeplab_jax.plan import Plan

_KINDS = {
  "parameters": "parameters",
  "statistics": "batch statistics",
  "optimizer": "optimizer state",
  "average": "average of weights",
  "batch": "images and labels",
  "padding": "padding of layouts",
  "outputs": "outputs not in place",
  "temporaries": "temporaries",
  "code": "program",
}


def to_dict(
  plan: Plan, largest: int | None = None, crop: tuple[int, int] | None = None
) -> dict[str, Any]:
  """All figures of a plan, JSON-able; bytes, seconds and counts.

  Args:
    plan: of `make_plan`; without a program, `fits` is false and the figures
      that need one are missing.
    largest: the largest global batch, if it was looked for.
    crop: the largest crop, likewise.
  """
  facts = {
    "machine": plan.machine.name,
    "devices": len(plan.machine.devices),
    "kind": plan.machine.kind,
    "device_memory": plan.machine.memory,
    "model": plan.config.model.to_dict(),
    "crop_size": list(plan.config.data.crop_size),
    "batch_size": plan.config.batch_size,
    "images_per_device": plan.images_per_device,
    "largest_batch": largest,
    "largest_crop": crop and list(crop),
    "mesh_height": plan.config.mesh_height,
    "flops": plan.flops,
    "fits": plan.program is not None,
  }
  return facts | (_program_facts(plan) if plan.program else {})


def _program_facts(plan: Plan) -> dict[str, Any]:
  program, floor = plan.program, plan.floor
  return {
    "memory": dataclasses.asdict(program.memory),
    "memory_total": program.memory.total,
    "collectives": {k: c._asdict() for k, c in program.collectives.items()},
    "bytes_sent": plan.bytes_sent,
    "least_traffic": plan.least_traffic,
    "compiled_flops": program.flops,
    "memory_traffic": program.memory_traffic,
    "compile_seconds": program.seconds,
    "floor": floor and dataclasses.asdict(floor) | {"limit": floor.limit},
  }


def to_text(plan: Plan) -> str:
  """The plan in lines: what, memory, collectives, work, floor."""
  machine, config = plan.machine, plan.config
  height, width = config.data.crop_size
  lines = [
    f"{config.model.backbone}, {height} x {width}, {config.model.dtype}: batch "
    f"{config.batch_size} on {len(machine.devices)} x {machine.kind} "
    f"({machine.name}), {_share(plan)}"
  ]
  if plan.program is None:
    size = _bytes(machine.memory)
    return "\n".join([*lines, f"does not fit into {size} of a device"])
  lines += [
    f"compiled in {plan.program.seconds:.0f} s; nothing was run",
    *_memory_lines(plan),
    *_collective_lines(plan),
    *_work_lines(plan),
    *_floor_lines(plan),
  ]
  return "\n".join(lines)


def _share(plan: Plan) -> str:
  height, each = plan.config.mesh_height, plan.images_per_device
  if height == 1:
    return f"{each} images each"
  return f"{each * height:g} images on every {height}"


def _memory_lines(plan: Plan) -> list[str]:
  memory, limit = plan.program.memory, plan.machine.memory
  of = f" of {_bytes(limit)}" if limit else ""
  return ["", f"memory per device: {_bytes(memory.total)}{of}"] + [
    f"  {label:<22}{_bytes(getattr(memory, name)):>12}"
    for name, label in _KINDS.items()
  ]


def _collective_lines(plan: Plan) -> list[str]:
  found = plan.program.collectives
  total = f"each device sends {_bytes(plan.bytes_sent)} a step"
  return ["", f"collectives: {total}" if found else "collectives: none"] + [
    f"  {kind:<22}{_bytes(c.bytes):>12} in {c.count}"
    for kind, c in found.items()
  ]


def _work_lines(plan: Plan) -> list[str]:
  program = plan.program
  return ["", "work per device and step:"] + [
    f"  {label:<22}{_gigaflops(flops)} GFLOP, {_bytes(traffic):>10} of memory"
    for label, flops, traffic in (
      ("at least", plan.flops, plan.least_traffic),
      ("as compiled here", program.flops, program.memory_traffic),
    )
  ]


def _gigaflops(flops: float | None) -> str:
  return f"{'unknown' if flops is None else f'{flops / 1e9:.1f}':>10}"


def _floor_lines(plan: Plan) -> list[str]:
  floor = plan.floor
  if floor is None:
    return ["", f"floor of the step time: no figures for {plan.machine.kind}"]
  rate = plan.config.batch_size / floor.seconds
  return [
    "",
    f"floor of the step time: {1e3 * floor.seconds:.2f} ms, at most {rate:.0f} "
    f"images/s; {floor.limit} limits",
  ] + [
    f"  {name:<22}{1e3 * seconds:>9.2f} ms"
    for name, seconds in dataclasses.asdict(floor).items()
  ]


def _bytes(count: float) -> str:
  for unit in ("B", "KiB", "MiB"):
    if count < 1024:
      return f"{count:.1f} {unit}"
    count /= 1024
  return f"{count:.2f} GiB"
