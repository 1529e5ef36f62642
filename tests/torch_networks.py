"""torch's classifiers, plainly: what torchvision's and timm's modules compute.

Written from their state dicts' names and documented padding, channels first,
with one general convolution; shares nothing with `deeplab_jax`. A network gives
its features and logits, and draws the state dict that it asks for. Compared
once with torchvision 0.28 and timm 1.0.31 themselves: they load it, and their
logits agree to 4e-6.
"""

import zlib

import jax.numpy as jnp
import numpy as np
from jax import lax

_SPREAD = {"running_mean": (0, 0.1), "bias": (0, 0.1), "weight": (1, 0.1)}


class Network:
  """Layers by torch's names.

  Attributes:
    state: the state dict, filled as layers run for the first time.
    epsilon: of batch norm.
  """

  def __init__(self, epsilon: float = 1e-5):
    self.state = {}
    self.epsilon = epsilon

  def conv(
    self, name, x, features, size=1, stride=1, groups=1, rate=1, pad=None
  ):
    """Convolution padded by (size - 1) / 2 * rate zeros on every side."""
    pad = size // 2 * rate if pad is None else pad
    shape = (features, x.shape[1] // groups, size, size)
    gain = np.prod(shape[1:]) ** -0.5
    kernel = self._array(f"{name}.weight", shape, 0, gain)
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(pad, pad)] * 2,
      rhs_dilation=(rate, rate),
      dimension_numbers=("NCHW", "OIHW", "NCHW"),
      feature_group_count=groups,
    )

  def norm(self, name, x):
    shape = x.shape[1:2]
    leaf = {
      leaf: self._array(f"{name}.{leaf}", shape, *spread)
      for leaf, spread in _SPREAD.items()
    }
    noise = self._array(f"{name}.running_var", shape, 1, 0.1)
    self.state[f"{name}.num_batches_tracked"] = np.array(1000)
    factor = leaf["weight"] / jnp.sqrt(noise + self.epsilon)
    offset = leaf["bias"] - leaf["running_mean"] * factor
    return x * factor[:, None, None] + offset[:, None, None]

  def linear(self, name, x, features):
    shape = (features, x.shape[1])
    kernel = self._array(f"{name}.weight", shape, 0, x.shape[1] ** -0.5)
    return x @ kernel.T + self._array(f"{name}.bias", (features,), 0, 0.1)

  def _array(self, name, shape, centre, spread):
    if name not in self.state:
      generator = np.random.default_rng(zlib.crc32(name.encode()))
      value = centre + spread * generator.standard_normal(shape)
      self.state[name] = value.astype(np.float32)
    return self.state[name]


def relu(x):
  return jnp.maximum(x, 0)


def relu6(x):
  return jnp.clip(x, 0, 6)


def max_pool(x):
  """3x3 with stride 2 and one pixel of padding on every side."""
  return lax.reduce_window(
    x, -np.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0)] * 2 + [(1, 1)] * 2
  )


def resnet(network: Network, x, units: tuple[int, ...], width: int = 64):
  """torchvision's and timm's ResNet; stride in the first unit of a layer."""
  x = network.conv("conv1", x, width, 7, stride=2)
  x = max_pool(relu(network.norm("bn1", x)))
  for i, count in enumerate(units):
    for unit in range(count):
      stride = 2 if i > 0 and unit == 0 else 1
      name = f"layer{i + 1}.{unit}"
      x = _bottleneck(network, name, x, width * 2**i, stride, unit == 0)
  return x, network.linear("fc", jnp.mean(x, (2, 3)), 1000)


def _bottleneck(network, name, x, width, stride, downsample):
  y = network.conv(f"{name}.conv1", x, width)
  y = relu(network.norm(f"{name}.bn1", y))
  y = network.conv(f"{name}.conv2", y, width, 3, stride)
  y = relu(network.norm(f"{name}.bn2", y))
  y = network.norm(f"{name}.bn3", network.conv(f"{name}.conv3", y, 4 * width))
  if downsample:
    x = network.conv(f"{name}.downsample.0", x, 4 * width, stride=stride)
    x = network.norm(f"{name}.downsample.1", x)
  return relu(x + y)


