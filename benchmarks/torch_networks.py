"""The three backbones written plainly in torch.nn, at output stride 16.

Same computation, and the same names of modules, as `deeplab_jax.models` at
image sides of k * 16 + 1, where TensorFlow's padding is symmetric too. Knows
nothing of jax.
"""

import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

# Old statistics forgotten per step, and epsilon, of batch norm.
_XCEPTION = (0.0003, 1e-3)
_RESNET = (0.05, 1e-5)
_MOBILENET = (0.003, 1e-3)


class ConvNorm(nn.Module):
  """Convolution, batch norm, activation (a module, or None)."""

  def __init__(
    self, inputs, outputs, norm, size=1, stride=1, rate=1, groups=1, act=nn.ReLU
  ):
    super().__init__()
    padding = (size - 1) // 2 * rate
    self.conv = nn.Conv2d(
      inputs, outputs, size, stride, padding, rate, groups, bias=False
    )
    self.norm = nn.BatchNorm2d(outputs, eps=norm[1], momentum=norm[0])
    self.act = nn.Identity() if act is None else act(inplace=True)

  def forward(self, x):
    return self.act(self.norm(self.conv(x)))

  def fuse(self):
    """Folds batch norm into the convolution, for inference."""
    self.conv = fuse_conv_bn_eval(self.conv, self.norm)
    self.norm = nn.Identity()


class SeparableConv(nn.Module):
  """Depthwise 3x3 and pointwise convolution, both with norm."""

  def __init__(self, inputs, outputs, norm, stride=1, rate=1, act=nn.ReLU):
    super().__init__()
    self.depthwise = ConvNorm(
      inputs, inputs, norm, 3, stride, rate, groups=inputs, act=act
    )
    self.pointwise = ConvNorm(inputs, outputs, norm, act=act)

  def forward(self, x):
    return self.pointwise(self.depthwise(x))


class XceptionUnit(nn.Module):
  """Three separable convolutions and a skip connection."""

  def __init__(self, inputs, depths, skip, stride, rate):
    super().__init__()
    self.activate_before = skip != "none"
    act = None if self.activate_before else nn.ReLU
    channels = (inputs, *depths)
    for i in range(3):
      conv = SeparableConv(
        *channels[i : i + 2], _XCEPTION, stride if i == 2 else 1, rate, act
      )
      setattr(self, f"separable_conv{i + 1}", conv)
    if skip == "conv":
      self.shortcut = ConvNorm(
        inputs, depths[-1], _XCEPTION, stride=stride, act=None
      )
    self.skip = skip

  def forward(self, x):
    y, low_level = x, None
    for i in range(3):
      y = F.relu(y) if self.activate_before else y
      y = getattr(self, f"separable_conv{i + 1}")(y)
      low_level = y if i == 1 else low_level
    if self.skip == "none":
      return y, low_level
    return y + (self.shortcut(x) if self.skip == "conv" else x), low_level


