"""Encoders of torch's DeepLabs: which of our backbones they are."""

import re
from typing import Any, NamedTuple

from deeplab_jax.import_weights import encoders, pytorch
from deeplab_jax.import_weights.encoders import Family
from deeplab_jax.import_weights.pytorch import Rules
from deeplab_jax.import_weights.torch_heads import (
  JFZHANG,
  SMP,
  TRANSFORMERS,
  Head,
  Shapes,
)

_TIMM = "model."  # before timm's modules in segmentation_models_pytorch
_LAYERS = ("expand", "depthwise", "project")  # of an inverted residual
_SQUEEZE = {"fc1": "Conv", "fc2": "Conv_1"}
# The first convolution of an encoder.
_STEMS = (
  "conv1.weight",
  "features.0.0.weight",
  "conv_stem.weight",
  "stem.0.weight",
  "stem.0.conv.weight",
  "0.0.weight",
  "conv_stem.first_conv.convolution.weight",
)


class Encoder(NamedTuple):
  """An encoder.

  Attributes:
    backbone: a key of `BACKBONES`.
    rules: official layers below the backbone's scope, by torch's modules.
    arguments: of `DeepLab`, beside the backbone.
    family: that knows the arrays in place of the rules, if there is one.
  """

  backbone: str
  rules: Rules
  arguments: dict[str, Any]
  family: Family | None = None


def plain_name(name: str) -> str:
  """The name of an encoder's array in a network that is the encoder alone."""
  name = re.sub(rf"^({_TIMM}|(low|high)_level_(?=features))", "", name)
  return re.sub(r"^(stem|stages|blocks)_(\d+)\.", r"\1.\2.", name)


def read_encoder(head: Head, shapes: Shapes) -> Encoder:
  """Reads the names and `shapes` of an encoder's arrays.

  Args:
    head: of the network.
    shapes: of its encoder's arrays, by their names less the head's prefix.

  Raises:
    ValueError: the encoder is not built here; one line.
  """
  is_timm = all(name.startswith(_TIMM) for name in shapes)
  shapes = {plain_name(name): shape for name, shape in shapes.items()}
  encoder = _read(head, shapes, is_timm)
  arguments = encoder.arguments | {"channels": _channels(shapes)}
  return encoder._replace(arguments=arguments)


def _channels(shapes: Shapes) -> int:
  """Those of the images."""
  return next((shapes[name][1] for name in _STEMS if name in shapes), 3)


def _read(head: Head, shapes: Shapes, is_timm: bool) -> Encoder:
  if "layer1.0.conv3.weight" in shapes:
    return _resnet(head, shapes, is_timm)
  if is_timm:
    if family := encoders.recognise(shapes, pytorch.FAMILIES):
      return _of_family(head, shapes, family)
    try:
      backbone, rules = pytorch.recognise(shapes)
    except ValueError:
      raise _unknown(head, shapes) from None
    return Encoder(backbone, rules, _width(shapes))
  if "features.0.0.weight" in shapes:
    return _mobilenet_v2(head, shapes)
  if "block1.rep.0.bn.running_mean" in shapes and head.owner == JFZHANG:
    return _xception(head, shapes)
  if head.owner == TRANSFORMERS:
    backbone, rules = pytorch.recognise(shapes)
    last = shapes["layer.15.reduce_1x1.convolution.weight"]
    return Encoder(backbone, rules, {"width_multiplier": last[0] / 320})
  if "1.block.0.0.weight" in shapes:
    return _mobilenet_v3(head, shapes)
  raise _unknown(head, shapes)


def _width(shapes: Shapes) -> dict[str, float]:
  """That of timm's MobileNetV2."""
  last = shapes.get("blocks.6.0.conv_pwl.weight")
  return {"width_multiplier": last[0] / 320} if last else {}


def _of_family(head: Head, shapes: Shapes, family: Family) -> Encoder:
  """Their low-level features are the results of stages by the paper's names."""
  levels = {"stage2": "conv2"}
  decoder = tuple(levels[name] for name in head.arguments["decoder"])
  backbone = encoders.find(shapes, family)
  return Encoder(backbone, (), {"decoder": decoder}, family)


def _unknown(head: Head, shapes: Shapes) -> ValueError:
  first = ", ".join(list(shapes)[:3]) or "nothing"
  return ValueError(
    f"the state dict is a {head.title} with an encoder that is not built here: "
    "expected ResNet-50 or -101, MobileNetV2, torchvision's MobileNetV3-Large "
    "or, of timm, Xception-41, -65 or -71, ConvNeXt, MobileNetV4 or "
    f"EfficientNetV2; it begins with {first}"
  )


