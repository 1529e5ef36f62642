"""Batch normalisation folded into the kernels before it, for inference.

With stored statistics, batch norm is a factor and an offset per channel. The
factor goes into the convolution's kernel; what is left to do is one addition,
which is part of the convolution where `onednn` computes it.
The folded parameters keep their names and shapes: kernels are multiplied,
`norm/bias` becomes the offset, and the rest of `norm` is no longer read.
"""

from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.inference import onednn
from deeplab_jax.models.layers import BatchNorm, ConvNorm
from deeplab_jax.models.ops.convolution import paddings
from deeplab_jax.models.ops.loops import all_threads, joined


def fold(model: nn.Module, variables: Any) -> Any:
  """Folds the batch norms of `variables` into its kernels.

  Args:
    model: the network.
    variables: `{"params", "batch_stats"}`.

  Returns:
    variables of the same structure, NumPy arrays, to be used within `folded`
    only.
  """
  # In NumPy: jax would compile a program for every new shape.
  host = jax.device_get(variables)
  params = flax.traverse_util.flatten_dict(host["params"])
  stats = flax.traverse_util.flatten_dict(host["batch_stats"])
  for path, epsilon in _epsilons(model, variables).items():
    scale, bias = params[*path, "scale"], params[*path, "bias"]
    factor = scale / np.sqrt(stats[*path, "var"] + np.float32(epsilon))
    kernel = next(
      (*path[:-1], name)
      for name in ("kernel", "depthwise_kernel")
      if (*path[:-1], name) in params
    )
    # The output channel is the last axis of both kinds.
    params[kernel] = params[kernel] * factor
    params[*path, "bias"] = bias - stats[*path, "mean"] * factor
  return {
    "params": flax.traverse_util.unflatten_dict(params),
    "batch_stats": host["batch_stats"],
  }


def _epsilons(model: nn.Module, variables: Any) -> dict[tuple, float]:
  """The epsilon of every batch norm, by the path of its parameters."""
  found = {}

  def note(next_method, args, kwargs, context):
    module = context.module
    if isinstance(module, BatchNorm):
      found[module.path] = module.epsilon
    if isinstance(module, ConvNorm) and context.method_name == "_convolve":
      return _shape_alone(module, joined(args[0]))  # tracing all takes seconds
    return next_method(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  with nn.intercept_methods(note):
    jax.eval_shape(model.apply, variables, images)
  return found


def _shape_alone(module, x):
  sides = [-(-side // module.stride) for side in x.shape[1:3]]
  channels = x.shape[3] if module.depthwise else module.features
  return jnp.zeros((x.shape[0], *sides, channels), x.dtype)


def folded(in_onednn: bool = False) -> AbstractContextManager:
  """Within it, networks are applied to folded variables.

  Args:
    in_onednn: whether to leave layers to `onednn`, where it takes them; what is
      traced so must be compiled by `onednn.compiled`.
  """
  return nn.intercept_methods(_in_onednn if in_onednn else _only_add)


def _in_onednn(next_method, args, kwargs, context):
  module = context.module
  # Not all of `__call__`, around which others intercept.
  if isinstance(module, ConvNorm) and context.method_name == "_layer":
    y = _one_call(module, *args)
    if y is not None:
      return y
  return _only_add(next_method, args, kwargs, context)


def _one_call(module, maps, use_batch_stats, shortcut):
  """What `module` computes, in one call, or None."""
  del use_batch_stats
  params = module.variables["params"]
  kernel = params.get("kernel", params.get("depthwise_kernel"))
  # A sum, as of `joined`, would be a pass more: nothing fuses with the call.
  x = jnp.concatenate(maps, -1) if isinstance(maps, tuple) else maps
  kernel, bias = (a.astype(x.dtype) for a in (kernel, params["norm"]["bias"]))
  pads = paddings(x, kernel, module.stride, module.rate, module.padding)
  if not onednn.takes(x, kernel, pads):
    return None
  return onednn.convolution(
    x,
    kernel,
    bias,
    padding=pads,
    stride=module.stride,
    rate=module.rate,
    shortcut=shortcut,
    activation=module.activation,
  )


def _only_add(next_method, args, kwargs, context):
  module = context.module
  if not isinstance(module, BatchNorm) or context.method_name != "__call__":
    return next_method(*args, **kwargs)
  x = args[0]
  bias = module.get_variable("params", "bias")
  return all_threads(x + bias.astype(x.dtype))
