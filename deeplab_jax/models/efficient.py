"""MobileNetV4 (Qin et al., 2024) and EfficientNetV2 (Tan and Le, 2021).

The convolutional MobileNetV4 and the EfficientNetV2 of the official release,
both as timm builds them: stages of inverted residuals of four kinds, of which
the first few are convolutions that no depthwise one replaces.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.blocks import DropPath
from deeplab_jax.models.layers import Conv, ConvNorm, Norm, SpatialMean
from deeplab_jax.models.mobilenet import KERNEL_INIT, divisible
from deeplab_jax.models.ops.convolution import PaddingRule

MOBILENET_V4_NORM = Norm(momentum=0.9, epsilon=1e-5)
EFFICIENTNET_V2_NORM = Norm(momentum=0.9, epsilon=1e-3)


class Block(NamedTuple):
  """One block.

  Attributes:
    kind: `"conv"`; `"fused"`, a dense convolution that expands, and a linear
      1x1; `"inverted"`, depthwise between 1x1 convolutions.
    features: output channels.
    kernel_size: of the one convolution that is no 1x1; 0 for none.
    stride: of the block.
    expansion: of the input's channels.
    first: size of a linear depthwise kernel before the expansion; 0 for none.
    squeeze: whether there is squeeze and excitation.
  """

  kind: str
  features: int
  kernel_size: int = 3
  stride: int = 1
  expansion: int = 1
  first: int = 0
  squeeze: bool = False


class Variant(NamedTuple):
  """A published network.

  Attributes:
    stem: channels of the stem.
    stages: blocks of each stage.
    low_level: index of the stage whose output it is.
    activation: of the convolutions.
    padding: rule for strided convolutions.
    skips: whether convolutions alone have a skip connection, too.
  """

  stem: int
  stages: tuple[tuple[Block, ...], ...]
  low_level: dict[str, int]
  activation: Callable[[jax.Array], jax.Array]
  padding: PaddingRule
  skips: bool


def _mobilenet_v4(stem, *stages):
  last = (Block("conv", 960, kernel_size=1),)
  low_level = {"conv2": 0, "conv3": 1, "conv4": 2}
  return Variant(stem, (*stages, last), low_level, nn.relu, "explicit", False)


def _inverted(features, *blocks):
  """Blocks of (first kernel, kernel, expansion); the first one strides."""
  return tuple(
    Block("inverted", features, kernel, 1 if i else 2, expansion, first)
    for i, (first, kernel, expansion) in enumerate(blocks)
  )


_FUSED = (Block("fused", 48, stride=2, expansion=4),)
_SMALL = (
  (Block("conv", 32, stride=2), Block("conv", 32, kernel_size=1)),
  (Block("conv", 96, stride=2), Block("conv", 64, kernel_size=1)),
  _inverted(96, (5, 5, 3), *[(0, 3, 2)] * 4, (3, 0, 4)),
  _inverted(
    128, (3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), (0, 3, 4), (0, 3, 4)
  ),
)
_MEDIUM = (
  _FUSED,
  _inverted(80, (3, 5, 4), (3, 3, 2)),
  _inverted(
    160,
    *((3, 5, 6), (3, 3, 4), (3, 3, 4), (3, 5, 4), (3, 3, 4), (3, 0, 4)),
    *((0, 0, 2), (3, 0, 4)),
  ),
  _inverted(
    256,
    *((5, 5, 6), (5, 5, 4), (3, 5, 4), (3, 5, 4), (0, 0, 4), (3, 0, 4)),
    *((3, 5, 2), (5, 5, 4), (0, 0, 4), (0, 0, 4), (5, 0, 2)),
  ),
)
_LARGE = (
  _FUSED,
  _inverted(96, (3, 5, 4), (3, 3, 4)),
  _inverted(
    192, (3, 5, 4), *[(3, 3, 4)] * 3, (3, 5, 4), *[(5, 3, 4)] * 5, (3, 0, 4)
  ),
  _inverted(
    512,
    *((5, 5, 4), (5, 5, 4), (5, 5, 4), (5, 5, 4), (5, 0, 4), (5, 3, 4)),
    *((5, 0, 4), (5, 0, 4), (5, 3, 4), (5, 5, 4), *[(5, 0, 4)] * 3),
  ),
)
# Kind, blocks, channels, stride, expansion of the stages.
_BASE = (
  ("conv", 1, 16, 1, 1),
  ("fused", 2, 32, 2, 4),
  ("fused", 2, 48, 2, 4),
  ("inverted", 3, 96, 2, 4),
  ("inverted", 5, 112, 1, 6),
  ("inverted", 8, 192, 2, 6),
)
_S = (
  ("conv", 2, 24, 1, 1),
  ("fused", 4, 48, 2, 4),
  ("fused", 4, 64, 2, 4),
  ("inverted", 6, 128, 2, 4),
  ("inverted", 9, 160, 1, 6),
  ("inverted", 15, 256, 2, 6),
)
_M = (
  ("conv", 3, 24, 1, 1),
  ("fused", 5, 48, 2, 4),
  ("fused", 5, 80, 2, 4),
  ("inverted", 7, 160, 2, 4),
  ("inverted", 14, 176, 1, 6),
  ("inverted", 18, 304, 2, 6),
  ("inverted", 5, 512, 1, 6),
)


def _efficientnet_v2(stem, stages, width=1.0, depth=1.0):
  """Channels are rounded to multiples of 8, depths up."""

  def channels(count):
    return max(8, int(count * width + 4) // 8 * 8)

  scaled = tuple(
    tuple(
      Block(
        kind,
        channels(features),
        stride=1 if i else stride,
        expansion=expansion,
        squeeze=kind == "inverted",
      )
      for i in range(math.ceil(count * depth))
    )
    for kind, count, features, stride, expansion in stages
  )
  low_level = {"conv2": 1, "conv3": 2, "conv4": 4}
  return Variant(channels(stem), scaled, low_level, nn.silu, "tensorflow", True)


MOBILENET_V4 = {
  "mobilenetv4_conv_small": _mobilenet_v4(32, *_SMALL),
  "mobilenetv4_conv_medium": _mobilenet_v4(32, *_MEDIUM),
  "mobilenetv4_conv_large": _mobilenet_v4(24, *_LARGE),
}
EFFICIENTNET_V2_BASE = {
  "tf_efficientnetv2_b0": _efficientnet_v2(32, _BASE),
  "tf_efficientnetv2_b1": _efficientnet_v2(32, _BASE, 1.0, 1.1),
  "tf_efficientnetv2_b2": _efficientnet_v2(32, _BASE, 1.1, 1.2),
  "tf_efficientnetv2_b3": _efficientnet_v2(32, _BASE, 1.2, 1.4),
}
EFFICIENTNET_V2 = {
  "tf_efficientnetv2_s": _efficientnet_v2(24, _S),
  "tf_efficientnetv2_m": _efficientnet_v2(24, _M),
}
VARIANTS = MOBILENET_V4 | EFFICIENTNET_V2_BASE | EFFICIENTNET_V2


class SqueezeExcite(nn.Module):
  """Scales channels by a gate computed from their means.

  Attributes:
    features: channels between the two layers.
    dtype: of the computation.
  """

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to the same shape."""
    squeezed = SpatialMean(name="pooled")(x).astype(x.dtype)
    conv = functools.partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
    gate = nn.silu(conv(self.features, name="squeeze")(squeezed))
    return x * nn.sigmoid(conv(x.shape[-1], name="excite")(gate))


