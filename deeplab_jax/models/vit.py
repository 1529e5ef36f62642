"""Vision transformers of DINOv2 and DINOv3, small and base, as encoders.

Oquab et al., "DINOv2: learning robust visual features without supervision",
2023; Darcet et al., "Vision transformers need registers", 2023; Siméoni et al.,
"DINOv3", 2025. Twelve blocks of attention look at patches of 14 or 16 pixels, a
class token and, but in the first DINOv2, four registers.

A transformer has one grid, that of its patches. What a decoder asks for, maps
of strides 4, 8 and 16 and of the output stride, are the tokens behind a
quarter, a half, three quarters and all of the blocks (those that Ranftl et al.,
"Vision transformers for dense prediction", take), through the last layer norm
as in the authors' `get_intermediate_layers`, resized to maps of these strides.
A convolutional stem would see finer detail, but would have weights that nobody
has trained: a frozen encoder would then be frozen random in part.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models import positions
from deeplab_jax.models.blocks import (
  Attention,
  BiasConv,
  DropPath,
  LayerNorm,
  LayerScale,
  drop_path_rates,
  gelu,
  linear,
  require_patches,
)
from deeplab_jax.models.layers import parameter
from deeplab_jax.models.ops.resize import resize_bilinear
from deeplab_jax.models.positions import PositionsOf


class Variant(NamedTuple):
  """A published network.

  Attributes:
    features: channels, 64 for each head.
    patch: side of a patch in pixels.
    registers: tokens that belong to no patch, beside the class token.
    grid: side of the grid of learned positions; 0 if they are angles.
    depth: number of blocks.
  """

  features: int
  patch: int
  registers: int
  grid: int
  depth: int = 12

  @property
  def epsilon(self) -> float:
    """Of layer norms."""
    return 1e-6 if self.grid else 1e-5

  @property
  def rule_of_all(self) -> bool:
    """Whether learned positions are resized alike by everyone."""
    return bool(self.grid and self.registers)


VARIANTS = {
  "vit_small_patch14_dinov2": Variant(384, 14, 0, 37),
  "vit_base_patch14_dinov2": Variant(768, 14, 0, 37),
  "vit_small_patch14_reg4_dinov2": Variant(384, 14, 4, 37),
  "vit_base_patch14_reg4_dinov2": Variant(768, 14, 4, 37),
  "vit_small_patch16_dinov3": Variant(384, 16, 4, 0),
  "vit_base_patch16_dinov3": Variant(768, 16, 4, 0),
}
HEAD_FEATURES = 64
_STRIDES = {"conv2": 4, "conv3": 8, "conv4": 16}
_INITIAL_SCALE = 1e-5
_INIT = nn.initializers.normal(0.02)


class Embed(nn.Module):
  """Tokens of patches, and those of none.

  Attributes:
    variant: the network.
    positions_of: whose code tells where patches are.
    whole_patches: whether what is left of a side is left out.
    dtype: of the computation.
  """

  variant: Variant
  positions_of: PositionsOf
  whole_patches: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(b, h, w, 3)` to `(b, rows, columns, c)` and `(b, others, c)`."""
    features, patch, registers, grid, _ = self.variant
    is_square = x.shape[1] == x.shape[2]
    padding = "whole patches" if self.whole_patches else "patches"
    x = BiasConv(
      features,
      kernel_size=patch,
      stride=patch,
      padding=padding,
      dtype=self.dtype,
      name="patches",
    )(x)
    others = [parameter(self, "class_token", _INIT, (1, 1, features))]
    if registers:
      shape = (1, registers, features)
      others.append(parameter(self, "registers", _INIT, shape))
    if grid:
      places = parameter(self, "positions", _INIT, (1, grid**2, features))
      rule = "timm" if self.variant.rule_of_all else self.positions_of
      places = places.reshape(grid, grid, features)
      places = positions.resized(places, x.shape[1:3], rule, is_square)
      x += places.astype(x.dtype)
    others = jnp.concatenate(others, axis=1).astype(x.dtype)
    return x, jnp.broadcast_to(others, (x.shape[0], *others.shape[1:]))