# Expansion, channels, units, stride of the stages of MobileNetV2.
MOBILENET_V2 = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def torchvision_mobilenet(network: Network, x):
  x = _conv_relu6(network, "features.0", x, 32, 3, stride=2)
  index = 0
  for expansion, channels, count, stride in MOBILENET_V2:
    for unit in range(count):
      index += 1
      name = f"features.{index}.conv"
      y, i = x, 0
      if expansion > 1:
        y = _conv_relu6(network, f"{name}.0", y, expansion * x.shape[1])
        i = 1
      y = _conv_relu6(
        network,
        f"{name}.{i}",
        y,
        y.shape[1],
        3,
        stride=stride if unit == 0 else 1,
        groups=y.shape[1],
      )
      y = network.conv(f"{name}.{i + 1}", y, channels)
      y = network.norm(f"{name}.{i + 2}", y)
      x = x + y if x.shape == y.shape else y
  y = _conv_relu6(network, "features.18", x, 1280)
  return x, network.linear("classifier.1", jnp.mean(y, (2, 3)), 1000)


def _conv_relu6(network, name, x, *arguments, **keywords):
  x = network.conv(f"{name}.0", x, *arguments, **keywords)
  return relu6(network.norm(f"{name}.1", x))


def timm_mobilenet(network: Network, x):
  def conv_norm(conv, norm, y, *arguments, **keywords):
    return network.norm(norm, network.conv(conv, y, *arguments, **keywords))

  x = relu6(conv_norm("conv_stem", "bn1", x, 32, 3, stride=2))
  for stage, (expansion, channels, count, stride) in enumerate(MOBILENET_V2):
    for unit in range(count):
      name, y = f"blocks.{stage}.{unit}", x
      first, second, third = (f"{name}.bn{i}" for i in (1, 2, 3))
      project = "conv_pwl"
      if expansion > 1:
        features = expansion * x.shape[1]
        y = relu6(conv_norm(f"{name}.conv_pw", first, y, features))
      else:
        second, third, project = first, second, "conv_pw"
      y = conv_norm(
        f"{name}.conv_dw",
        second,
        y,
        y.shape[1],
        3,
        stride=stride if unit == 0 else 1,
        groups=y.shape[1],
      )
      y = conv_norm(f"{name}.{project}", third, relu6(y), channels)
      x = x + y if x.shape == y.shape else y
  y = relu6(conv_norm("conv_head", "bn2", x, 1280))
  return x, network.linear("classifier", jnp.mean(y, (2, 3)), 1000)


def timm_xception(network: Network, x, middle_units: int):
  """timm's xception41 (8 middle units) and xception65 (16)."""
  for i, features in enumerate((32, 64)):
    x = network.conv(f"stem.{i}.conv", x, features, 3, stride=2 - i)
    x = relu(network.norm(f"stem.{i}.bn", x))
  depths = [(128,) * 3, (256,) * 3, *[(728,) * 3] * (middle_units + 1)]
  depths += [(728, 1024, 1024), (1536, 1536, 2048)]
  strided = {0, 1, 2, len(depths) - 2}
  for i, depth in enumerate(depths):
    x = _xception_block(
      network,
      f"blocks.{i}",
      x,
      depth,
      2 if i in strided else 1,
      last=i == len(depths) - 1,
    )
  return x, network.linear("head.fc", jnp.mean(x, (2, 3)), 1000)


def _xception_block(network, name, x, depths, stride, last):
  y = x
  for i, depth in enumerate(depths, 1):
    conv = f"{name}.stack.conv{i}"
    y = y if last else relu(y)
    y = network.conv(
      f"{conv}.conv_dw", y, y.shape[1], 3, stride if i == 3 else 1, y.shape[1]
    )
    y = network.norm(f"{conv}.bn_dw", y)
    y = relu(y) if last else y
    y = network.norm(f"{conv}.bn_pw", network.conv(f"{conv}.conv_pw", y, depth))
    y = relu(y) if last else y
  if last:
    return y
  if x.shape[1] != depths[-1] or stride > 1:
    x = network.conv(f"{name}.shortcut.conv", x, depths[-1], stride=stride)
    x = network.norm(f"{name}.shortcut.bn", x)
  return x + y
