"""Convolution, batch normalisation, padding, resizing: each spelled once.

Conventions of the official implementation (DeepLabv3+, section 4): every
convolution but the logits is followed by batch normalisation; strided 3x3
convolutions pad explicitly (or as TensorFlow's SAME in MobileNet); resizing is
bilinear with aligned corners.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplab_jax.models.depthwise import depthwise_conv

Initializer = Callable[..., jax.Array]
PaddingRule = Literal["explicit", "tensorflow"]


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


def same_padding(
  size: int, kernel_size: int, stride: int, rate: int, rule: PaddingRule
) -> tuple[int, int]:
  """Zeros before and after a side of `size` pixels.

  `"explicit"` centres the kernel on pixel 0 whatever the size; `"tensorflow"`
  is TensorFlow's SAME, which for stride 2 centres it on pixel 1 of even sizes.
  """
  reach = (kernel_size - 1) * rate
  if rule == "explicit" or stride == 1:
    return reach // 2, reach - reach // 2
  total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
  return total // 2, total - total // 2


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  rate: int = 1,
  padding: PaddingRule = "explicit",
) -> jax.Array:
  """SAME convolution of `x` (b, h, w, c) with `kernel` (kh, kw, c, c')."""
  if kernel.shape[:2] == (1, 1):
    # A matrix product: 1.3 to 1.9 times faster than a convolution on CPU.
    return jnp.einsum("bhwc,cd->bhwd", x[:, ::stride, ::stride], kernel[0, 0])
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=_paddings(x, kernel, stride, rate, padding),
    rhs_dilation=(rate, rate),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _paddings(x, kernel, stride, rate, rule):
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  return tuple(
    same_padding(size, taps, stride, rate, rule)
    for size, taps, rate in zip(x.shape[1:3], kernel.shape, rates)
  )


def max_pool(x: jax.Array, padding: PaddingRule = "tensorflow") -> jax.Array:
  """3x3 maximum of `x` (b, h, w, c) with stride 2."""
  pads = [same_padding(n, 3, 2, 1, padding) for n in x.shape[1:3]]
  return nn.max_pool(x, (3, 3), (2, 2), pads)


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
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    var = self.variable("batch_stats", "var", jnp.ones, shape)
    x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if use_batch_stats:
      batch_mean, batch_var = _moments(x32, mean.value)
      if not self.is_initializing():
        count = x.size // x.shape[-1]
        unbiased = batch_var * (count / max(count - 1, 1))
        mean.value = self._moved(mean.value, batch_mean)
        var.value = self._moved(var.value, unbiased)
    else:
      batch_mean, batch_var = mean.value, var.value
    factor = scale * lax.rsqrt(batch_var + self.epsilon)
    return (x32 * factor + (bias - batch_mean * factor)).astype(x.dtype)

  def _moved(self, old, new):
    return self.momentum * old + (1 - self.momentum) * new


def _moments(x, pivot):
  """Mean and biased variance of `x` over `(b, h, w)` in one pass.

  Sums are taken around `pivot` (c,), the moving mean, so that no digits are
  lost where a channel's mean is large against its spread.
  """
  pivot = lax.stop_gradient(pivot)
  centred = x - pivot
  offset = centred.mean((0, 1, 2))
  variance = jnp.square(centred).mean((0, 1, 2)) - jnp.square(offset)
  return offset + pivot, jnp.maximum(variance, 0)


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, activation.

  Attributes:
    features: output channels; ignored if `depthwise`.
    norm: batch-norm settings.
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
  norm: Norm
  kernel_size: int = 1
  stride: int = 1
  rate: int | tuple[int, int] = 1
  depthwise: bool = False
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  padding: PaddingRule = "explicit"
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool) -> jax.Array:
    """`(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`."""
    x = self._convolve(x.astype(self.dtype))
    norm = BatchNorm(self.norm.momentum, self.norm.epsilon, name="norm")
    x = norm(x, use_batch_stats)
    return x if self.activation is None else self.activation(x)

  def _convolve(self, x):
    size, channels = (self.kernel_size, self.kernel_size), x.shape[-1]
    if not self.depthwise:
      shape = (*size, channels, self.features)
      kernel = self.param("kernel", self.kernel_init, shape)
      kernel = kernel.astype(self.dtype)
      return conv(
        x, kernel, stride=self.stride, rate=self.rate, padding=self.padding
      )
    shape = (*size, 1, channels)
    kernel = self.param("depthwise_kernel", self.kernel_init, shape)
    kernel = kernel.astype(self.dtype)
    pads = _paddings(x, kernel, self.stride, self.rate, self.padding)
    return depthwise_conv(
      x, kernel, stride=self.stride, rate=self.rate, padding=pads
    )


