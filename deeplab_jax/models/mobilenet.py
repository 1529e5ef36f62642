"""MobileNetV2 (Sandler et al., 2018) as DeepLab uses it: no last 1x1 to 1280.

Layers are numbered as in the official code: layer 1 is the stem, layer k + 2
the block `expanded_conv_k`, layer 18 the feature.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import RatesFrom, atrous_plan
from deeplab_jax.models.layers import ConvNorm, Norm, truncated_normal
from deeplab_jax.models.ops.convolution import PaddingRule

NORM = Norm(momentum=0.997, epsilon=1e-3)
TORCHVISION_NORM = Norm(momentum=0.997, epsilon=1e-5)
KERNEL_INIT = truncated_normal(0.09)
# (output channels, stride) of the stem and of the 17 blocks.
_LAYERS = (
  (32, 2), (16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2),
  (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1), (160, 2), (160, 1),
  (160, 1), (320, 1),
)  # fmt: skip
_LOW_LEVEL = {"conv2": 4, "conv3": 7, "conv4": 14}
# The last layer of each stride.
_STAGE_ENDS = {"stage2": 4, "stage3": 7, "stage4": 14}


def divisible(value: float, divisor: int) -> int:
  """The multiple of `divisor` nearest to `value`, at most a tenth below it."""
  rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * value else rounded


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, linear 1x1 projection.

  Attributes:
    features: output channels.
    stride: of the depthwise convolution.
    rate: atrous rate of the depthwise convolution.
    expanded: channels of the expansion; left out if the input has as many.
    kernel_size: side of the depthwise kernel.
    activation: of expansion and depthwise convolution.
    squeeze: module applied, as `squeeze_excite`, before the projection.
    padding: rule for the strided convolution; `"valid"` pads before the
      expansion, whose bias then fills the border.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  features: int
  stride: int
  rate: int
  expanded: int
  kernel_size: int = 3
  activation: Callable[[jax.Array], jax.Array] = nn.relu6
  squeeze: type[nn.Module] | None = None
  padding: PaddingRule = "tensorflow"
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the block's output and its depthwise convolution's."""
    conv = functools.partial(
      ConvNorm,
      norm=self.norm,
      activation=self.activation,
      padding=self.padding,
      kernel_init=KERNEL_INIT,
      dtype=self.dtype,
    )
    y = x
    if self.padding == "valid":
      border = (self.kernel_size // 2 * self.rate,) * 2
      y = jnp.pad(y, ((0, 0), border, border, (0, 0)))
    if self.expanded != x.shape[-1]:
      y = conv(self.expanded, name="expand")(y, use_batch_stats)
    middle = y = conv(
      self.expanded,
      kernel_size=self.kernel_size,
      stride=self.stride,
      rate=self.rate,
      depthwise=True,
      name="depthwise",
    )(y, use_batch_stats)
    if self.squeeze is not None:
      y = self.squeeze(dtype=self.dtype, name="squeeze_excite")(y)
    residual = self.stride == 1 and x.shape[-1] == self.features
    y = conv(self.features, activation=None, name="project")(
      y, use_batch_stats, x if residual else None
    )
    return y, middle


class MobileNetV2(nn.Module):
  """The MobileNetV2 backbone.

  Attributes:
    width_multiplier: factor of all channel counts.
    torchvision: whether strided convolutions pad one pixel on every side and
      channels are multiples of 8 at every width.
    pad_first: whether blocks pad before their expansion, as in some networks of
      torch.
    pad_stem: whether the first convolution is padded.
    last_features: channels of a last 1x1 convolution; 0 for none.
    output_stride: 8, 16 or 32.
    norm: batch-norm settings.
    dtype: of the computation.
    rates_from: see `atrous_plan`; a stage is what has the same channels.
  """

  width_multiplier: float = 1.0
  torchvision: bool = False
  pad_first: bool = False
  pad_stem: bool = True
  last_features: int = 0
  output_stride: int = 16
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32
  rates_from: RatesFrom = "next_unit"

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Returns:
      `(b, h / output_stride, w / output_stride, 320)`, and the depthwise
      outputs `conv2` (stride 4, 144 channels), `conv3` (8, 192), `conv4`
      (16, 576); also `stage2` (24 channels), `stage3` (32), `stage4` (96), the
      results of the last blocks of these strides. Channels at width 1.
    """
    # The official code rounds to multiples of 8 at width 1 only.
    divisor = 8 if self.torchvision or self.width_multiplier == 1 else 1
    padding = "explicit" if self.torchvision else "tensorflow"
    depths = [divisible(d * self.width_multiplier, divisor) for d, _ in _LAYERS]
    plan = atrous_plan(
      [s for _, s in _LAYERS],
      self.output_stride,
      rates_from=self.rates_from,
      stages=[d for d, _ in _LAYERS],
    )
    conv = functools.partial(
      ConvNorm,
      norm=self.norm,
      activation=nn.relu6,
      kernel_init=KERNEL_INIT,
      dtype=self.dtype,
    )
    x = conv(
      depths[0],
      kernel_size=3,
      stride=plan[0][0],
      padding=padding if self.pad_stem else "valid",
      name="stem",
    )(x, use_batch_stats)
    middles, results = {}, {}
    layers = zip(range(2, 19), depths[1:], plan[1:])
    for layer, depth, (stride, rate) in layers:
      block = InvertedResidual(
        depth,
        stride,
        rate,
        expanded=(x.shape[-1] if layer == 2 else divisible(6 * x.shape[-1], 8)),
        padding="valid" if self.pad_first else padding,
        norm=self.norm,
        dtype=self.dtype,
        name=f"block_{layer - 2}",
      )
      x, middles[layer] = block(x, use_batch_stats)
      results[layer] = x
    low_levels = {name: middles[layer] for name, layer in _LOW_LEVEL.items()}
    low_levels |= {name: results[layer] for name, layer in _STAGE_ENDS.items()}
    if self.last_features:
      x = conv(self.last_features, name="conv_1")(x, use_batch_stats)
    return x, low_levels
