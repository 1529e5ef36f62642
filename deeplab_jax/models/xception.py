"""Modified aligned Xception-41, -65 and -71 (paper, section 3.3, figure 4).

Deeper than Xception, every max pooling a strided separable convolution, batch
norm after every depthwise convolution. The official code activates less often
than the figure shows: ReLU before each separable convolution, and after both
halves only in the last block. The network of a much-forked repository for torch
has the same weights and activates elsewhere; it is here for those.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.atrous import RatesFrom, atrous_plan
from deeplab_jax.models.layers import (
  ConvNorm,
  Norm,
  SeparableConv,
  truncated_normal,
)

NORM = Norm(momentum=0.9997, epsilon=1e-3)
_KERNEL_INIT = truncated_normal(0.09)
_ROOT_STRIDE = 2


class Block(NamedTuple):
  """Identical units: three separable convolutions and a skip connection."""

  name: str
  depths: tuple[int, int, int]
  skip: str  # "conv", "sum" or "none"
  stride: int
  units: int = 1


def _blocks(entry: tuple[Block, ...], middle_units: int) -> tuple[Block, ...]:
  return (
    *entry,
    Block("middle_flow_block1", (728, 728, 728), "sum", 1, middle_units),
    Block("exit_flow_block1", (728, 1024, 1024), "conv", 2),
    Block("exit_flow_block2", (1536, 1536, 2048), "none", 1),
  )


_ENTRY = (
  Block("entry_flow_block1", (128, 128, 128), "conv", 2),
  Block("entry_flow_block2", (256, 256, 256), "conv", 2),
  Block("entry_flow_block3", (728, 728, 728), "conv", 2),
)
_ENTRY_71 = (
  Block("entry_flow_block1", (128, 128, 128), "conv", 2),
  Block("entry_flow_block2", (256, 256, 256), "conv", 1),
  Block("entry_flow_block3", (256, 256, 256), "conv", 2),
  Block("entry_flow_block4", (728, 728, 728), "conv", 1),
  Block("entry_flow_block5", (728, 728, 728), "conv", 2),
)
BLOCKS = {
  "xception_41": _blocks(_ENTRY, 8),
  "xception_65": _blocks(_ENTRY, 16),
  "xception_71": _blocks(_ENTRY_71, 16),
}
_LOW_LEVEL = {
  variant: {
    "conv2": conv2,
    "conv3": conv3,
    "conv4": "exit_flow_block1",
  }
  for variant, conv2, conv3 in (
    ("xception_41", "entry_flow_block2", "entry_flow_block3"),
    ("xception_65", "entry_flow_block2", "entry_flow_block3"),
    ("xception_71", "entry_flow_block3", "entry_flow_block5"),
  )
}


class XceptionUnit(nn.Module):
  """Three separable 3x3 convolutions; the third carries the stride.

  Attributes:
    block: depths and kind of skip connection.
    stride: of the third convolution and of the shortcut.
    rates: atrous rates of the three depthwise convolutions.
    low_level: whether to return the second convolution's linear result, too.
    norm: batch-norm settings.
    dtype: of the computation.
    torch: whether it is torch's: the skip connection is activated too, and no
      depthwise convolution is.
  """

  block: Block
  stride: int
  rates: tuple[int, int, int]
  low_level: bool = False
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32
  torch: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, use_batch_stats: bool):
    """Returns the unit's output and, or None, the second convolution's."""
    x = nn.relu(x) if self.torch else x
    y, is_last = x, self.block.skip == "none"
    if self.block.skip == "conv":
      x = ConvNorm(
        self.block.depths[-1],
        self.norm,
        stride=self.stride,
        activation=None,
        kernel_init=_KERNEL_INIT,
        dtype=self.dtype,
        name="shortcut",
      )(x, use_batch_stats)
    # Only the last block, which has no skip, activates inside and at the end.
    y, low_level = y if is_last else nn.relu(y), None
    for i, (depth, rate) in enumerate(zip(self.block.depths, self.rates)):
      is_low_level = self.low_level and i == 1
      is_linear = is_low_level or (i == 2 and not is_last)
      y = SeparableConv(
        depth,
        self.norm,
        stride=self.stride if i == 2 else 1,
        rate=rate,
        activation=None if is_linear else nn.relu,
        depthwise_activation=nn.relu if is_last and not self.torch else None,
        depthwise_init=_KERNEL_INIT,
        pointwise_init=_KERNEL_INIT,
        dtype=self.dtype,
        name=f"separable_conv{i + 1}",
      )(y, use_batch_stats, x if i == 2 and not is_last else None)
      if is_low_level:
        y, low_level = nn.relu(y), y
    return y, low_level


class Xception(nn.Module):
  """The Xception backbones.

  Attributes:
    variant: a key of `BLOCKS`.
    output_stride: 8, 16 or 32.
    multi_grid: factors of the rates of the last block's three convolutions.
    norm: batch-norm settings.
    dtype: of the computation.
    rates_from: see `atrous_plan`.
    torch: whether it is that of pytorch-deeplab-xception: see `XceptionUnit`;
      where a block may stride, its third convolution has rate 1.
  """

  variant: str
  output_stride: int = 16
  multi_grid: tuple[int, int, int] = (1, 1, 1)
  norm: Norm = NORM
  dtype: jnp.dtype = jnp.float32
  rates_from: RatesFrom = "next_unit"
  torch: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `(b, h, w, 3)` to features and low-level features.

    Returns:
      `(b, h / output_stride, w / output_stride, 2048)`, and the linear features
      `conv2` (stride 4, 256 channels), `conv3` (8, 728), `conv4` (16, 1024).
      Their activations are `stage2`, `stage3`, `stage4`, as timm gives them;
      torch's `stage2` is the activated result of the first block, 128 channels.
    """
    root = functools.partial(
      ConvNorm,
      norm=self.norm,
      kernel_size=3,
      kernel_init=_KERNEL_INIT,
      dtype=self.dtype,
    )
    x = root(32, stride=_ROOT_STRIDE, name="entry_flow_conv1_1")(
      x, use_batch_stats
    )
    x = root(64, name="entry_flow_conv1_2")(x, use_batch_stats)
    low_levels, sources, results = {}, _LOW_LEVEL[self.variant], []
    units = [
      (block, unit)
      for block in BLOCKS[self.variant]
      for unit in range(block.units)
    ]
    strides = [block.stride for block, _ in units]
    plan = atrous_plan(
      strides, self.output_stride, _ROOT_STRIDE, self.rates_from
    )
    for (block, unit), (stride, rate) in zip(units, plan):
      last = block.name == "exit_flow_block2"
      grid = self.multi_grid if last else (1, 1, 1)
      rates = tuple(rate * factor for factor in grid)
      if self.torch and block.skip == "conv":
        rates = (*rates[:2], 1)
      x, low_level = XceptionUnit(
        block,
        stride,
        rates,
        block.name in sources.values(),
        self.norm,
        self.dtype,
        self.torch,
        name=f"{block.name}_unit_{unit + 1}",
      )(x, use_batch_stats)
      low_levels[block.name] = low_level
      results.append(x)
    found = {name: low_levels[block] for name, block in sources.items()}
    activated = {
      name.replace("conv", "stage"): nn.relu(x) for name, x in found.items()
    }
    if self.torch:
      activated = {"stage2": nn.relu(results[0])}
    return x, found | activated
