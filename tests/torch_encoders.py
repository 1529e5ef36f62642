"""PyTorch's encoders, plainly: what timm's modules compute.

As `torch_networks`, for networks with other layers: written from the names of
their state dicts, channels first, sharing nothing with `deeplab_jax`. Held
against timm itself by `test_encoders_reference.py`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.torch_networks import Network


class Encoder(Network):
  """Layers by torch's names, with biases and layer normalisation."""

  def bias_conv(
    self, name, x, features, size, stride=1, rate=1, groups=1, pad=(0, 0)
  ):
    """Convolution with bias and `pad` zeros before and after both axes."""
    shape = (features, x.shape[1] // groups, size, size)
    spread = np.prod(shape[1:]) ** -0.5
    y = lax.conv_general_dilated(
      x,
      self._array(f"{name}.weight", shape, 0, spread),
      (stride, stride),
      [pad, pad],
      rhs_dilation=(rate, rate),
      dimension_numbers=("NCHW", "OIHW", "NCHW"),
      feature_group_count=groups,
    )
    bias = self._array(f"{name}.bias", (features,), 0, 0.1)
    return y + bias[:, None, None]

  def layer_norm(self, name, x, epsilon=1e-6):
    """Over the channels, axis 1."""
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    scale = self._array(f"{name}.weight", x.shape[1:2], 1, 0.1)
    bias = self._array(f"{name}.bias", x.shape[1:2], 0, 0.1)
    y = (x - mean) / jnp.sqrt(variance + epsilon)
    return y * scale[:, None, None] + bias[:, None, None]

  def factor(self, name, x):
    return x * self._array(name, x.shape[1:2], 1, 0.1)[:, None, None]


def gelu(x):
  return x * (1 + lax.erf(x / math.sqrt(2))) / 2


def convnext(network: Encoder, x, depths, features, output_stride=32):
  """timm's ConvNeXt: the outputs of its four stages."""
  x = network.bias_conv("stem.0", x, features[0], 4, stride=4)
  x = network.layer_norm("stem.1", x)
  outputs, reached, rate = [], 4, 1
  for i, (depth, channels) in enumerate(zip(depths, features)):
    name = f"stages.{i}"
    if i > 0:
      x = network.layer_norm(f"{name}.downsample.0", x)
      x, reached, rate = _downsample(
        network, f"{name}.downsample.1", x, channels, reached, rate,
        output_stride,
      )  # fmt: skip
    for j in range(depth):
      x = x + _convnext_block(network, f"{name}.blocks.{j}", x, rate)
    outputs.append(x)
  return outputs


def _downsample(network, name, x, channels, reached, rate, output_stride):
  """2x2 with stride 2; else at all pixels, padded to keep the size."""
  if reached < output_stride:
    y = network.bias_conv(name, x, channels, 2, stride=2)
    return y, 2 * reached, rate
  pad = (0, 1) if rate == 1 else (rate // 2, rate // 2)
  y = network.bias_conv(name, x, channels, 2, rate=rate, pad=pad)
  return y, reached, 2 * rate


def _convnext_block(network, name, x, rate):
  channels = x.shape[1]
  pad = (3 * rate, 3 * rate)
  y = network.bias_conv(
    f"{name}.conv_dw", x, channels, 7, rate=rate, groups=channels, pad=pad
  )
  y = network.layer_norm(f"{name}.norm", y).transpose(0, 2, 3, 1)
  y = gelu(_linear(network, f"{name}.mlp.fc1", y, 4 * channels))
  y = _linear(network, f"{name}.mlp.fc2", y, channels)
  return network.factor(f"{name}.gamma", y.transpose(0, 3, 1, 2))


def _linear(network, name, x, features):
  flat = network.linear(name, x.reshape(-1, x.shape[-1]), features)
  return flat.reshape(*x.shape[:-1], features)