class Xception65(nn.Module):
  """The modified aligned Xception-65 at output stride 16."""

  channels, low_channels = 2048, 256

  def __init__(self):
    super().__init__()
    self.entry_flow_conv1_1 = ConvNorm(3, 32, _XCEPTION, 3, stride=2)
    self.entry_flow_conv1_2 = ConvNorm(32, 64, _XCEPTION, 3)
    blocks = [
      ("entry_flow_block1", (128,) * 3, "conv", 2, 1, 1),
      ("entry_flow_block2", (256,) * 3, "conv", 2, 1, 1),
      ("entry_flow_block3", (728,) * 3, "conv", 2, 1, 1),
      ("middle_flow_block1", (728,) * 3, "sum", 1, 1, 16),
      # Strided by design; stride 1 here, and the rate doubles after it.
      ("exit_flow_block1", (728, 1024, 1024), "conv", 1, 1, 1),
      ("exit_flow_block2", (1536, 1536, 2048), "none", 1, 2, 1),
    ]
    self.units, inputs = [], 64
    for name, depths, skip, stride, rate, count in blocks:
      for i in range(count):
        unit = f"{name}_unit_{i + 1}"
        self.units.append(unit)
        self.add_module(unit, XceptionUnit(inputs, depths, skip, stride, rate))
        inputs = depths[-1]

  def forward(self, x):
    x = self.entry_flow_conv1_2(self.entry_flow_conv1_1(x))
    for name in self.units:
      x, middle = getattr(self, name)(x)
      if name == "entry_flow_block2_unit_1":
        low_level = middle
    return x, low_level


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1, and a shortcut."""

  def __init__(self, inputs, width, stride, rate):
    super().__init__()
    self.stride = stride
    self.conv1 = ConvNorm(inputs, width, _RESNET)
    self.conv2 = ConvNorm(width, width, _RESNET, 3, stride, rate)
    self.conv3 = ConvNorm(width, 4 * width, _RESNET, act=None)
    if inputs != 4 * width:
      self.shortcut = ConvNorm(
        inputs, 4 * width, _RESNET, stride=stride, act=None
      )

  def forward(self, x):
    y = self.conv3(self.conv2(self.conv1(x)))
    if hasattr(self, "shortcut"):
      x = self.shortcut(x)
    elif self.stride > 1:
      x = x[:, :, :: self.stride, :: self.stride]
    return F.relu(x + y), y


class ResNet101(nn.Module):
  """ResNet-v1-101 at output stride 16, striding in a block's last unit."""

  channels, low_channels = 2048, 256

  def __init__(self):
    super().__init__()
    self.conv1 = ConvNorm(3, 64, _RESNET, 7, stride=2)
    self.units, inputs = [], 64
    # (units, stride, rate); the third block would stride in its last unit.
    for block, (count, stride, rate) in enumerate(
      ((3, 2, 1), (4, 2, 1), (23, 1, 1), (3, 1, 2))
    ):
      width = 64 * 2**block
      for i in range(count):
        unit = Bottleneck(inputs, width, stride if i == count - 1 else 1, rate)
        name = f"block{block + 1}_unit_{i + 1}"
        self.units.append(name)
        self.add_module(name, unit)
        inputs = 4 * width

  def forward(self, x):
    x = F.max_pool2d(self.conv1(x), 3, 2, 1)
    for name in self.units:
      x, branch = getattr(self, name)(x)
      if name == "block1_unit_2":
        low_level = branch
    return x, low_level


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise 3x3, linear 1x1."""

  def __init__(self, inputs, outputs, stride, rate, expansion):
    super().__init__()
    width = inputs * expansion
    self.expand = nn.Identity()
    if expansion > 1:
      self.expand = ConvNorm(inputs, width, _MOBILENET, act=nn.ReLU6)
    self.depthwise = ConvNorm(
      width, width, _MOBILENET, 3, stride, rate, groups=width, act=nn.ReLU6
    )
    self.project = ConvNorm(width, outputs, _MOBILENET, act=None)
    self.residual = stride == 1 and inputs == outputs

  def forward(self, x):
    middle = self.depthwise(self.expand(x))
    y = self.project(middle)
    return (x + y if self.residual else y), middle


class MobileNetV2(nn.Module):
  """MobileNetV2 at output stride 16, without the last 1x1."""

  channels, low_channels = 320, 144

  def __init__(self):
    super().__init__()
    self.stem = ConvNorm(3, 32, _MOBILENET, 3, stride=2, act=nn.ReLU6)
    inputs, index = 32, 0
    # (expansion, channels, units, stride, rate after the first unit)
    for expansion, outputs, count, stride, rate in (
      (1, 16, 1, 1, 1), (6, 24, 2, 2, 1), (6, 32, 3, 2, 1), (6, 64, 4, 2, 1),
      (6, 96, 3, 1, 1), (6, 160, 3, 1, 2), (6, 320, 1, 1, 2),
    ):  # fmt: skip
      for i in range(count):
        # The unit that lost its stride still has the rate before it.
        first_of_rate = outputs == 160 and i == 0
        block = InvertedResidual(
          inputs,
          outputs,
          stride if i == 0 else 1,
          1 if first_of_rate else rate,
          expansion,
        )
        self.add_module(f"block_{index}", block)
        inputs, index = outputs, index + 1
    self.count = index

  def forward(self, x):
    x = self.stem(x)
    for i in range(self.count):
      x, middle = getattr(self, f"block_{i}")(x)
      if i == 2:
        low_level = middle
    return x, low_level


BACKBONES = {
  "xception_65": Xception65,
  "resnet_101": ResNet101,
  "mobilenet_v2": MobileNetV2,
}
