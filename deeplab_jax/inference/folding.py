"""Batch normalisation folded into the kernels before it, for inference.

With stored statistics, batch norm is a factor and an offset per channel. The
factor goes into the convolution's kernel; what is left to do is one addition,
which is part of the convolution where `onednn` computes it. Kernel and offset
are variables of their own, the collection `folded`, which a `ConvNorm` takes in
place of its parameters. A `BiasConv`, which has nothing to fold, finds its
kernel among its parameters, in the type that it computes in. Every other layer
finds its parameters as they were: a normalisation without a convolution before
it, and a layer that only resembles these two, stay what they are.
"""

from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.inference import onednn
from deeplab_jax.models.blocks import BiasConv
from deeplab_jax.models.layers import FOLDED, ConvNorm
from deeplab_jax.models.ops import canvas
from deeplab_jax.models.ops.convolution import paddings

_LAYERS = (ConvNorm, BiasConv)


def fold(model: nn.Module, variables: Any) -> Any:
  """Folds the batch norms of `variables` into kernels.

  Args:
    model: the network.
    variables: `{"params", "batch_stats"}`.

  Returns:
    `{"params", "batch_stats", "folded"}`, NumPy arrays: the first two without
    what is folded, kernels in `folded` in the type that their layer computes
    in.
  """
  # In NumPy: jax would compile a program for every new shape.
  host = jax.device_get(variables)
  params = flax.traverse_util.flatten_dict(host["params"])
  stats = flax.traverse_util.flatten_dict(host.get("batch_stats", {}))
  folded = {}
  for path, (layer, epsilon, dtype) in _convolutions(model, variables).items():
    names = (*path, "kernel"), (*path, "depthwise_kernel")
    name = next(name for name in names if name in params)
    kernel = params[name]
    if layer is BiasConv:
      params[name] = kernel.astype(dtype)
      continue
    if epsilon is None:  # nothing to fold: for one call of oneDNN all the same
      folded[*path, "kernel"] = kernel.astype(dtype)
      folded[*path, "bias"] = np.zeros(kernel.shape[-1:], kernel.dtype)
      continue
    scale = params[*path, "norm", "scale"]
    if kernel.ndim != 4 or scale.ndim != 1:
      continue  # stacked, as by nn.scan
    var, mean = (stats[*path, "norm", name] for name in ("var", "mean"))
    factor = scale / np.sqrt(var + np.float32(epsilon))
    # The output channel is the last axis of both kinds.
    folded[*path, "kernel"] = (kernel * factor).astype(dtype)
    folded[*path, "bias"] = params[*path, "norm", "bias"] - mean * factor
  paths = {path[:-1] for path in folded}
  return {
    "params": _without(params, paths),
    "batch_stats": _without(stats, paths),
    FOLDED: flax.traverse_util.unflatten_dict(folded),
  }


def keeps_digits(model: nn.Module) -> bool:
  """Whether folding makes the answer of `model` more exact.

  A result of a convolution in bfloat16 has three digits, of which the
  normalisation takes the mean away. With the released MobileNetV2 x0.5 that
  costs 2.4 points of mean IoU, folded 0.05.
  """
  return jnp.finfo(model.dtype).bits < 32


def _without(flat: dict[tuple, np.ndarray], layers: set[tuple]) -> dict:
  """The tree of `flat` less what stands in or below one of `layers`."""
  return flax.traverse_util.unflatten_dict(
    {
      path: value
      for path, value in flat.items()
      if path[:-1] not in layers and path[:-2] not in layers
    }
  )


def _convolutions(
  model: nn.Module, variables: Any
) -> dict[tuple, tuple[type, float | None, jnp.dtype]]:
  """Of all layers of `_LAYERS`, by path: kind, epsilon of a norm, and type."""
  found = {}

  def note(next_method, args, kwargs, context):
    module = context.module
    if _is_layer(context):
      norm = getattr(module, "norm", None)
      epsilon = norm and norm.epsilon
      found[module.path] = type(module), epsilon, jnp.dtype(module.dtype)
      # Tracing takes seconds.
      return jnp.zeros(_result_shape(module, args[0]), module.dtype)
    return next_method(*args, **kwargs)

  shape = (1, 65, 65, getattr(model, "channels", 3))
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  with nn.intercept_methods(note):
    jax.eval_shape(model.apply, variables, images)
  return found


def _is_layer(context: nn.module.InterceptorContext) -> bool:
  """Whether one of `_LAYERS` is called, not something derived from it."""
  return type(context.module) in _LAYERS and context.method_name == "__call__"


def _result_shape(module: ConvNorm | BiasConv, x: jax.Array) -> tuple[int, ...]:
  reach, up = 0, module.stride - 1
  if module.padding == "valid":
    reach = (module.kernel_size - 1) * module.rate
  elif module.padding == "whole patches":
    up = 0
  sides = [(side - reach + up) // module.stride for side in x.shape[1:3]]
  channels = x.shape[3] if module.depthwise else module.features
  return (x.shape[0], *sides, channels)


def layers_in_onednn() -> AbstractContextManager:
  """Within it, networks of folded variables leave layers to `onednn`.

  What is traced so must be compiled by `onednn.compiled`. Layers that oneDNN
  does not take, or that are not folded, are computed as ever.
  """
  return nn.intercept_methods(_in_onednn)


def _in_onednn(next_method, args, kwargs, context):
  module, y = context.module, None
  if _is_layer(context):
    if type(module) is BiasConv:
      y = _biased(module, *args, **kwargs)
    elif module.has_variable(FOLDED, "kernel"):
      y = _folded(module, *args, **kwargs)
  return next_method(*args, **kwargs) if y is None else y


def _folded(module, x, use_batch_stats, shortcut=None):
  """What `module`, a `ConvNorm`, computes, in one call, or None."""
  del use_batch_stats
  kernel, bias = (module.get_variable(FOLDED, n) for n in ("kernel", "bias"))
  if shortcut is not None and (shortcut.shape, shortcut.dtype) != (
    _result_shape(module, x),
    module.dtype,
  ):
    return None
  return _one_call(module, x, kernel, bias, shortcut)


def _biased(module, x):
  """The same of a `BiasConv`."""
  name = "depthwise_kernel" if module.depthwise else "kernel"
  kernel = module.get_variable("params", name)
  bias = jnp.zeros(kernel.shape[-1:])
  if module.use_bias:
    bias = module.get_variable("params", "bias")
  return _one_call(module, x, kernel, bias)


def _one_call(module, x, kernel, bias, shortcut=None):
  x = x.astype(module.dtype)
  kernel, bias = kernel.astype(x.dtype), bias.astype(jnp.float32)
  settings = (module.stride, module.rate, module.padding)
  pads = paddings(x, kernel, *settings)
  if not onednn.takes(x, kernel, pads, module.stride, module.rate):
    return None
  looks_around = module.kernel_size > 1
  is_known = module.activation in onednn.ACTIVATIONS
  y = onednn.convolution(
    canvas.enter(x, 0 if looks_around else None, module.kernel_size, *settings),
    kernel,
    bias,
    padding=pads,
    stride=module.stride,
    rate=module.rate,
    shortcut=shortcut,
    activation=module.activation if is_known else None,
  )
  y = canvas.leave(y)
  return y if is_known or module.activation is None else module.activation(y)