class Residual(nn.Module):
  """One block, with a skip connection where shapes allow it.

  Attributes:
    block: its kind and sizes.
    stride: that it runs with.
    rate: of all its convolutions.
    conv: makes its layers; a `ConvNorm` of the network's settings.
    skips: whether there is a connection if shapes allow it.
    drop_path: share of the examples that leave it out.
    dtype: of the computation.
  """

  block: Block
  stride: int
  rate: int
  conv: Callable[..., nn.Module]
  skips: bool
  drop_path: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool) -> jax.Array:
    """`(b, h, w, c)` to `(b, h / stride, w / stride, features)`."""
    kind, features = self.block.kind, self.block.features
    y = _Layers(self.conv, self.rate, use_batch_stats)
    if kind == "conv":
      out = y("conv", features, self.block.kernel_size, self.stride)(x)
    else:
      middle = self._fused(x, y) if kind == "fused" else self._inverted(x, y)
      out = y("project", features, activation=None)(middle)
    if not (self.skips and self.stride == 1 and x.shape[-1] == features):
      return out
    return x + DropPath(self.drop_path, name="drop_path")(out)

  def _fused(self, x, y):
    expanded = divisible(x.shape[-1] * self.block.expansion, 8)
    return y("fused", expanded, self.block.kernel_size, self.stride)(x)

  def _inverted(self, x, y):
    channels, size = x.shape[-1], self.block.kernel_size
    expanded = divisible(channels * self.block.expansion, 8)
    if self.block.first:
      settings = {"depthwise": True, "activation": None}
      stride = 1 if size else self.stride
      first = y(
        "first_depthwise", channels, self.block.first, stride, **settings
      )
      x = first(x)
    x = y("expand", expanded)(x)
    if size:
      x = y("depthwise", expanded, size, self.stride, depthwise=True)(x)
    if self.block.squeeze:
      squeezed = round(channels * 0.25)
      x = SqueezeExcite(squeezed, dtype=self.dtype, name="squeeze_excite")(x)
    return x


