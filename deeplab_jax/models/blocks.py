"""Layers of encoders without batch norm: ConvNeXt, vision transformers.

What PyTorch's networks are made of, with PyTorch's arithmetic: convolutions
with a bias, layer normalisation over the channels, attention, the exact GELU, a
learned factor of each residual branch, and stochastic depth.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from deeplab_jax.models.layers import (
  CONVOLUTION,
  Initializer,
  parameter,
  truncated_normal,
)
from deeplab_jax.models.ops import canvas
from deeplab_jax.models.ops.attention import attention
from deeplab_jax.models.ops.convolution import PaddingRule, conv, paddings
from deeplab_jax.models.ops.depthwise import depthwise_conv
from deeplab_jax.models.ops.loops import all_threads
from deeplab_jax.models.ops.precision import wide
from deeplab_jax.models.positions import turned

KERNEL_INIT = truncated_normal(0.02)


class BiasConv(nn.Module):
  """Convolution with bias, and activation.

  Attributes:
    features: output channels; ignored if `depthwise`.
    kernel_size: side of the square kernel.
    stride: of the output positions.
    rate: atrous rate.
    depthwise: one kernel per channel, multiplier 1.
    padding: rule for strided convolutions.
    kernel_init: initialiser of the kernel; the bias starts at 0.
    dtype: of the computation; parameters are float32.
    use_bias: whether there is a bias after all.
    activation: applied last; None leaves the result linear.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  rate: int = 1
  depthwise: bool = False
  padding: PaddingRule = "explicit"
  kernel_init: Initializer = KERNEL_INIT
  dtype: jnp.dtype = jnp.float32
  use_bias: bool = True
  activation: Callable[[jax.Array], jax.Array] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to `(b, h / stride, w / stride, features)`.

    Sides are rounded up, with the padding `"whole patches"` down.
    """
    x = x.astype(self.dtype)
    size, channels = (self.kernel_size, self.kernel_size), x.shape[-1]
    name, shape = "kernel", (*size, channels, self.features)
    if self.depthwise:
      name, shape = "depthwise_kernel", (*size, 1, channels)
    kernel = parameter(self, name, self.kernel_init, shape).astype(x.dtype)
    looks_around = self.kernel_size > 1
    settings = (self.kernel_size, self.stride, self.rate, self.padding)
    x = canvas.enter(x, 0 if looks_around else None, *settings)
    where = {"stride": self.stride, "rate": self.rate}
    if self.depthwise:
      pads = paddings(x, kernel, self.stride, self.rate, self.padding)
      y = depthwise_conv(x, kernel, padding=pads, **where)
    else:
      y = conv(x, kernel, padding=self.padding, **where)
      y = checkpoint_name(y, CONVOLUTION)
    y = canvas.leave(y)
    if self.use_bias:
      bias = parameter(self, "bias", nn.initializers.zeros, shape[-1:])
      y += bias.astype(y.dtype)
    return y if self.activation is None else self.activation(y)


def linear(x: jax.Array, features: int, **settings: object) -> jax.Array:
  """Tokens `(b, n, c)` to `(b, n, features)`, in a module of its own.

  Args:
    x: the tokens.
    features: output channels.
    **settings: of the `BiasConv` that it is, with its name.
  """
  return BiasConv(features, **settings)(x[:, None])[:, 0]


class Attention(nn.Module):
  """Every token takes of all tokens (Vaswani et al., 2017).

  Attributes:
    heads: among which the channels are shared out.
    key_bias: whether keys have a bias, as queries and values have.
    dtype: of the computation; weights of tokens are float32 or wider.
  """

  heads: int
  key_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    waves: tuple[np.ndarray, np.ndarray] | None = None,
  ) -> jax.Array:
    """`(b, n, c)` to the same shape.

    Args:
      x: the tokens.
      waves: what queries and keys are turned by, see `positions.rotary`.
    """
    layer = functools.partial(linear, features=x.shape[-1], dtype=self.dtype)
    query, key, value = (
      layer(x, use_bias=name != "key" or self.key_bias, name=name).reshape(
        *x.shape[:2], self.heads, -1
      )
      for name in ("query", "key", "value")
    )
    if waves is not None:
      query, key = turned(query, waves), turned(key, waves)
    y = DotProducts(name="products")(query, key, value)
    return layer(y.reshape(x.shape), name="output")


class DotProducts(nn.Module):
  """The part of attention that has no parameters, so that it is counted."""

  @nn.compact
  def __call__(
    self, query: jax.Array, key: jax.Array, value: jax.Array
  ) -> jax.Array:
    """Three of `(b, n, heads, c)` to the same shape."""
    return checkpoint_name(attention(query, key, value), CONVOLUTION)


class LayerNorm(nn.Module):
  """Normalises the channels of every pixel by themselves.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(..., c)` to the same shape and dtype; computed in float32 or wider."""
    shape = x.shape[-1:]
    scale = parameter(self, "scale", nn.initializers.ones, shape)
    bias = parameter(self, "bias", nn.initializers.zeros, shape)
    values = wide(x)
    centred = values - values.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    y = centred * lax.rsqrt(variance + self.epsilon) * scale + bias
    return all_threads(y.astype(x.dtype))


class LayerScale(nn.Module):
  """A learned factor of every channel.

  Attributes:
    initial: value that the factors start with.
  """

  initial: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(..., c)` to the same shape."""
    init = nn.initializers.constant(self.initial)
    return x * parameter(self, "scale", init, x.shape[-1:]).astype(x.dtype)


class DropPath(nn.Module):
  """Stochastic depth: leaves a residual branch out of some examples.

  What stays is divided by the share that stays, as in timm. Draws from the
  stream `dropout`, as dropout does.

  Attributes:
    rate: share of the examples; at 0 nothing is drawn.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, ...)` to the same shape."""
    if self.rate == 0:
      return x
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    stays = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
    return jnp.where(stays, x / (1 - self.rate), jnp.zeros((), x.dtype))


def gelu(x: jax.Array) -> jax.Array:
  """x times the normal distribution function of x, not its tanh likeness."""
  half = jnp.asarray(0.5, x.dtype)
  return x * (half + half * lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def drop_path_rates(rate: float, blocks: int) -> list[float]:
  """Of every block: from 0 at the first in equal steps to `rate`."""
  return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def require_patches(x: jax.Array, side: int, whole: bool) -> None:
  """Raises ValueError if images `x` (b, h, w, c) hold no whole patch."""
  if whole and min(x.shape[1:3]) < side:
    raise ValueError(
      f"with whole_patches, images must have {side} pixels or more a side; "
      f"got {x.shape[1]} x {x.shape[2]}"
    )
