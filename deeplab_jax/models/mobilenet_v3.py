"""MobileNetV3 for segmentation (Howard et al., 2019, section 6.4).

The large and small networks with the last stage's channels halved, as released
for Cityscapes, and torchvision's large one with all of them. Inverted residuals
as in MobileNetV2, some with squeeze and excitation, hard swish in the deeper
half.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import RatesFrom, atrous_plan
from deeplab_jax.models.layers import Conv, ConvNorm, Norm, SpatialMean
from deeplab_jax.models.mobilenet import (
  KERNEL_INIT,
  NORM,
  InvertedResidual,
  divisible,
)


def hard_sigmoid(x: jax.Array) -> jax.Array:
  """A sigmoid in straight pieces, with the released model's constant."""
  return nn.relu6(x + 3) * 0.16667


def hard_swish(x: jax.Array) -> jax.Array:
  """x * sigmoid(x) in straight pieces."""
  return x * nn.relu6(x + 3) * (1 / 6)


class Block(NamedTuple):
  """One inverted residual."""

  kernel_size: int
  expanded: int
  features: int
  stride: int = 1
  squeeze: bool = False
  hard: bool = False


_LARGE = (
  Block(3, 16, 16),
  Block(3, 64, 24, 2),
  Block(3, 72, 24),
  Block(5, 72, 40, 2, squeeze=True),
  Block(5, 120, 40, squeeze=True),
  Block(5, 120, 40, squeeze=True),
  Block(3, 240, 80, 2, hard=True),
  Block(3, 200, 80, hard=True),
  Block(3, 184, 80, hard=True),
  Block(3, 184, 80, hard=True),
  Block(3, 480, 112, squeeze=True, hard=True),
  Block(3, 672, 112, squeeze=True, hard=True),
  Block(5, 336, 80, 2, squeeze=True, hard=True),
  Block(5, 480, 80, squeeze=True, hard=True),
  Block(5, 480, 80, squeeze=True, hard=True),
)
_SMALL = (
  Block(3, 16, 16, 2, squeeze=True),
  Block(3, 72, 24, 2),
  Block(3, 88, 24),
  Block(5, 96, 40, 2, squeeze=True, hard=True),
  Block(5, 240, 40, squeeze=True, hard=True),
  Block(5, 240, 40, squeeze=True, hard=True),
  Block(5, 120, 48, squeeze=True, hard=True),
  Block(5, 144, 48, squeeze=True, hard=True),
  Block(5, 144, 48, 2, squeeze=True, hard=True),
  Block(5, 288, 48, squeeze=True, hard=True),
  Block(5, 288, 48, squeeze=True, hard=True),
)


_LARGE_WHOLE = (
  *_LARGE[:12],
  Block(5, 672, 160, 2, squeeze=True, hard=True),
  Block(5, 960, 160, squeeze=True, hard=True),
  Block(5, 960, 160, squeeze=True, hard=True),
)


def exact_hard_sigmoid(x: jax.Array) -> jax.Array:
  """A sigmoid in straight pieces, as torch has it."""
  return nn.relu6(x + 3) * (1 / 6)


class Variant(NamedTuple):
  """A published network."""

  blocks: tuple[Block, ...]
  features: int
  # Index of the block whose depthwise output it is, or result in torchvision's.
  low_level: dict[str, int]
  torchvision: bool = False


VARIANTS = {
  "mobilenet_v3_large_seg": Variant(
    _LARGE, 480, {"conv2": 2, "conv3": 5, "conv4": 11}
  ),
  "mobilenet_v3_small_seg": Variant(
    _SMALL, 288, {"conv2": 0, "conv3": 2, "conv4": 7}
  ),
  "mobilenet_v3_large_torch": Variant(
    _LARGE_WHOLE, 960, {"conv2": 1, "conv3": 3, "conv4": 6}, torchvision=True
  ),
}


class SqueezeExcite(nn.Module):
  """Scales channels by a gate computed from their means.

  Attributes:
    dtype: of the computation.
    sigmoid: what makes factors of the gate.
  """

  dtype: jnp.dtype = jnp.float32
  sigmoid: Callable[[jax.Array], jax.Array] = hard_sigmoid

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to the same shape."""
    channels = x.shape[-1]
    squeezed = SpatialMean(name="pooled")(x).astype(x.dtype)
    conv = functools.partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
    gate = nn.relu(conv(divisible(channels / 4, 8), name="squeeze")(squeezed))
    return x * self.sigmoid(conv(channels, name="excite")(gate))


class MobileNetV3(nn.Module):
  """The MobileNetV3 segmentation backbones.

  Attributes:
    variant: a key of `VARIANTS`.
    output_stride: 8, 16 or 32.
    norm: batch-norm settings.
    dtype: of the computation.
    rates_from: see `atrous_plan`.
  """

  variant: str
  output_stride: int = 32
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32
  rates_from: RatesFrom = "next_unit"

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Returns:
      `(b, h / output_stride, w / output_stride, c)` with c 480 (large) or 288,
      and the depthwise outputs `conv2` (stride 4), `conv3` (8), `conv4` (16).
      Of torchvision's network c is 960, and these are the results of the blocks
      that have the strides.
    """
    blocks, features, low_level, torchvision = VARIANTS[self.variant]
    padding = "explicit" if torchvision else "tensorflow"
    sigmoid = exact_hard_sigmoid if torchvision else hard_sigmoid
    squeeze = functools.partial(SqueezeExcite, sigmoid=sigmoid)
    conv = functools.partial(
      ConvNorm,
      norm=self.norm,
      activation=hard_swish,
      padding=padding,
      kernel_init=KERNEL_INIT,
      dtype=self.dtype,
    )
    strides = [2, *(b.stride for b in blocks)]
    plan = atrous_plan(strides, self.output_stride, rates_from=self.rates_from)
    x = conv(16, kernel_size=3, stride=2, name="stem")(x, use_batch_stats)
    middles, results = [], []
    for i, (block, (stride, rate)) in enumerate(zip(blocks, plan[1:])):
      x, middle = InvertedResidual(
        block.features,
        stride,
        rate,
        expanded=block.expanded,
        kernel_size=block.kernel_size,
        activation=hard_swish if block.hard else nn.relu,
        squeeze=squeeze if block.squeeze else None,
        padding=padding,
        norm=self.norm,
        dtype=self.dtype,
        name=f"block_{i}",
      )(x, use_batch_stats)
      middles.append(middle)
      results.append(x)
    x = conv(features, name="conv_1")(x, use_batch_stats)
    source = results if torchvision else middles
    return x, {name: source[index] for name, index in low_level.items()}
