"""Convolutions with their batch normalisation and activation.

Conventions of the official implementation (DeepLabv3+, section 4): every
convolution but the logits is followed by batch normalisation.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from deeplab_jax.models.ops import canvas
from deeplab_jax.models.ops.convolution import (
  PaddingRule,
  conv,
  max_pool,
  paddings,
)
from deeplab_jax.models.ops.depthwise import depthwise_conv
from deeplab_jax.models.ops.loops import all_threads
from deeplab_jax.models.ops.precision import wide

Initializer = Callable[..., jax.Array]

CONVOLUTION = "convolution"
"""Name of dense convolutions' results, for policies of `jax.checkpoint`."""

FOLDED = "folded"
"""Collection of kernels and biases that a normalisation is folded into."""


@dataclasses.dataclass(frozen=True)
class Norm:
  """Batch-norm settings of one part of the network.

  Attributes:
    momentum: share of the old moving statistics kept at each update.
    epsilon: added to the variance.
  """

  momentum: float
  epsilon: float

  def with_momentum(self, momentum: float | None) -> "Norm":
    """These settings with another momentum, unless it is None."""
    if momentum is None:
      return self
    return dataclasses.replace(self, momentum=momentum)


def truncated_normal(stddev: float) -> Initializer:
  """Normal cut at two `stddev`, not rescaled after the cut."""
  return nn.initializers.truncated_normal(stddev)


_only_shapes: contextvars.ContextVar[bool] = contextvars.ContextVar(
  "only_shapes", default=False
)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
  """Within it, new parameters are zeros: see `trace.shapes_of`."""
  token = _only_shapes.set(True)
  try:
    yield
  finally:
    _only_shapes.reset(token)


def parameter(
  module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]
) -> jax.Array:
  """`module.param`, quicker where the parameter is there, or only shapes count.

  Flax traces the initialiser even then, to compare shapes: that is a fifth to a
  half of the time in which a network is traced.
  """
  if module.has_variable("params", name):
    value = module.get_variable("params", name)
    if getattr(value, "shape", None) == shape:
      return value
  elif _only_shapes.get():  # neither a key nor the draw is traced
    return module.variable("params", name, jnp.zeros, shape).value
  return module.param(name, init, shape)


