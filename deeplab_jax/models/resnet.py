"""ResNet-v1-50 and -101, plain and with the "beta" stem of DeepLab.

He et al., "Deep residual learning"; the stride of a block sits in the 3x3
convolution of its last unit, and the beta stem replaces the 7x7 convolution by
three of 3x3. The paper's ResNet-101 is the beta variant. The networks of
torchvision, which pads and strides elsewhere, are here for their weights.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import RatesFrom, atrous_plan
from deeplab_jax.models.layers import ConvNorm, MaxPool, Norm
from deeplab_jax.models.ops.convolution import every

NORM = Norm(momentum=0.95, epsilon=1e-5)
_ROOT_STRIDE = 4
_WIDTHS = (64, 128, 256, 512)
UNITS = {"resnet_50": (3, 4, 6, 3), "resnet_101": (3, 4, 23, 3)}


def he_truncated(key, shape, dtype=jnp.float32):
  """He's fan-in initialisation, 1.3 making up for the cut of the normal."""
  fan_in = shape[0] * shape[1] * shape[2]
  initializer = nn.initializers.truncated_normal((1.3 * 2 / fan_in) ** 0.5)
  return initializer(key, shape, dtype)


class Bottleneck(nn.Module):
  """1x1, 3x3 with stride and rate, 1x1, and a shortcut; ReLU at the end.

  Attributes:
    width: channels of the 3x3; the output has four times as many.
    stride: of the 3x3 and of the shortcut.
    rate: atrous rate of the 3x3.
    low_level: whether to return the last convolution's linear result, too.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  width: int
  stride: int
  rate: int
  low_level: bool = False
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool):
    """Returns the unit's output and, or None, its last convolution's."""
    conv = functools.partial(
      ConvNorm, norm=self.norm, kernel_init=he_truncated, dtype=self.dtype
    )
    y = conv(self.width, name="conv1")(x, use_batch_stats)
    y = conv(
      self.width,
      kernel_size=3,
      stride=self.stride,
      rate=self.rate,
      name="conv2",
    )(y, use_batch_stats)
    if x.shape[-1] == 4 * self.width:
      x = every(x, self.stride)
    else:
      x = conv(
        4 * self.width,
        stride=self.stride,
        activation=None,
        name="shortcut",
      )(x, use_batch_stats)
    last = functools.partial(conv, 4 * self.width, name="conv3")
    if self.low_level:
      y = last(activation=None)(y, use_batch_stats)
      return nn.relu(x + y), y
    return last()(y, use_batch_stats, x), None


class ResNet(nn.Module):
  """The ResNet backbones.

  Attributes:
    variant: a key of `UNITS`.
    beta: whether the stem is three 3x3 convolutions in place of one 7x7.
    torchvision: whether blocks stride in their first unit and the pooling pads
      one pixel on every side.
    output_stride: 8, 16 or 32.
    multi_grid: factors of the rates of the last block's three units.
    norm: batch-norm settings.
    dtype: of the computation.
    rates_from: see `atrous_plan`; a block is a stage.
  """

  variant: str
  beta: bool = False
  torchvision: bool = False
  output_stride: int = 16
  multi_grid: tuple[int, int, int] = (1, 1, 1)
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32
  rates_from: RatesFrom = "next_unit"

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Returns:
      `(b, h / output_stride, w / output_stride, 2048)`, and the linear features
      `conv2` (stride 4, 256 channels), `conv3` (8, 512), `conv4` (16, 1024):
      each the third convolution of a block's last unit but one. torchvision's
      have `stage2`, `stage3` and `stage4` of these strides and channels, too:
      the results of the first three blocks.
    """
    x = self._root(x, use_batch_stats)
    padding = "explicit" if self.torchvision else "tensorflow"
    x = MaxPool(padding, name="pool")(x)
    counts = UNITS[self.variant]
    units = [(b, u) for b, count in enumerate(counts) for u in range(count)]
    strides = [self._stride(b, u) for b, u in units]
    plan = atrous_plan(
      strides,
      self.output_stride,
      _ROOT_STRIDE,
      self.rates_from,
      [block for block, _ in units],
    )
    low_levels = {}
    for (block, unit), (stride, rate) in zip(units, plan):
      factor = self.multi_grid[unit] if block == 3 else 1
      x, branch = Bottleneck(
        _WIDTHS[block],
        stride,
        rate * factor,
        block < 3 and unit == counts[block] - 2,
        self.norm,
        self.dtype,
        name=f"block{block + 1}_unit_{unit + 1}",
      )(x, use_batch_stats)
      if branch is not None:
        low_levels[f"conv{block + 2}"] = branch
      if self.torchvision and block < 3 and unit == counts[block] - 1:
        low_levels[f"stage{block + 2}"] = x
    return x, low_levels

  def _stride(self, block, unit):
    if self.torchvision:
      return 2 if block > 0 and unit == 0 else 1
    last = UNITS[self.variant][block] - 1
    return 2 if block < 3 and unit == last else 1

  def _root(self, x, use_batch_stats):
    conv = functools.partial(
      ConvNorm, norm=self.norm, kernel_init=he_truncated, dtype=self.dtype
    )
    if not self.beta:
      stem = conv(64, kernel_size=7, stride=2, name="conv1")
      return stem(x, use_batch_stats)
    x = conv(64, kernel_size=3, stride=2, name="conv1_1")(x, use_batch_stats)
    x = conv(64, kernel_size=3, name="conv1_2")(x, use_batch_stats)
    return conv(128, kernel_size=3, name="conv1_3")(x, use_batch_stats)
