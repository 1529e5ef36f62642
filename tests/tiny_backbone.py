"""A backbone of five convolutions, for tests of what is around backbones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.backbones import Backbone
from deeplab_jax.models.layers import ConvNorm, Norm

_NORM = Norm(0.9, 1e-3)


class TinyBackbone(nn.Module):
  """Strided 3x3 convolutions, every one a low-level feature.

  Attributes:
    output_stride: 8, 16 or 32.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  output_stride: int = 16
  norm: Norm = _NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to 16 features and the low-level features."""
    conv = functools.partial(ConvNorm, kernel_size=3, dtype=self.dtype)
    features = []
    for i, (stride, rate) in enumerate(
      atrous_plan([2] * 5, self.output_stride)
    ):
      layer = conv(16, self.norm, stride=stride, rate=rate, name=f"conv{i + 1}")
      x = layer(x, use_batch_stats)
      features.append(x)
    return x, dict(zip(("conv2", "conv3", "conv4"), features[1:]))


TINY = Backbone(TinyBackbone, _NORM, {})
