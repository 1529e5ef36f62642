"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022), as timm builds it.

A stem of 4x4 patches, four stages of blocks, 2x2 patches between them. A block
is a 7x7 depthwise convolution, layer normalisation, and two 1x1 convolutions
with GELU between. There is no normalisation behind the last stage: timm's and
DINOv3's classifiers have theirs behind the pooling.

Denser features are timm's `output_stride`, too: the 2x2 convolution that would
have taken every other pixel takes all, at the rate of what came before it, and
is padded as a whole. At rate 2, in the last stage at output stride 8, it looks
at the pixels before and after, not at its own and the second after: features
come out one pixel further down and to the right than the coarse ones.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.blocks import (
  BiasConv,
  DropPath,
  LayerNorm,
  LayerScale,
  drop_path_rates,
  gelu,
  require_patches,
)


class Variant(NamedTuple):
  """A published network: blocks and channels of the four stages."""

  depths: tuple[int, int, int, int]
  features: tuple[int, int, int, int]


VARIANTS = {
  "convnext_atto": Variant((2, 2, 6, 2), (40, 80, 160, 320)),
  "convnext_femto": Variant((2, 2, 6, 2), (48, 96, 192, 384)),
  "convnext_pico": Variant((2, 2, 6, 2), (64, 128, 256, 512)),
  "convnext_nano": Variant((2, 2, 8, 2), (80, 160, 320, 640)),
  "convnext_tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768)),
  "convnext_small": Variant((3, 3, 27, 3), (96, 192, 384, 768)),
  "convnext_base": Variant((3, 3, 27, 3), (128, 256, 512, 1024)),
}
_INITIAL_SCALE = 1e-6


class Block(nn.Module):
  """One residual block.

  Attributes:
    rate: atrous rate of the depthwise convolution.
    drop_path: share of the examples that leave it out.
    dtype: of the computation.
  """

  rate: int
  drop_path: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to the same shape."""
    channels = x.shape[-1]
    conv = functools.partial(BiasConv, dtype=self.dtype)
    y = conv(
      channels, kernel_size=7, rate=self.rate, depthwise=True, name="depthwise"
    )(x)
    y = LayerNorm(name="layer_norm")(y)
    y = conv(4 * channels, activation=gelu, name="expand")(y)
    y = conv(channels, name="project")(y)
    y = LayerScale(_INITIAL_SCALE, name="layer_scale")(y)
    return x + DropPath(self.drop_path, name="drop_path")(y)


class ConvNeXt(nn.Module):
  """The backbone.

  Attributes:
    variant: a key of `VARIANTS`.
    output_stride: 8, 16 or 32.
    drop_path_rate: of the last block; 0 but in training.
    whole_patches: whether what is left of a side that patches do not divide is
      left out, as in timm, not filled up to a patch with zeros.
    dtype: of the computation.
  """

  variant: str
  output_stride: int = 32
  drop_path_rate: float = 0.0
  whole_patches: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Args:
      x: the images.
      use_batch_stats: of no effect; there are none.

    Returns:
      `(b, h / output_stride, w / output_stride, c)`, and the outputs of the
      first three stages, `conv2` (stride 4), `conv3` (8), `conv4` (16), with a
      quarter, a half and, at output strides below 16 finer, of the channels
      before.
    """
    del use_batch_stats
    require_patches(x, self.output_stride, self.whole_patches)
    depths, features = VARIANTS[self.variant]
    rates = iter(drop_path_rates(self.drop_path_rate, sum(depths)))
    padding = "whole patches" if self.whole_patches else "patches"
    patches = functools.partial(BiasConv, padding=padding, dtype=self.dtype)
    plan = atrous_plan([2, 2, 2], self.output_stride, root_stride=4)
    x = patches(features[0], kernel_size=4, stride=4, name="stem")(x)
    x = LayerNorm(name="stem_norm")(x)
    low_levels, rate = {}, 1
    for i, depth in enumerate(depths):
      if i > 0:
        stride, rate = plan[i - 1]
        x = LayerNorm(name=f"stage{i}_norm")(x)
        x = patches(
          features[i], 2, stride=stride, rate=rate, name=f"stage{i}_patches"
        )(x)
        rate = rate if stride > 1 else 2 * rate
      for j in range(depth):
        x = Block(
          rate, next(rates), dtype=self.dtype, name=f"stage{i}_block{j}"
        )(x)
      low_levels[f"conv{i + 2}"] = x
    return x, {name: low_levels[name] for name in ("conv2", "conv3", "conv4")}
