"""torch's DeepLabs, plainly: what their modules compute, channels first.

Written from the names of their state dicts and what they are known to do; on
`torch_networks`, sharing nothing with `deeplab_jax`. A network gives logits of
the size of its images, and draws the state dict that it asks for. Compared once
with the networks themselves (torchvision 0.28, segmentation_models_pytorch 0.6,
both repositories): `test_import_weights_reference` does so again where torch
is.
"""

import jax.numpy as jnp
import numpy as np

from tests.torch_networks import MOBILENET_V2, Network, max_pool, relu, relu6

UNITS = (2, 2, 2, 3)
# Kernel, expanded, channels, squeeze, hard swish, stride, rate.
_MOBILENET_V3 = (
  (3, 16, 16, 0, 0, 1, 1),
  (3, 64, 24, 0, 0, 2, 1),
  (3, 72, 24, 0, 0, 1, 1),
  (5, 72, 40, 1, 0, 2, 1),
  (5, 120, 40, 1, 0, 1, 1),
  (5, 120, 40, 1, 0, 1, 1),
  (3, 240, 80, 0, 1, 2, 1),
  (3, 200, 80, 0, 1, 1, 1),
  (3, 184, 80, 0, 1, 1, 1),
  (3, 184, 80, 0, 1, 1, 1),
  (3, 480, 112, 1, 1, 1, 1),
  (3, 672, 112, 1, 1, 1, 1),
  (5, 672, 160, 1, 1, 1, 2),
  (5, 960, 160, 1, 1, 1, 2),
  (5, 960, 160, 1, 1, 1, 2),
)


def resize(x, size, align_corners):
  """Bilinear: by corners, or by the outer edges of the map."""
  for axis, new in zip((2, 3), size):
    old, places = x.shape[axis], np.arange(new)
    if align_corners:
      places = places * (old - 1) / max(new - 1, 1)
    else:
      places = np.clip((places + 0.5) * old / new - 0.5, 0, old - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, old - 1)
    share = np.expand_dims(places - below, [i for i in range(4) if i != axis])
    x = (
      jnp.take(x, below, axis) * (1 - share) + jnp.take(x, above, axis) * share
    )
  return x


def conv_norm(net, conv, norm, x, *arguments, **keywords):
  return net.norm(norm, net.conv(conv, x, *arguments, **keywords))


def resnet(net, prefix, x, rates, first=(1, 1, 1, 1), grid=(1, 1, 1)):
  """Results of the first layer and the last; strides by `rates`.

  Args:
    net: the network.
    prefix: of its modules.
    x: images.
    rates: of every layer; one that exceeds 1 has no stride.
    first: rate of the first unit of every layer.
    grid: factors of the rates of the last layer's units.
  """
  x = relu(conv_norm(net, f"{prefix}conv1", f"{prefix}bn1", x, 64, 7, 2))
  x, low = max_pool(x), None
  for layer, count in enumerate(UNITS):
    width = 64 * 2**layer
    for unit in range(count):
      name = f"{prefix}layer{layer + 1}.{unit}"
      stride = 2 if layer and not unit and rates[layer] == 1 else 1
      rate = rates[layer] if unit else first[layer]
      rate *= grid[unit] if layer == 3 else 1
      y = relu(conv_norm(net, f"{name}.conv1", f"{name}.bn1", x, width))
      args = y, width, 3, stride
      y = relu(conv_norm(net, f"{name}.conv2", f"{name}.bn2", *args, rate=rate))
      y = conv_norm(net, f"{name}.conv3", f"{name}.bn3", y, 4 * width)
      if unit == 0:
        down = f"{name}.downsample"
        x = conv_norm(net, f"{down}.0", f"{down}.1", x, 4 * width, 1, stride)
      x = relu(x + y)
    low = x if layer == 0 else low
  return low, x


