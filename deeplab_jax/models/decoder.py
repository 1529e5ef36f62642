"""The decoder that recovers object boundaries (paper, section 3.1, table 2)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.aspp import HEAD_NORM, refining_conv
from deeplab_jax.models.layers import ConvNorm, Norm
from deeplab_jax.models.ops.loops import concatenated
from deeplab_jax.models.ops.resize import resize_bilinear


class Decoder(nn.Module):
  """One stage: joins the encoder's output with low-level features.

  Attributes:
    low_level_channels: that the low-level features are reduced to.
    convs: `(kernel size, channels)` of the convolutions that refine.
    separable: whether those larger than 1x1 are depthwise separable.
    norm: batch-norm settings.
    dtype: of the computation.
    separable_norm: whether there is a normalisation, and ReLU, between the
      halves of separable convolutions.
    half_pixel: whether resizing aligns edges, not corners.
  """

  low_level_channels: int = 48
  convs: Sequence[tuple[int, int]] = ((3, 256), (3, 256))
  separable: bool = True
  norm: Norm = HEAD_NORM
  dtype: jnp.dtype = jnp.float32
  separable_norm: bool = True
  half_pixel: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, low_level: jax.Array, use_batch_stats: bool
  ) -> jax.Array:
    """Refines `x` (b, h, w, c) at the size of `low_level` (b, h', w', c')."""
    projection = ConvNorm(
      self.low_level_channels,
      self.norm,
      dtype=self.dtype,
      name="feature_projection0",
    )(low_level, use_batch_stats)
    x = resize_bilinear(x, low_level.shape[1:3], self.half_pixel)
    x = concatenated((x, projection))
    for i, conv in enumerate(self.convs):
      x = refining_conv(
        conv,
        self.norm,
        separable=self.separable,
        separable_norm=self.separable_norm,
        dtype=self.dtype,
        name=f"decoder_conv{i}",
      )(x, use_batch_stats)
    return x
