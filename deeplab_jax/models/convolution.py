"""Dense convolution, padding and pooling.

Strided 3x3 convolutions pad explicitly, or as TensorFlow's SAME in MobileNet.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

PaddingRule = Literal["explicit", "tensorflow"]


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


def paddings(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  rate: int | tuple[int, int],
  rule: PaddingRule,
) -> tuple[tuple[int, int], tuple[int, int]]:
  """`same_padding` of the rows and the columns of `x` (b, h, w, c)."""
  rows, columns = rate if isinstance(rate, tuple) else (rate, rate)
  return (
    same_padding(x.shape[1], kernel.shape[0], stride, rows, rule),
    same_padding(x.shape[2], kernel.shape[1], stride, columns, rule),
  )


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
    return _pointwise(x[:, ::stride, ::stride], kernel[0, 0])
  pads = paddings(x, kernel, stride, rate, padding)
  dense = functools.partial(_dense, stride, rate, pads)
  if kernel.shape[0] > 3 or kernel.shape[2] > 4 or rate > 1:
    return dense(x, kernel)
  patches = functools.partial(_by_patches, stride, pads)
  return lax.platform_dependent(x, kernel, cpu=patches, default=dense)


def _dense(stride, rate, pads, x, kernel):
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    rhs_dilation=(rate, rate),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _by_patches(stride, pads, x, kernel):
  """As one matrix product: pays for the few channels of an image on CPU."""
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  kh, kw = kernel.shape[:2]
  h, w = padded.shape[1] - kh, padded.shape[2] - kw
  patches = [
    padded[:, i : i + h + 1 : stride, j : j + w + 1 : stride]
    for i in range(kh)
    for j in range(kw)
  ]
  kernel = kernel.reshape(-1, kernel.shape[-1])
  return _pointwise(jnp.concatenate(patches, axis=-1), kernel)


@jax.custom_vjp
def _pointwise(x, kernel):
  """`x` (b, h, w, c) times `kernel` (c, d)."""
  return jnp.einsum("bhwc,cd->bhwd", x, kernel)


def _pointwise_forward(x, kernel):
  return _pointwise(x, kernel), (x, kernel)


def _pointwise_backward(residuals, dy):
  x, kernel = residuals
  dkernel = lax.platform_dependent(
    x, dy, cpu=_kernel_gradient_flat, default=_kernel_gradient
  )
  return jnp.einsum("bhwd,cd->bhwc", dy, kernel), dkernel


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _kernel_gradient(x, dy):
  return jnp.einsum("bhwc,bhwd->cd", x, dy)


def _kernel_gradient_flat(x, dy):
  """The same; XLA's CPU backend transposes unless one axis is summed."""
  flat = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
  return jnp.einsum("nc,nd->cd", *flat)


def max_pool(x: jax.Array, padding: PaddingRule = "tensorflow") -> jax.Array:
  """3x3 maximum of `x` (b, h, w, c) with stride 2."""
  pads = [same_padding(n, 3, 2, 1, padding) for n in x.shape[1:3]]
  return nn.max_pool(x, (3, 3), (2, 2), pads)
