"""Heads as others might write them, for tests of what can be kept to a crop."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models import layers
from deeplab_jax.models.aspp import ASPP
from deeplab_jax.models.layers import BatchNorm, ConvNorm, Norm, SpatialMean
from deeplab_jax.models.ops.resize import resize_bilinear

_NORM = Norm(0.9, 1e-3)


class StripPooling(ASPP):
  """ASPP with means over rows and over columns, written without a thought of
  canvases."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    rows = ConvNorm(8, _NORM, name="rows")(x.mean(2, keepdims=True), False)
    columns = ConvNorm(8, _NORM, name="columns")(
      x.mean(1, keepdims=True), False
    )
    y = jax.nn.sigmoid(rows + columns)
    y = ConvNorm(self.features, _NORM, name="mix")(y, False)
    pooled = SpatialMean(name="mean")(x)
    return y * ConvNorm(self.features, _NORM, name="gate")(pooled, False)


class SizeOfInput(ASPP):
  """A branch scaled by the size of the map, as attention scores are."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = ConvNorm(self.features, _NORM, name="conv")(x, False)
    return y * (10 / (x.shape[1] * x.shape[2]) ** 0.5)


class Coordinates(ASPP):
  """The position within the map beside the features, as in CoordConv."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    place = jnp.linspace(0, 1, x.shape[1])[None, :, None, None]
    place = jnp.broadcast_to(place, (*x.shape[:3], 1))
    x = jnp.concatenate([x, place.astype(x.dtype)], axis=-1)
    return ConvNorm(self.features, _NORM, name="conv")(x, False)


class FixedGrid(ASPP):
  """Features brought to a grid of fixed size and back."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = resize_bilinear(x, (9, 9))
    y = ConvNorm(self.features, _NORM, kernel_size=3, name="conv")(y, False)
    return resize_bilinear(y, x.shape[1:3])


class PreActivation(ASPP):
  """A normalisation that has no convolution before it, squeeze and excitation,
  and an attention over channels: all of it looks at pixels or declares itself.
  """

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = nn.relu(BatchNorm(0.9, 1e-3, name="first")(x, use_batch_stats))
    y = ConvNorm(self.features, _NORM, kernel_size=3, name="conv")(y, False)
    gate = SpatialMean(name="squeeze")(y).astype(y.dtype)
    gate = layers.Conv(self.features, name="excite")(gate)
    y = y * jax.nn.sigmoid(gate) * jax.nn.softmax(y, axis=-1)
    return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-3)


class RateBySize(ASPP):
  """An atrous rate that follows from the size of the map."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    conv = ConvNorm(
      self.features,
      _NORM,
      kernel_size=3,
      rate=max(1, x.shape[1] // 4),
      name="conv",
    )
    return conv(x, False)


class FlaxLayers(ASPP):
  """Flax's own layers: a convolution, a dense layer, a norm over channels."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = nn.Conv(self.features, (3, 3), name="conv")(x)
    return nn.LayerNorm(name="norm")(nn.Dense(self.features, name="dense")(y))


class SpatialActivation(ASPP):
  """An activation that looks around, hidden within a layer."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    def activation(y):
      return y / (1 + jnp.abs(y).max((1, 2), keepdims=True))

    conv = ConvNorm(self.features, _NORM, activation=activation, name="conv")
    return conv(x, False)


class OtherwiseWhenLarge(ASPP):
  """Subtracts the means over rows of maps of more than four rows."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = ConvNorm(self.features, _NORM, name="conv")(x, False)
    return y - y.mean(1, keepdims=True) if y.shape[1] > 4 else y
