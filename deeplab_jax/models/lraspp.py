"""Lite R-ASPP, the head of MobileNetV3 (Howard et al., 2019, section 6.4).

A 1x1 branch gated by pooled features, joined by addition with one low-level
feature. The sum is the logits. torchvision's gate is pooled from the whole map,
has no bias, and its sigmoid is no straight lines.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.aspp import HEAD_NORM
from deeplab_jax.models.layers import Conv, ConvNorm, Norm, SpatialMean
from deeplab_jax.models.mobilenet_v3 import hard_sigmoid
from deeplab_jax.models.ops.convolution import mean_of_windows
from deeplab_jax.models.ops.precision import wide_dtype
from deeplab_jax.models.ops.resize import resize_bilinear


class LiteRASPP(nn.Module):
  """The head.

  Attributes:
    num_classes: channels of the logits.
    window: side of the pooling window in features: that of a 769 crop at
      output stride 32.
    strides: of the pooling window.
    features: channels of the gated branch.
    norm: batch-norm settings.
    dtype: of the computation; what adds up to the logits is float32.
    torchvision: whether the gate is torchvision's.
    half_pixel: whether resizing aligns edges, not corners.
  """

  num_classes: int
  window: int = 25
  strides: tuple[int, int] = (4, 5)
  features: int = 128
  norm: Norm = HEAD_NORM
  dtype: jnp.dtype = jnp.float32
  torchvision: bool = False
  half_pixel: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, low_level: jax.Array, use_batch_stats: bool
  ) -> jax.Array:
    """Joins `x` (b, h, w, c) and `low_level` (b, h', w', c') to logits."""
    gate = self._gate(x)
    branch = ConvNorm(self.features, self.norm, dtype=self.dtype, name="aspp0")
    x = branch(x, use_batch_stats) * gate
    wide = wide_dtype(self.dtype)
    x = Conv(self.num_classes, dtype=wide, name="decoder_conv0")(x)
    skip = Conv(self.num_classes, dtype=wide, name="feature_projection0")
    x = resize_bilinear(x, low_level.shape[1:3], self.half_pixel)
    return x + skip(low_level)

  def _gate(self, x):
    """Factors in 0..1 for the branch, of the size of `x`."""
    conv = functools.partial(
      Conv, self.features, dtype=self.dtype, name="image_pooling"
    )
    if self.torchvision:
      pooled = SpatialMean(name="pooled")(x)
      return nn.sigmoid(conv(use_bias=False)(pooled))
    gate = conv()(mean_of_windows(x, self.window, self.strides))
    return resize_bilinear(hard_sigmoid(gate), x.shape[1:3], self.half_pixel)