def mobilenet_v2(
  net, prefix, x, rates, first, strided, pads_first=False, flat=False, stem=1
):
  """Results of the blocks of stride 4, and of the last.

  Args:
    net: the network.
    prefix: of a block's modules, given the number of the block.
    x: images.
    rates: of every stage.
    first: the same of the first blocks of the stages.
    strided: how many stages keep their strides.
    pads_first: whether the input of a block is padded, not of its depthwise
      convolution.
    stem: padding of the first convolution.
    flat: whether convolutions, norms and activations are numbered in one row.
  """
  names = (f"{prefix(0)}features.0.{i}" for i in range(2))
  x = relu6(conv_norm(net, *names, x, 32, 3, 2, pad=stem))
  number, low = 0, None
  for stage, (expansion, channels, count, stride) in enumerate(MOBILENET_V2):
    for unit in range(count):
      number += 1
      rate = rates[stage] if unit else first[stage]
      block = f"{prefix(number)}features.{number}.conv."
      names = _names(block, expansion > 1, flat)
      step = stride if not unit and stage < strided else 1
      y = jnp.pad(x, _border(rate)) if pads_first else x
      if expansion > 1:
        y = relu6(conv_norm(net, *next(names), y, expansion * x.shape[1]))
      pad = 0 if pads_first else rate
      args = y, y.shape[1], 3, step, y.shape[1], rate, pad
      y = relu6(conv_norm(net, *next(names), *args))
      y = conv_norm(net, *next(names), y, channels)
      x = x + y if x.shape == y.shape else y
    low = x if stage == 1 else low
  return low, x


def _border(rate):
  return (0, 0), (0, 0), (rate, rate), (rate, rate)


def _names(block, expands, flat):
  """Convolution and norm of expansion, depthwise convolution, projection."""
  count = 3 if expands else 2
  for i in range(count):
    if flat:
      yield f"{block}{3 * i}", f"{block}{3 * i + 1}"
    elif i < count - 1:
      yield f"{block}{i}.0", f"{block}{i}.1"
    else:
      yield f"{block}{i}", f"{block}{i + 1}"