class Block(nn.Module):
  """Attention, then two linear layers at each token; both are added.

  Attributes:
    variant: the network.
    drop_path: share of the examples that leave each of the two out.
    dtype: of the computation.
  """

  variant: Variant
  drop_path: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, waves: tuple | None) -> jax.Array:
    """`(b, tokens, c)` to the same shape; `waves` as of `rotary`, if any."""
    features, epsilon = self.variant.features, self.variant.epsilon
    layer = functools.partial(linear, dtype=self.dtype)
    y = LayerNorm(epsilon, name="attention_norm")(x)
    y = Attention(
      features // HEAD_FEATURES,
      key_bias=waves is None,
      dtype=self.dtype,
      name="attention",
    )(y, waves)
    y = LayerScale(_INITIAL_SCALE, name="attention_scale")(y)
    x += DropPath(self.drop_path, name="attention_drop_path")(y)
    y = LayerNorm(epsilon, name="layer_norm")(x)
    y = layer(y, 4 * features, activation=gelu, name="expand")
    y = layer(y, features, name="project")
    y = LayerScale(_INITIAL_SCALE, name="layer_scale")(y)
    return x + DropPath(self.drop_path, name="drop_path")(y)


class VisionTransformer(nn.Module):
  """The backbone.

  Attributes:
    variant: a key of `VARIANTS`.
    output_stride: 8, 16 or 32: of the map that the tokens are resized to.
    drop_path_rate: of the last block; 0 but in training.
    whole_patches: whether what is left of a side that patches do not divide is
      left out, as in all sources, not filled up to a patch with zeros.
    half_pixel: whether maps are resized with their edges aligned.
    positions_of: whose code tells where patches are.
    dtype: of the computation.
  """

  variant: str
  output_stride: int = 16
  drop_path_rate: float = 0.0
  whole_patches: bool = False
  half_pixel: bool = False
  positions_of: PositionsOf = "timm"
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
      `(b, h / output_stride, w / output_stride, c)`, and `conv2` (stride 4),
      `conv3` (8), `conv4` (16), all of the same channels. Sides are rounded up,
      with `whole_patches` down to 1 or more.

    Raises:
      ValueError: with `whole_patches`, the images are below a patch; or their
        sides are symbols of `jax.export`.
    """
    del use_batch_stats
    variant, size = VARIANTS[self.variant], x.shape[1:3]
    _require_known(size)
    require_patches(x, variant.patch, self.whole_patches)
    patches, others = Embed(
      variant, self.positions_of, self.whole_patches, self.dtype, name="embed"
    )(x)
    grid, before = patches.shape[1:3], others.shape[1]
    waves = None
    if not variant.grid:
      waves = positions.rotary(grid, before, HEAD_FEATURES, self.positions_of)
    tokens = patches.reshape(x.shape[0], -1, variant.features)
    tokens = jnp.concatenate([others, tokens], axis=1)
    taken, rates = [], drop_path_rates(self.drop_path_rate, variant.depth)
    for i, rate in enumerate(rates):
      block = Block(variant, rate, self.dtype, name=f"block{i}")
      tokens = block(tokens, waves)
      if (i + 1) % (variant.depth // 4) == 0:
        taken.append(tokens[:, before:])
    # In one call, as a layer that is called four times counts four times.
    norm = LayerNorm(variant.epsilon, name="last_norm")
    taken = jnp.split(norm(jnp.concatenate(taken, axis=1)), 4, axis=1)
    return self._resized(taken, grid, size)

  def _resized(self, taken, grid, size):
    """Features and low-level features of tokens of the four depths."""
    strides = _STRIDES | {"features": self.output_stride}
    maps = {
      name: resize_bilinear(
        tokens.reshape(-1, *grid, tokens.shape[-1]),
        tuple(self._side(n, stride) for n in size),
        self.half_pixel,
      )
      for (name, stride), tokens in zip(strides.items(), taken)
    }
    return maps.pop("features"), maps

  def _side(self, pixels: int, stride: int) -> int:
    if self.whole_patches:
      return max(pixels // stride, 1)
    return -(-pixels // stride)


def _require_known(size: tuple) -> None:
  if not all(isinstance(n, int) for n in size):
    raise ValueError(
      "a vision transformer is exported for given sizes alone, as where patches"
      " are follows from the size: give --size HxW"
    )