class BatchNorm(nn.Module):
  """Batch normalisation over `(b, h, w)` as TensorFlow's fused kernel does it.

  The biased batch variance normalises, the unbiased one enters the moving
  variance. Statistics and normalisation are float32. Under `jit` with a sharded
  batch the statistics are those of the global batch.

  Attributes:
    momentum: share of the old moving statistics kept at each update.
    epsilon: added to the variance.
  """

  momentum: float
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool) -> jax.Array:
    """Normalises `x` (b, h, w, c); updates the statistics if asked to."""
    shape = x.shape[-1:]
    scale = parameter(self, "scale", nn.initializers.ones, shape)
    bias = parameter(self, "bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    moments = mean.value, var.value
    if use_batch_stats:
      moments = _moments(x, mean.value)
      if not self.is_initializing():
        mean.value, var.value = _moved(
          self.momentum, x.size // x.shape[-1], (mean.value, var.value), moments
        )
    y = _normalized(self.epsilon, x, scale, bias, *moments)
    # With batch statistics the loops are others, and more threads no gain.
    return y if use_batch_stats else all_threads(y)


# Many layers are equal: what they do is traced once of each kind, and becomes
# part of the program of each. As functions that the program calls, they would
# keep the gradient from being fused with what uses it.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _normalized(epsilon, x, scale, bias, mean, var):
  """`x` with these moments made 0 and 1, then scaled and moved."""
  factor = scale * lax.rsqrt(var + epsilon)
  y = wide(x) * factor + (bias - mean * factor)
  return y.astype(x.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _moved(momentum, count, stored, batch):
  """The moving mean and variance after a batch of `count` values a channel."""
  mean, var = batch
  unbiased = var * (count / max(count - 1, 1))
  return tuple(
    momentum * old + (1 - momentum) * new
    for old, new in zip(stored, (mean, unbiased))
  )


@functools.partial(jax.jit, inline=True)
def _moments(x, pivot):
  """Mean and biased variance of `x` over `(b, h, w)` in one pass.

  Sums are taken around `pivot` (c,), the moving mean, so that no digits are
  lost where a channel's mean is large against its spread.
  """
  pivot = lax.stop_gradient(pivot)
  centred = wide(x) - pivot
  offset = centred.mean((0, 1, 2))
  variance = jnp.square(centred).mean((0, 1, 2)) - jnp.square(offset)
  return offset + pivot, jnp.maximum(variance, 0)


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, activation.

  Attributes:
    features: output channels; ignored if `depthwise`.
    norm: batch-norm settings; None leaves normalisation out.
    kernel_size: side of the square kernel.
    stride: of the output positions.
    rate: atrous rate, or of rows and columns if `depthwise`.
    depthwise: one kernel per channel, multiplier 1.
    activation: applied last; None leaves the result linear.
    padding: rule for strided convolutions.
    kernel_init: initialiser of the kernel.
    dtype: of the computation; parameters are float32.
  """

  features: int
  norm: Norm | None
  kernel_size: int = 1
  stride: int = 1
  rate: int | tuple[int, int] = 1
  depthwise: bool = False
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  padding: PaddingRule = "explicit"
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    use_batch_stats: bool,
    shortcut: jax.Array | None = None,
  ) -> jax.Array:
    """`(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`.

    A `shortcut` of the result's shape is added before the activation. Where the
    variables hold this layer's `folded` kernel and bias (see
    `inference.folding`), these take the place of kernel and normalisation.
    """
    x = x.astype(self.dtype)
    if self.has_variable(FOLDED, "kernel"):
      kernel = self.get_variable(FOLDED, "kernel").astype(self.dtype)
      bias = self.get_variable(FOLDED, "bias").astype(self.dtype)
      x = all_threads(self._convolve(x, kernel) + bias)
    else:
      x = self._convolve(x, self._kernel(x.shape[-1]))
      if self.norm is not None:
        norm = BatchNorm(self.norm.momentum, self.norm.epsilon, name="norm")
        x = norm(x, use_batch_stats)
    x = x if shortcut is None else shortcut + x
    return x if self.activation is None else self.activation(x)

  def _kernel(self, channels):
    size = (self.kernel_size, self.kernel_size)
    if self.depthwise:
      name, shape = "depthwise_kernel", (*size, 1, channels)
    else:
      name, shape = "kernel", (*size, channels, self.features)
    return parameter(self, name, self.kernel_init, shape).astype(self.dtype)

  def _convolve(self, x, kernel):
    outside = 0 if self.kernel_size > 1 else None
    x = canvas.enter(x, outside, self.kernel_size, self.stride, self.rate)
    settings = {"stride": self.stride, "rate": self.rate}
    if self.depthwise:
      pads = paddings(x, kernel, self.stride, self.rate, self.padding)
      return canvas.leave(depthwise_conv(x, kernel, padding=pads, **settings))
    y = conv(x, kernel, padding=self.padding, **settings)
    return canvas.leave(checkpoint_name(y, CONVOLUTION))


class SeparableConv(nn.Module):
  """Depthwise, then pointwise convolution, both with norm (section 3.1).

  Attributes:
    features: output channels.
    norm: batch-norm settings of both halves.
    kernel_size: side of the square depthwise kernel.
    stride: of the depthwise convolution.
    rate: atrous rate of the depthwise convolution, or of rows and columns.
    activation: after the pointwise half; None leaves it linear.
    depthwise_activation: the same of the depthwise half.
    depthwise_norm: whether that half has a normalisation.
    depthwise_init: initialiser of the depthwise kernel.
    pointwise_init: initialiser of the pointwise kernel.
    dtype: of the computation.
  """

  features: int
  norm: Norm
  kernel_size: int = 3
  stride: int = 1
  rate: int | tuple[int, int] = 1
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  depthwise_activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  depthwise_norm: bool = True
  depthwise_init: Initializer = truncated_normal(0.33)
  pointwise_init: Initializer = truncated_normal(0.06)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    use_batch_stats: bool,
    shortcut: jax.Array | None = None,
  ) -> jax.Array:
    """`(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`.

    A `shortcut` of the result's shape is added before the last activation.
    """
    x = ConvNorm(
      x.shape[-1],
      self.norm if self.depthwise_norm else None,
      kernel_size=self.kernel_size,
      stride=self.stride,
      rate=self.rate,
      depthwise=True,
      activation=self.depthwise_activation,
      kernel_init=self.depthwise_init,
      dtype=self.dtype,
      name="depthwise",
    )(x, use_batch_stats)
    return ConvNorm(
      self.features,
      self.norm,
      activation=self.activation,
      kernel_init=self.pointwise_init,
      dtype=self.dtype,
      name="pointwise",
    )(x, use_batch_stats, shortcut)


class SpatialMean(nn.Module):
  """The mean over rows and columns, as global pooling takes it.

  Every mean over a map goes through this layer: it knows which part of the map
  is image where the rest is an unused part of a canvas, see `ops.canvas`.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to `(b, 1, 1, c)`, float32 or wider."""
    return canvas.mean(wide(x))


class MaxPool(nn.Module):
  """The maximum of 3x3 windows with stride 2.

  Attributes:
    padding: rule for the borders.
  """

  padding: PaddingRule = "tensorflow"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to `(b, ceil(h / 2), ceil(w / 2), c)`."""
    return canvas.leave(max_pool(canvas.enter(x, -jnp.inf), self.padding))


class Conv(nn.Module):
  """1x1 convolution with bias and without normalisation.

  Attributes:
    features: output channels.
    use_bias: whether there is a bias after all.
    kernel_init: initialiser of the kernel; the bias starts at 0.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  dtype: jnp.dtype = jnp.float32
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to `(b, h, w, features)`."""
    shape = (1, 1, x.shape[-1], self.features)
    kernel = parameter(self, "kernel", self.kernel_init, shape)
    y = conv(x.astype(self.dtype), kernel.astype(self.dtype))
    if not self.use_bias:
      return y
    bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
    return y + bias.astype(self.dtype)