class _Layers(NamedTuple):
  """Makes the layers of a block."""

  conv: Callable[..., nn.Module]
  rate: int
  use_batch_stats: bool

  def __call__(self, name, features, kernel_size=1, stride=1, **settings):
    rate = self.rate if kernel_size > 1 else 1
    layer = self.conv(
      features,
      kernel_size=kernel_size,
      stride=stride,
      rate=rate,
      name=name,
      **settings,
    )
    return lambda x: layer(x, self.use_batch_stats)


class EfficientNet(nn.Module):
  """The backbone.

  Attributes:
    variant: a key of `VARIANTS`.
    output_stride: 8, 16 or 32.
    drop_path_rate: of the block after the last; 0 but in training.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  variant: str
  output_stride: int = 32
  drop_path_rate: float = 0.0
  norm: Norm = MOBILENET_V4_NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Returns:
      `(b, h / output_stride, w / output_stride, c)`, and the outputs of the
      last blocks at `conv2` (stride 4), `conv3` (8) and `conv4` (16).
    """
    variant = VARIANTS[self.variant]
    conv = functools.partial(
      ConvNorm,
      norm=self.norm,
      activation=variant.activation,
      padding=variant.padding,
      kernel_init=KERNEL_INIT,
      dtype=self.dtype,
    )
    strides = [block.stride for stage in variant.stages for block in stage]
    plan = iter(atrous_plan(strides, self.output_stride, root_stride=2))
    x = conv(variant.stem, kernel_size=3, stride=2, name="stem")(
      x, use_batch_stats
    )
    outputs, index = [], 0
    for i, stage in enumerate(variant.stages):
      for j, block in enumerate(stage):
        stride, rate = next(plan)
        x = Residual(
          block,
          stride,
          rate,
          conv,
          skips=variant.skips or block.kind != "conv",
          drop_path=self.drop_path_rate * index / len(strides),
          dtype=self.dtype,
          name=f"stage{i}_block{j}",
        )(x, use_batch_stats)
        index += 1
      outputs.append(x)
    return x, {name: outputs[i] for name, i in variant.low_level.items()}
