"""What kernels of 8 bits shift, taken off the biases.

A converter rounds the kernel of a channel to multiples of 1/127 of its largest
weight. Where large weights cancel each other, as in a depthwise kernel before
maps that hardly vary, the rounding's error adds nearly the same everywhere: its
mean, which the bias can make up for (Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, 2019, section 4.2; the means
are those of pictures here, not of moving statistics).
"""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.export import operations, program
from deeplab_jax.export.job import Job
from deeplab_jax.models.blocks import BiasConv
from deeplab_jax.models.layers import Conv, ConvNorm
from deeplab_jax.models.ops.whole import replaced

_LAYERS = (ConvNorm, BiasConv, Conv)
_LARGEST = 127
# As a loop, views would keep what is noted to themselves.
_IN_TURN = {"in_turn": operations.MARKED["in_turn"]}


def rounded(kernel: jax.Array) -> jax.Array:
  """`kernel` (kh, kw, c, c') in 255 steps for each of the c' channels."""
  largest = jnp.abs(kernel).max((0, 1, 2))
  step = jnp.where(largest > 0, largest, 1) / _LARGEST
  return jnp.round(kernel / step) * step


def correct_biases(job: Job, folded: Any) -> Any:
  """Variables whose layers have the same means after their kernels' rounding.

  Args:
    job: with pictures of one size to calibrate with.
    folded: what `fold` gives of its variables.

  Returns:
    `folded` with other biases, NumPy arrays; layers without stay as they are.
  """
  run = program.program_fn(job.model, job.protocol, (job.output,))

  @jax.jit
  def shifts(folded, images):
    found = {}

    def note(next_method, args, kwargs, context):
      place = _place_of_bias(context.module)
      if place is not None and context.method_name == "__call__":
        shift = _shift(context.module, place[0], args[0])
        found.setdefault(place, []).append(shift)
      return next_method(*args, **kwargs)

    with nn.intercept_methods(note), replaced(_IN_TURN):
      run(folded, images)
    return {place: jnp.stack(x).mean(0) for place, x in found.items()}

  each = [shifts(folded, image[None]) for image in job.pictures.images]
  flat = flax.traverse_util.flatten_dict(folded)
  for place, shift in jax.tree.map(lambda *x: np.mean(x, 0), *each).items():
    flat[place] = flat[place] - shift
  return flax.traverse_util.unflatten_dict(flat)


def _place_of_bias(module: nn.Module) -> tuple[str, ...] | None:
  """Its keys among the variables; None for what is no layer, or has none."""
  if type(module) in _LAYERS and module.path:  # `_shift`'s have no path
    for collection, arrays in module.variables.items():
      if "bias" in arrays:
        return (collection, *module.path, "bias")
  return None


def _shift(module: nn.Module, collection: str, x: jax.Array) -> jax.Array:
  """How far rounding moves a layer's result before its activation, (c',)."""
  arrays = module.variables[collection]
  (name,) = arrays.keys() - {"bias"}
  alone = {
    name: rounded(arrays[name]) - arrays[name],
    "bias": jnp.zeros_like(arrays["bias"]),
  }
  linear = {} if isinstance(module, Conv) else {"activation": None}
  layer = module.clone(parent=None, **linear)
  inputs = (x, False) if isinstance(module, ConvNorm) else (x,)
  return layer.apply({collection: alone}, *inputs).mean((0, 1, 2))
