"""Says what a training step would need, without running it.

  python -m deeplab_jax.plan --config configs/voc.py --topology v5e:4x4

Memory per device, the largest batch, collectives, work and a floor of the step
time; without `--topology`, for the local devices. With `--largest_crop` also
the largest crop, for `--config.mesh_height=N` devices that share each picture.
`--config.FIELD=VALUE` alters the config as in training,
`--config.model.dtype=bfloat16` for one.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from deeplab_jax import atomic, plan
from deeplab_jax.config import door
from deeplab_jax.plan import plan_text

_CONFIG = door.config_flag()
_TOPOLOGY = flags.DEFINE_string(
  "topology", None, "TPU slice such as v5e:4x4; the local devices by default."
)
_LARGEST = flags.DEFINE_bool(
  "largest", True, "Look for the largest batch, compiling several sizes."
)
_LARGEST_CROP = flags.DEFINE_bool(
  "largest_crop", False, "Look for the largest crop, in the same way."
)
_EFFORT = flags.DEFINE_float(
  "effort", plan.QUICK, "The compiler's, -1 to 1; 0 is training's.", -1, 1
)
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.")


def main() -> None:
  """Prints the plan that the flags ask for."""
  made = plan.make_plan(_CONFIG.value, _machine(), _EFFORT.value, _say)
  print(plan_text.to_text(made), flush=True)
  largest = crop = None
  if _LARGEST.value:
    largest = _find("largest batch", plan.largest_batch, made)
  if _LARGEST_CROP.value:
    crop = _find("largest crop", plan.largest_crop, made)
  if _JSON.value:
    atomic.write_json(_JSON.value, plan_text.to_dict(made, largest, crop))


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _find(name: str, search: Callable, made: plan.Plan) -> Any:
  """What a search gives, told; None where memory is unknown."""
  if made.machine.memory is None:
    print(f"\n{name}: the memory of a {made.machine.kind} is unknown")
    return None
  found = search(made, _EFFORT.value, _say)
  shown = " x ".join(map(str, found)) if isinstance(found, tuple) else found
  print(f"\n{name}: {shown}", flush=True)
  return found


def _machine() -> plan.Machine:
  if _TOPOLOGY.value is None:
    return plan.local_machine()
  jax.config.update("jax_platforms", "cpu")  # No search for accelerators here.
  return plan.tpu_machine(_TOPOLOGY.value)


if __name__ == "__main__":
  door.run(main)