def mobilenet_v3(net, x):
  """torchvision's large one, dilated: results of block 4, and of the last."""

  def hard_swish(x):
    return x * relu6(x + 3) / 6

  net.epsilon = 1e-3
  low = None
  x = hard_swish(conv_norm(net, "backbone.0.0", "backbone.0.1", x, 16, 3, 2))
  for number, block in enumerate(_MOBILENET_V3, 1):
    size, expanded, channels, squeeze, hard, stride, rate = block
    activation, y, i = (hard_swish if hard else relu), x, 0
    name = f"backbone.{number}.block."
    if expanded != x.shape[1]:
      y = activation(conv_norm(net, f"{name}0.0", f"{name}0.1", y, expanded))
      i = 1
    args = y, expanded, size, stride, expanded, rate
    y = activation(conv_norm(net, f"{name}{i}.0", f"{name}{i}.1", *args))
    if squeeze:
      i += 1
      gate = y.mean((2, 3), keepdims=True)
      fewer = max(8, (expanded // 4 + 4) // 8 * 8)
      fewer += 8 * (fewer < 0.9 * (expanded // 4))
      gate = relu(_biased(net, f"{name}{i}.fc1", gate, fewer))
      gate = _biased(net, f"{name}{i}.fc2", gate, expanded)
      y = y * relu6(gate + 3) / 6
    i += 1
    y = conv_norm(net, f"{name}{i}.0", f"{name}{i}.1", y, channels)
    x = x + y if x.shape == y.shape else y
    low = x if number == 4 else low
  x = hard_swish(conv_norm(net, "backbone.16.0", "backbone.16.1", x, 960))
  net.epsilon = 1e-5
  return low, x


def _biased(net, name, x, features):
  bias = net._array(f"{name}.bias", (features,), 0, 0.1)
  return net.conv(name, x, features) + bias[:, None, None]


def separable(net, conv, norm, x, features, rate=1):
  """Nothing between the halves."""
  y = net.conv(f"{conv}.0", x, x.shape[1], 3, 1, x.shape[1], rate)
  return relu(conv_norm(net, f"{conv}.1", norm, y, features))


def dense(net, conv, norm, x, features, rate=1):
  return relu(conv_norm(net, conv, norm, x, features, 3, rate=rate))


def aspp(net, name, x, rates, branch=dense, body="", width=256):
  """Joins 1x1, atrous and pooled features in this order."""
  convs = f"{name}.convs."
  found = [relu(conv_norm(net, f"{convs}0.0", f"{convs}0.1", x, width))]
  for i, rate in enumerate(rates, 1):
    args = f"{convs}{i}.0{body}", f"{convs}{i}.1", x, width, rate
    found.append(branch(net, *args))
  last = f"{convs}{len(rates) + 1}"
  pooled = x.mean((2, 3), keepdims=True)
  pooled = relu(conv_norm(net, f"{last}.1", f"{last}.2", pooled, width))
  found.append(jnp.broadcast_to(pooled, found[0].shape))
  x = jnp.concatenate(found, 1)
  names = f"{name}.project.0", f"{name}.project.1"
  return relu(conv_norm(net, *names, x, width))


def _one_by_one(net, conv, norm, x, features):
  return relu(conv_norm(net, conv, norm, x, features))


def torchvision_deeplab(net: Network, x, classes=5):
  """deeplabv3_resnet50 with its auxiliary classifier."""
  size = x.shape[2:]
  _, y = resnet(net, "backbone.", x, (1, 1, 2, 4), (1, 1, 1, 2))
  y = aspp(net, "classifier.0", y, (12, 24, 36))
  y = dense(net, "classifier.1", "classifier.2", y, 256)
  auxiliary = jnp.zeros((1, 1024, 1, 1))
  auxiliary = dense(net, "aux_classifier.0", "aux_classifier.1", auxiliary, 256)
  _biased(net, "aux_classifier.4", auxiliary, classes)
  return resize(_biased(net, "classifier.4", y, classes), size, False)


def torchvision_lraspp(net: Network, x, classes=5):
  """lraspp_mobilenet_v3_large."""
  low, y = mobilenet_v3(net, x)
  gate = net.conv("classifier.scale.1", y.mean((2, 3), keepdims=True), 128)
  gate = 1 / (1 + jnp.exp(-gate))
  y = _one_by_one(net, "classifier.cbr.0", "classifier.cbr.1", y, 128) * gate
  y = resize(y, low.shape[2:], False)
  y = _biased(net, "classifier.high_classifier", y, classes)
  y = y + _biased(net, "classifier.low_classifier", low, classes)
  return resize(y, x.shape[2:], False)


def smp_deeplabv3plus(net: Network, x, classes=5):
  """Encoder resnet50, stride 16; sides are multiples of that."""
  low, y = resnet(net, "encoder.", x, (1, 1, 1, 2), (1, 1, 1, 2))
  return smp_decoder(net, low, y, classes)


def smp_decoder(net: Network, low, y, classes=5, width=256):
  """What is behind any encoder, whose stride is 16."""
  y = aspp(net, "decoder.aspp.0", y, (12, 24, 36), separable, width=width)
  y = separable(net, "decoder.aspp.1", "decoder.aspp.2", y, width)
  y = resize(y, [4 * side for side in y.shape[2:]], True)
  low = _one_by_one(net, "decoder.block1.0", "decoder.block1.1", low, 48)
  y = jnp.concatenate([y, low], 1)
  y = separable(net, "decoder.block2.0", "decoder.block2.1", y, width)
  y = _biased(net, "segmentation_head.0", y, classes)
  return resize(y, [4 * side for side in y.shape[2:]], True)


def smp_deeplabv3(net: Network, x, classes=5):
  """Encoder mobilenet_v2, stride 8; sides are multiples of that."""
  rates = (1, 1, 1, 2, 2, 4, 4)
  _, y = mobilenet_v2(net, lambda _: "encoder.", x, rates, rates, 3)
  last = "encoder.features.18."
  y = relu6(conv_norm(net, f"{last}0", f"{last}1", y, 1280))
  y = aspp(net, "decoder.aspp", y, (12, 24, 36))
  y = dense(net, "decoder.conv", "decoder.bn", y, 256)
  y = _biased(net, "segmentation_head.0", y, classes)
  return resize(y, [8 * side for side in y.shape[2:]], True)


def transformers_mobilenet(net: Network, x, classes=5):
  """MobileNetV2ForSemanticSegmentation, stride 8, padded as TensorFlow does."""

  def conv(name, x, features, size=1, stride=1, groups=1, rate=1):
    pad = None
    if stride == 2:
      x, pad = jnp.pad(x, [(0, 0)] * 2 + [(n % 2, 1) for n in x.shape[2:]]), 0
    names = f"{name}.convolution", f"{name}.normalization"
    args = size, stride, groups, rate, pad
    return conv_norm(net, *names, x, features, *args)

  net.epsilon, prefix, size = 1e-3, "mobilenet_v2.", x.shape[2:]
  x = relu6(conv(f"{prefix}conv_stem.first_conv", x, 32, 3, 2))
  reached, rate, block = 2, 1, f"{prefix}conv_stem"
  for expansion, channels, count, stride in MOBILENET_V2:
    for step in (stride, *[1] * (count - 1)):
      y, following = x, rate
      if reached == 8:
        step, following = 1, rate * step
      reached *= step
      if expansion > 1:
        y = relu6(conv(f"{block}.expand_1x1", y, expansion * x.shape[1]))
      args = y, y.shape[1], 3, step, y.shape[1], rate
      y = conv(
        f"{block}.reduce_1x1", relu6(conv(f"{block}.conv_3x3", *args)), channels
      )
      x, rate = (x + y if x.shape == y.shape else y), following
      index = int(block.split(".")[-1]) + 1 if "layer" in block else 0
      block = f"{prefix}layer.{index}"
  conv(f"{prefix}conv_1x1", x, 1280)
  net.epsilon, head = 1e-5, "segmentation_head."
  pooled = relu(conv(f"{head}conv_pool", x.mean((2, 3), keepdims=True), 256))
  y = relu(conv(f"{head}conv_aspp", x, 256))
  y = jnp.concatenate([jnp.broadcast_to(pooled, y.shape), y], 1)
  y = relu(conv(f"{head}conv_projection", y, 256))
  y = _biased(net, f"{head}classifier.convolution", y, classes)
  return resize(y, size, False)


def vainf_mobilenet(net: Network, x, classes=5):
  """deeplabv3plus_mobilenet of VainF/DeepLabV3Plus-Pytorch, separable."""

  def prefix(number):
    return f"backbone.{'low' if number < 4 else 'high'}_level_"

  rates, first = (1, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 1, 2)
  args = net, prefix, x, rates, first, 5
  low, y = mobilenet_v2(*args, pads_first=True, stem=0)
  y = aspp(net, "classifier.aspp", y, (6, 12, 18), separable, ".body")
  project = "classifier.project."
  low = _one_by_one(net, f"{project}0", f"{project}1", low, 48)
  y = jnp.concatenate([low, resize(y, low.shape[2:], False)], 1)
  last = "classifier.classifier."
  y = separable(net, f"{last}0.body", f"{last}1", y, 256)
  return resize(_biased(net, f"{last}3", y, classes), x.shape[2:], False)


def _jfzhang(net, low, y, size, classes):
  """ASPP and decoder of jfzhang95/pytorch-deeplab-xception, stride 16."""

  def atrous(i, size, rate):
    name = f"aspp.aspp{i}."
    args = f"{name}atrous_conv", f"{name}bn", y, 256, size
    return relu(conv_norm(net, *args, rate=rate))

  found = [atrous(1, 1, 1)]
  found += [atrous(i, 3, rate) for i, rate in ((2, 6), (3, 12), (4, 18))]
  pool, pooled = "aspp.global_avg_pool.", y.mean((2, 3), keepdims=True)
  pooled = _one_by_one(net, f"{pool}1", f"{pool}2", pooled, 256)
  found.append(jnp.broadcast_to(pooled, found[0].shape))
  y = jnp.concatenate(found, 1)
  y = _one_by_one(net, "aspp.conv1", "aspp.bn1", y, 256)
  low = _one_by_one(net, "decoder.conv1", "decoder.bn1", low, 48)
  y = jnp.concatenate([resize(y, low.shape[2:], True), low], 1)
  last = "decoder.last_conv."
  y = dense(net, f"{last}0", f"{last}1", y, 256)
  y = dense(net, f"{last}4", f"{last}5", y, 256)
  return resize(_biased(net, f"{last}8", y, classes), size, True)


def jfzhang_resnet(net: Network, x, classes=5):
  rates = (1, 1, 1, 2)
  # Here a rate of 2 goes with the stride of the third layer, and multi-grid.
  low, y = resnet(net, "backbone.", x, rates, rates, (1, 2, 4))
  return _jfzhang(net, low, y, x.shape[2:], classes)


def jfzhang_mobilenet(net: Network, x, classes=5):
  """Its modules stand under two names."""
  # The strided stage has the old rate, all of it.
  rates = (1, 1, 1, 1, 1, 1, 2)
  low, y = mobilenet_v2(
    net, lambda _: "backbone.", x, rates, rates, 5, pads_first=True, flat=True
  )
  for name, array in list(net.state.items()):
    part, dot, rest = name.partition("features.")
    if dot:
      half = "low" if int(rest.split(".")[0]) < 4 else "high"
      net.state[f"{part}{half}_level_{dot}{rest}"] = array
  return _jfzhang(net, low, y, x.shape[2:], classes)


def jfzhang_xception(net: Network, x, classes=5, middle=2):
  """Skip connections are activated, the last of strided blocks have rate 1."""

  def half(name, norm, x, features, stride=1, rate=1):
    args = x, x.shape[1], 3, stride, x.shape[1], rate
    x = conv_norm(net, f"{name}.conv1", f"{name}.bn", *args)
    return conv_norm(net, f"{name}.pointwise", norm, x, features)

  size, name, low = x.shape[2:], "backbone.", None
  x = relu(conv_norm(net, f"{name}conv1", f"{name}bn1", x, 32, 3, 2))
  x = relu(conv_norm(net, f"{name}conv2", f"{name}bn2", x, 64, 3))
  depths = [(128,) * 3, (256,) * 3, *[(728,) * 3] * (middle + 1)]
  depths.append((728, 1024, 1024))
  for number, depth in enumerate(depths, 1):
    x, block = relu(x), f"{name}block{number}"
    low = x if number == 2 else low
    stride, y = (2 if number < 4 else 1), x
    for i, features in enumerate(depth):
      place = 3 * i + (number > 2)
      rep = f"{block}.rep.{place}", f"{block}.rep.{place + 1}"
      y = half(*rep, relu(y), features, stride if i == 2 else 1)
    if number < 4 or number == len(depths):
      args = f"{block}.skip", f"{block}.skipbn", x, depth[2], 1, stride
      x = conv_norm(net, *args)
    x = x + y
  x = relu(x)
  for i, features in ((3, 1536), (4, 1536), (5, 2048)):
    x = relu(half(f"{name}conv{i}", f"{name}bn{i}", x, features, rate=2))
  return _jfzhang(net, low, x, size, classes)
