"""Atrous spatial pyramid pooling (DeepLabv3, section 3.3; paper, section 3.1).

Image-level features, a 1x1 convolution and atrous 3x3 convolutions side by
side, concatenated and projected.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.layers import ConvNorm, Norm, SeparableConv, SpatialMean
from deeplab_jax.models.ops.loops import concatenated
from deeplab_jax.models.ops.resize import resize_bilinear

HEAD_NORM = Norm(momentum=0.9997, epsilon=1e-5)


def refining_conv(
  conv: tuple[int, int],
  norm: Norm,
  *,
  separable: bool,
  separable_norm: bool,
  **settings: Any,
) -> nn.Module:
  """A convolution of the head: plain or depthwise separable.

  Args:
    conv: kernel size and channels; one of size 1 is plain.
    norm: batch-norm settings.
    separable: whether it is depthwise separable.
    separable_norm: whether there is a normalisation, and ReLU, between its
      halves.
    **settings: further attributes of `ConvNorm` and `SeparableConv`.
  """
  kernel_size, features = conv
  if not separable or kernel_size == 1:
    return ConvNorm(features, norm, kernel_size=kernel_size, **settings)
  if not separable_norm:
    settings |= {"depthwise_norm": False, "depthwise_activation": None}
  return SeparableConv(features, norm, kernel_size=kernel_size, **settings)


class ASPP(nn.Module):
  """The pyramid.

  Attributes:
    rates: atrous rates of the 3x3 branches, at the features' stride.
    image_pooling: whether to have the image-level branch.
    separable: whether the 3x3 branches are depthwise separable.
    separable_norm: whether there is a normalisation, and ReLU, between the
      halves of those.
    features: channels of every branch and of the result.
    dropout_rate: of the result, in training.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  rates: tuple[int, ...]
  image_pooling: bool = True
  separable: bool = True
  features: int = 256
  dropout_rate: float = 0.1
  norm: Norm = HEAD_NORM
  dtype: jnp.dtype = jnp.float32
  separable_norm: bool = True

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool, train: bool
  ) -> jax.Array:
    """Maps `(b, h, w, c)` to `(b, h, w, features)`."""
    conv = functools.partial(
      ConvNorm, self.features, norm=self.norm, dtype=self.dtype
    )
    branches = []
    if self.image_pooling:
      pooled = SpatialMean(name="pooled")(x)
      pooled = conv(name="image_pooling")(pooled, use_batch_stats)
      branches.append(resize_bilinear(pooled, x.shape[1:3]))
    branches.append(conv(name="aspp0")(x, use_batch_stats))
    for i, rate in enumerate(self.rates):
      branch = refining_conv(
        (3, self.features),
        self.norm,
        separable=self.separable,
        separable_norm=self.separable_norm,
        rate=rate,
        dtype=self.dtype,
        name=f"aspp{i + 1}",
      )
      branches.append(branch(x, use_batch_stats))
    x = concatenated(tuple(branches))
    x = conv(name="concat_projection")(x, use_batch_stats)
    return nn.Dropout(self.dropout_rate, deterministic=not train)(x)
