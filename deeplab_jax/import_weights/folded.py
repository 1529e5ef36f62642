"""Quantised weights, and weights with batch norm folded into the convolutions.

TensorFlow Lite's exporters store `kernel = gamma / sigma * kernel` and a bias
in place of batch norm, and may store kernels in 8 bits.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from deeplab_jax.import_weights.names import backbone_scope
from deeplab_jax.models import BACKBONES
from deeplab_jax.models.aspp import HEAD_NORM

_GAMMA = "/BatchNorm/gamma"


def dequantize(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays with float kernels in place of integers.

  Args:
    arrays: by official name. A quantised `<name>` goes with `<name>#scale` and,
      unless 0, `<name>#zero_point`: scalars, or one along its output axis.
  """
  return {
    name: _dequantized(name, arrays) for name in arrays if "#" not in name
  }


def unfold(
  arrays: Mapping[str, np.ndarray], expected: Iterable[str], backbone: str
) -> dict[str, np.ndarray]:
  """Gives layers the batch norm back that was folded into them.

  Args:
    arrays: by official name.
    expected: names of the model's variables.
    backbone: the model's.

  Returns:
    The arrays; where the model has a batch norm and the arrays have `biases`
    instead, these become one of scale 1, mean 0 and variance 1 - epsilon, which
    computes the same.
  """
  unfolded = dict(arrays)
  layers = [n.removesuffix(_GAMMA) for n in expected if n.endswith(_GAMMA)]
  for layer in layers:
    if f"{layer}{_GAMMA}" not in arrays and f"{layer}/biases" in arrays:
      in_backbone = layer.split("/")[0] == backbone_scope(backbone)
      norm = BACKBONES[backbone].norm if in_backbone else HEAD_NORM
      bias = unfolded.pop(f"{layer}/biases")
      unfolded |= _batch_norm(layer, bias, norm.epsilon)
  return unfolded


def _dequantized(name, arrays):
  if f"{name}#scale" not in arrays:
    return arrays[name]
  kernel = np.asarray(arrays[name], np.float32)
  shape = (-1, 1) if name.endswith("/depthwise_weights") else (-1,)
  zero = np.reshape(arrays.get(f"{name}#zero_point", 0), shape)
  return (kernel - zero) * np.reshape(arrays[f"{name}#scale"], shape)


def _batch_norm(layer, bias, epsilon):
  return {
    f"{layer}/BatchNorm/gamma": np.ones_like(bias),
    f"{layer}/BatchNorm/beta": bias,
    f"{layer}/BatchNorm/moving_mean": np.zeros_like(bias),
    f"{layer}/BatchNorm/moving_variance": np.full_like(bias, 1 - epsilon),
  }
