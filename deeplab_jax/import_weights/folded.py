"""Quantised weights, and weights with batch norm folded into the convolutions.

TensorFlow Lite's exporters store `kernel = gamma / sigma * kernel` and a bias
in place of batch norm, and may store kernels in 8 bits.
"""

from collections.abc import Mapping

import numpy as np

from deeplab_jax.import_weights.names import backbone_scope
from deeplab_jax.models import BACKBONES

_SCOPE = f"{backbone_scope('mobilenet_v2')}/"
_VARIANCE = 1 - BACKBONES["mobilenet_v2"].norm.epsilon


def unfold(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Undoes quantisation and gives a folded MobileNetV2 its batch norm back.

  Args:
    arrays: by official name. A quantised `<name>` goes with `<name>#scale` and,
      unless 0, `<name>#zero_point`, both along its output axis.

  Returns:
    float kernels under the same names; where no MobileNetV2 layer has a batch
    norm, each `biases` becomes one of scale 1, mean 0 and variance
    1 - epsilon, which computes the same. Anything else as it was.
  """
  arrays = {
    name: _dequantized(name, arrays) for name in arrays if "#" not in name
  }
  if any(n.startswith(_SCOPE) and "/BatchNorm/" in n for n in arrays):
    return arrays
  unfolded = {}
  for name, array in arrays.items():
    if _is_folded_bias(name):
      unfolded |= _batch_norm(name.removesuffix("/biases"), array)
    else:
      unfolded[name] = array
  return unfolded


def _dequantized(name, arrays):
  if f"{name}#scale" not in arrays:
    return arrays[name]
  kernel = np.asarray(arrays[name], np.float32)
  shape = (-1, 1) if name.endswith("/depthwise_weights") else (-1,)
  zero = np.reshape(arrays.get(f"{name}#zero_point", 0), shape)
  return (kernel - zero) * np.reshape(arrays[f"{name}#scale"], shape)


def _is_folded_bias(name):
  return (
    name.startswith(_SCOPE)
    and name.endswith("/biases")
    and not name.startswith(f"{_SCOPE}Logits/")
  )


def _batch_norm(layer, bias):
  return {
    f"{layer}/BatchNorm/gamma": np.ones_like(bias),
    f"{layer}/BatchNorm/beta": bias,
    f"{layer}/BatchNorm/moving_mean": np.zeros_like(bias),
    f"{layer}/BatchNorm/moving_variance": np.full_like(bias, _VARIANCE),
  }