def _resnet(head: Head, shapes: Shapes, is_timm: bool) -> Encoder:
  backbone, rules = pytorch.recognise(shapes)
  arguments = {}
  if head.owner == SMP and not is_timm:
    arguments = {"rates_from": "same_unit"}
  elif head.owner == JFZHANG:
    arguments = {"rates_from": "same_unit", "multi_grid": (1, 2, 4)}
  return Encoder(backbone, rules, arguments)


def _mobilenet_v2(head: Head, shapes: Shapes) -> Encoder:
  """torchvision's, or one of those that pad before they expand."""
  _, rules = pytorch.recognise({"features.0.0.weight": ()})
  if head.owner == SMP:
    arguments = {"rates_from": "same_unit"}
    return Encoder("mobilenet_v2_1280_torch", rules, arguments)
  if head.owner == JFZHANG:
    flat = r"features\.(\d+)\.conv\.(\d)", _flat_block
    arguments = {"rates_from": "next_stage"}
    return Encoder("mobilenet_v2_padded_torch", (flat, *rules), arguments)
  return Encoder("mobilenet_v2_valid_torch", rules, {})


def _flat_block(match: re.Match) -> str:
  """Convolution, normalisation and activation, all in one row."""
  index = int(match[1]) - 1
  layers = ("depthwise", "project") if not index else _LAYERS
  return f"{_scope(index)}/{layers[int(match[2]) // 3]}"


def _scope(index: int) -> str:
  return f"expanded_conv_{index}" if index else "expanded_conv"


def _xception(head: Head, shapes: Shapes) -> Encoder:
  """Blocks of three separable convolutions; three more without a block."""
  units = pytorch.xception_units("xception_65")
  blocks = {n.split(".")[0] for n in shapes if n.startswith("block")}
  if len(blocks) + 1 != len(units):
    raise ValueError(
      f"the state dict is a {head.title} whose Xception has {len(blocks)} "
      f"blocks, not {len(units) - 1}"
    )

  def layer(unit, conv, part):
    half = "depthwise" if part in ("conv1", "bn") else "pointwise"
    return f"{units[unit]}/xception_module/separable_conv{conv}_{half}"

  def in_block(match):
    # An activation before each convolution, but before the first in some.
    place = int(match[2]) + (f"block{match[1]}.rep.0.bn.weight" in shapes)
    return layer(int(match[1]) - 1, place // 3 + 1, match[3])

  rules = (
    (r"(?:conv|bn)([12])", r"entry_flow/conv1_\1"),
    (r"block(\d+)\.rep\.(\d)(?:\.(\w+))?", in_block),
    (
      r"block(\d+)\.skip(?:bn)?",
      lambda m: f"{units[int(m[1]) - 1]}/xception_module/shortcut",
    ),
    (
      r"(?:conv|bn)([345])(?:\.(\w+))?",
      lambda m: layer(len(units) - 1, int(m[1]) - 2, m[2]),
    ),
  )
  return Encoder("xception_65_torch", rules, {})


def _mobilenet_v3(head: Head, shapes: Shapes) -> Encoder:
  last = tuple(shapes.get("16.0.weight", ()))
  if last != (960, 160, 1, 1):
    raise ValueError(
      f"the state dict is a {head.title} whose encoder is not torchvision's "
      f"MobileNetV3-Large: {head.prefix}16.0.weight is {last or 'missing'}, "
      "there (960, 160, 1, 1)"
    )

  def block(match):
    """Expansion but in the first, depthwise, squeeze in some, projection."""
    number, place, part = match[1], int(match[2]), match[3]
    scope = _scope(int(number) - 1)
    if part.startswith("fc"):
      return f"{scope}/squeeze_excite/{_SQUEEZE[part]}"
    place += number == "1"
    place -= f"{number}.block.{int(match[2]) - 1}.fc1.weight" in shapes
    return f"{scope}/{_LAYERS[place]}"

  rules = (
    (r"0\.[01]", "Conv"),
    (r"16\.[01]", "Conv_1"),
    (r"(\d+)\.block\.(\d)\.(\w+)", block),
  )
  arguments = {"rates_from": "same_unit"}
  return Encoder("mobilenet_v3_large_torch", rules, arguments)
