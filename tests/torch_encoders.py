"""PyTorch's encoders, plainly: what timm's modules compute.

As `torch_networks`, for networks with other layers: written from the names of
their state dicts, channels first, sharing nothing with `deeplab_jax`. Held
against timm itself by `test_encoders_reference.py`.
"""

import itertools
import math
import re

import jax
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

  def conv_norm(
    self, conv, norm, x, features, size=1, stride=1, rate=1,
    groups=1, same=False,
  ):  # fmt: skip
    """Convolution and batch norm; padded evenly, or as TensorFlow's SAME."""
    shape = (features, x.shape[1] // groups, size, size)
    reach = (size - 1) * rate
    pads = [(reach // 2, reach // 2)] * 2
    if same:
      rests = [
        max((math.ceil(n / stride) - 1) * stride + reach + 1 - n, 0)
        for n in x.shape[2:]
      ]
      pads = [(rest // 2, rest - rest // 2) for rest in rests]
    y = lax.conv_general_dilated(
      x,
      self._array(f"{conv}.weight", shape, 0, np.prod(shape[1:]) ** -0.5),
      (stride, stride),
      pads,
      rhs_dilation=(rate, rate),
      dimension_numbers=("NCHW", "OIHW", "NCHW"),
      feature_group_count=groups,
    )
    return self.norm(norm, y)

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


def silu(x):
  return x / (1 + jnp.exp(-x))


def efficient(network, x, stem, stages, output_stride, act, same):
  """timm's MobileNetV4 and EfficientNetV2: the outputs of all stages.

  Args:
    network: draws or holds the state dict.
    x: (b, 3, h, w).
    stem: its channels.
    stages: strings of timm's notation, such as "uir_a3_k5_s2_e4_c80": a kind,
      a first kernel, the kernel, stride, expansion and channels.
    output_stride: of the last stage.
    act: of all that is not linear.
    same: whether strides pad as TensorFlow does.
  """
  layer = _Blocks(network, act, same)
  x = act(layer("conv_stem", "bn1", x, stem, 3, 2))
  outputs, reached, rate = [], 2, 1
  for i, stage in enumerate(stages):
    for j, text in enumerate(stage):
      kind, *parts = text.removesuffix("_skip").split("_")
      block = {"a": 0, "k": 3, "s": 1, "e": 1, "c": 0}
      block |= {p[0]: int(p[1:]) for p in parts if re.fullmatch(r"\w\d+", p)}
      skips = kind != "cn" or text.endswith("_skip")
      stride, following = block["s"], rate
      if reached == output_stride:
        stride, following = 1, rate * block["s"]
      reached *= stride
      y = layer.block(kind, f"blocks.{i}.{j}", x, block, stride, rate)
      x = x + y if skips and stride == 1 and x.shape == y.shape else y
      rate = following
    outputs.append(x)
  return outputs


class _Blocks:
  """The blocks of one network."""

  def __init__(self, network, act, same):
    self._network, self._act, self._same = network, act, same

  def __call__(self, conv, norm, x, features, *sizes, **settings):
    return self._network.conv_norm(
      conv, norm, x, features, *sizes, same=self._same, **settings
    )

  def block(self, kind, name, x, block, stride, rate):
    act, sizes = self._act, (block["k"], stride, rate)
    middle = x.shape[1] * block["e"]
    if kind == "cn":
      return act(self(f"{name}.conv", f"{name}.bn1", x, block["c"], *sizes))
    if kind == "er":
      x = act(self(f"{name}.conv_exp", f"{name}.bn1", x, middle, *sizes))
      return self(f"{name}.conv_pwl", f"{name}.bn2", x, block["c"])
    names = [f"{name}.{part}" for part in ("dw_start", "pw_exp", "dw_mid",
                                           "pw_proj")]  # fmt: skip
    pairs = [(f"{part}.conv", f"{part}.bn") for part in names]
    if kind == "ir":
      parts = itertools.zip_longest(("conv_pw", "conv_dw", "conv_pwl"), "123")
      pairs = [None] + [(f"{name}.{c}", f"{name}.bn{n}") for c, n in parts]
    squeezed = x.shape[1] // 4
    if block["a"]:
      first = (block["a"], 1 if block["k"] else stride, rate)
      x = self(*pairs[0], x, x.shape[1], *first, groups=x.shape[1])
    x = act(self(*pairs[1], x, middle))
    if block["k"]:
      x = act(self(*pairs[2], x, middle, *sizes, groups=middle))
    if kind == "ir":
      x = self._squeeze(f"{name}.se", x, squeezed)
    return self(*pairs[3], x, block["c"])

  def _squeeze(self, name, x, features):
    gate = x.mean((2, 3), keepdims=True)
    conv = self._network.bias_conv
    gate = self._act(conv(f"{name}.conv_reduce", gate, features, 1))
    gate = conv(f"{name}.conv_expand", gate, x.shape[1], 1)
    return x / (1 + jnp.exp(-gate))


def vision_transformer(network, x, patch, registers, grid, depth=12):
  """timm's DINOv2 or, without a grid, DINOv3: normal tokens of four depths.

  Args:
    network: draws or holds the state dict; has as many channels as
      `network.channels`, 64 to a head.
    x: (b, 3, h, w); sides are filled up to whole patches.
    patch: side of a patch.
    registers: tokens beside the class token.
    grid: side of that of learned positions; 0 for angles.
    depth: number of blocks.

  Returns:
    Four of (b, rows, columns, c).
  """
  features, epsilon = network.channels, 1e-6 if grid else 1e-5
  pads = [(0, 0), (0, 0), *((0, -n % patch) for n in x.shape[2:])]
  x = network.bias_conv(
    "patch_embed.proj", jnp.pad(x, pads), features, patch, stride=patch
  ).transpose(0, 2, 3, 1)
  size = x.shape[1:3]
  token = network._array("cls_token", (1, 1, features), 0, 1)
  if grid:
    count = grid**2 + (not registers)
    places = network._array("pos_embed", (1, count, features), 0, 1)
    if not registers:
      token, places = token + places[:, :1], places[:, 1:]
    places = places.reshape(grid, grid, features)
    x = x + jax.image.resize(places, (*size, features), "cubic")
  before = [token]
  if registers:
    shape = (1, registers, features)
    before.append(network._array("reg_token", shape, 0, 1))
  before = jnp.concatenate(before, 1).repeat(len(x), 0)
  x = jnp.concatenate([before, x.reshape(len(x), -1, features)], 1)
  turn = _turning(size, before.shape[1]) if not grid else lambda x: x
  taken = []
  for i in range(depth):
    x = _transformer_block(network, f"blocks.{i}", x, turn, epsilon, grid)
    if 4 * (i + 1) % depth == 0:
      taken.append(x)
  norm = _token_norm(network, "norm", epsilon)
  return [norm(x)[:, before.shape[1] :].reshape(-1, *size, features)
          for x in taken]  # fmt: skip


def _token_norm(network, name, epsilon):
  def norm(x):
    x = x.transpose(0, 2, 1)[..., None]
    return network.layer_norm(name, x, epsilon)[..., 0].transpose(0, 2, 1)

  return norm


def _turning(size, before):
  """Turns pairs of channels, 32 apart, by their wave's angle at the patch."""
  angles = np.zeros((before + size[0] * size[1], 32))
  for i, (row, column) in enumerate(np.ndindex(*size)):
    for j in range(16):
      period = 100 ** (j / 16)
      at = ((row + 0.5) / size[0], (column + 0.5) / size[1])
      angles[before + i, [j, 16 + j]] = [
        2 * math.pi * (2 * place - 1) / period for place in at
      ]
  cosines, sines = np.cos(angles), np.sin(angles)

  def turn(x):  # (b, heads, tokens, 64)
    a, b = x[..., :32], x[..., 32:]
    turned = a * cosines - b * sines, b * cosines + a * sines
    return jnp.concatenate(turned, -1)

  return turn


def _transformer_block(network, name, x, turn, epsilon, has_key_bias):
  features = x.shape[-1]
  norm = _token_norm(network, f"{name}.norm1", epsilon)
  kernel = network._array(
    f"{name}.attn.qkv.weight", (3 * features, features), 0, features**-0.5
  )
  y = norm(x) @ kernel.T
  if has_key_bias:
    y = y + network._array(f"{name}.attn.qkv.bias", (3 * features,), 0, 0.1)
  y = y.reshape(*y.shape[:2], 3, -1, 64).transpose(2, 0, 3, 1, 4)
  query, key, value = turn(y[0]), turn(y[1]), y[2]
  weights = jnp.exp(query @ key.transpose(0, 1, 3, 2) / 8)
  y = weights / weights.sum(-1, keepdims=True) @ value
  y = y.transpose(0, 2, 1, 3).reshape(x.shape)
  y = _linear(network, f"{name}.attn.proj", y, features)
  scales = (
    ("ls1.gamma", "ls2.gamma") if has_key_bias else ("gamma_1", "gamma_2")
  )
  scales = [
    network._array(f"{name}.{scale}", (features,), 1, 0.1) for scale in scales
  ]
  x = x + y * scales[0]
  y = _token_norm(network, f"{name}.norm2", epsilon)(x)
  y = gelu(_linear(network, f"{name}.mlp.fc1", y, 4 * features))
  return x + _linear(network, f"{name}.mlp.fc2", y, features) * scales[1]
