"""Kernel taps that a crop is too small to train.

At atrous rate 18 the outer taps of a kernel look 18 features away, and a crop
of 257 pixels has 17 of them at output stride 16: these taps see padding alone.
No gradient moves them from their random start, and on larger images, such as
whole ones in evaluation, they add noise. Started at zero, they stay there.
"""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from deeplab_jax.models.trace import Layer, layers

Tree = Any


def clear_unreached_taps(
  model: nn.Module, params: Tree, crop_size: tuple[int, int]
) -> Tree:
  """`params` with zero where training on crops of a size cannot reach.

  On images up to `crop_size` the network's outputs stay as they are.

  Args:
    model: the network of `params`.
    params: may be traced.
    crop_size: height and width.
  """
  flat = flax.traverse_util.flatten_dict(params)
  for layer in layers(model, crop_size):
    if len(layer.kernel) != 4:
      continue  # of a layer without taps, such as Flax's Dense
    reached = _reached(layer)
    if not reached.all():
      name = "depthwise_kernel" if layer.depthwise else "kernel"
      path = (*layer.path.split("/"), name)
      flat[path] = jax.numpy.where(reached, flat[path], 0)
  return flax.traverse_util.unflatten_dict(flat)


def _reached(layer: Layer) -> np.ndarray:
  """Which taps see a feature somewhere: bool, to broadcast with the kernel."""
  rows, columns = (
    np.abs(np.arange(taps) - taps // 2) * rate < side
    for taps, rate, side in zip(
      layer.kernel, layer.rate, layer.input_shape[1:3]
    )
  )
  return (rows[:, None] & columns)[..., None, None]