class SeparableConv(nn.Module):
  """Depthwise, then pointwise convolution, both with norm (section 3.1).

  Attributes:
    features: output channels.
    norm: batch-norm settings of both halves.
    kernel_size: side of the square depthwise kernel.
    stride: of the depthwise convolution.
    rate: atrous rate of the depthwise convolution, or of rows and columns.
    activation: after each half; None leaves both linear.
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
  depthwise_init: Initializer = truncated_normal(0.33)
  pointwise_init: Initializer = truncated_normal(0.06)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool) -> jax.Array:
    """`(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`."""
    conv = functools.partial(
      ConvNorm, norm=self.norm, activation=self.activation, dtype=self.dtype
    )
    x = conv(
      x.shape[-1],
      kernel_size=self.kernel_size,
      stride=self.stride,
      rate=self.rate,
      depthwise=True,
      kernel_init=self.depthwise_init,
      name="depthwise",
    )(x, use_batch_stats)
    return conv(
      self.features, kernel_init=self.pointwise_init, name="pointwise"
    )(x, use_batch_stats)


class Conv(nn.Module):
  """1x1 convolution with bias and without normalisation.

  Attributes:
    features: output channels.
    kernel_init: initialiser of the kernel; the bias starts at 0.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_init: Initializer = nn.initializers.glorot_uniform()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`(b, h, w, c)` to `(b, h, w, features)`."""
    shape = (1, 1, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    y = conv(x.astype(self.dtype), kernel.astype(self.dtype))
    return y + bias.astype(self.dtype)


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Bilinear resizing with aligned corners, as the official implementation.

  The centres of the corner pixels stay where they are: output pixel i reads
  position `i * (in - 1) / (out - 1)`. Unlike `jax.image.resize`, which aligns
  the outer edges, and without antialiasing.

  Args:
    x: `(b, h, w, c)`, float.
    size: output height and width, at least 1.

  Returns:
    `(b, *size, c)` in the dtype of `x`.

  Raises:
    ValueError: if `x` has not four axes or a size is below 1.
  """
  if x.ndim != 4 or min(size) < 1:
    raise ValueError(
      "resize_bilinear takes x of shape (b, h, w, c) and a size of at least"
      f" (1, 1), got shape {x.shape} and size {tuple(size)}"
    )
  if x.shape[1:3] == tuple(size):
    return x
  if x.shape[1:3] == (1, 1):
    return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
  return _resize(tuple(size), x.shape[1:3], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _resize(size, _, x):
  """By gathering: forward it is the fastest form on CPU."""
  return _lerp(_lerp(x, size[1], axis=2), size[0], axis=1)


def _resize_forward(size, old_size, x):
  return _resize(size, old_size, x), None


def _resize_backward(size, old_size, _, dy):
  """By matrices: the transposed gather would be a slow scatter."""
  rows = _interpolation(old_size[0], size[0]).astype(dy.dtype)
  columns = _interpolation(old_size[1], size[1]).astype(dy.dtype)
  dx = jnp.einsum("bhwc,hy->bywc", dy, rows)
  return (jnp.einsum("bywc,wx->byxc", dx, columns),)


_resize.defvjp(_resize_forward, _resize_backward)


def _positions(size_in: int, size_out: int):
  """Lower neighbour, upper neighbour and weight of the upper, per output."""
  scale = np.float32(size_in - 1) / np.float32(max(size_out - 1, 1))
  position = np.arange(size_out, dtype=np.float32) * scale
  lower = np.minimum(position.astype(np.int32), size_in - 1)
  upper = np.minimum(lower + 1, size_in - 1)
  return lower, upper, position - lower.astype(np.float32)


def _lerp(x, size, axis):
  if x.shape[axis] == size:
    return x
  lower, upper, weight = _positions(x.shape[axis], size)
  weight = jnp.asarray(weight, x.dtype)
  weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
  low = jnp.take(x, lower, axis=axis, mode="clip", indices_are_sorted=True)
  high = jnp.take(x, upper, axis=axis, mode="clip", indices_are_sorted=True)
  return low + (high - low) * weight


def _interpolation(size_in: int, size_out: int) -> np.ndarray:
  """The matrix `(size_out, size_in)` that interpolates a line."""
  lower, upper, weight = _positions(size_in, size_out)
  matrix = np.zeros((size_out, size_in), np.float32)
  rows = np.arange(size_out)
  np.add.at(matrix, (rows, lower), 1 - weight)
  np.add.at(matrix, (rows, upper), weight)
  return matrix
