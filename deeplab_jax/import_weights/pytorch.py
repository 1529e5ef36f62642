"""State dicts of torchvision and timm under official names and layout.

ResNet-50 and -101 (both libraries), MobileNetV2 (both, and transformers, whose
network is the official one), Xception-41, -65 and -71 (timm). torch's ResNet
and MobileNetV2 compute something else than the official ones from the same
shapes: they stride in the first unit of a block (ResNet), pad symmetrically,
have another epsilon and another input. So they are backbones of their own, in
scopes of their own, such as `resnet_50_torch/...`.
Encoders that have no official weights are in files of their own: `encoders.py`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deeplab_jax.import_weights import convnext, efficient, encoders, vit
from deeplab_jax.import_weights.averages import SUFFIX, raw_name
from deeplab_jax.import_weights.names import backbone_scope
from deeplab_jax.import_weights.states import flatten
from deeplab_jax.models.resnet import UNITS
from deeplab_jax.models.xception import BLOCKS

Arrays = dict[str, np.ndarray]
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

_TORCH_LEAVES = (".weight", ".running_mean")  # others have slashes
_NORM_LEAVES = {
  "weight": "gamma",
  "bias": "beta",
  "running_mean": "moving_mean",
  "running_var": "moving_variance",
}
FAMILIES = (convnext.FAMILY, efficient.FAMILY, vit.FAMILY)
"""Encoders whose names have files of their own."""
# Index of the first block of each stage of timm's MobileNetV2, and behind all.
_STAGES = (0, 1, 3, 6, 10, 13, 16, 17)


def is_torch(arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether the names are those of a torch state dict."""
  return any(raw_name(name).endswith(_TORCH_LEAVES) for name in arrays)


def to_official(state: Mapping[str, Any]) -> Arrays:
  """Renames and transposes the arrays of a state dict.

  Args:
    state: by torch's names, as `flatten` takes it; kernels (out, in, height,
      width), linear layers (out, in).

  Returns:
    By official name, kernels (height, width, in, out) or, if depthwise,
    (height, width, channels, 1); moving averages as
    `<variable>/ExponentialMovingAverage`.

  Raises:
    ValueError: the names are of no known network; one line.
  """
  state = flatten(state)
  if family := encoders.recognise(state, FAMILIES):
    return encoders.translate(state, family)
  names = {raw_name(name): np.shape(array) for name, array in state.items()}
  backbone, rules = recognise(names)
  arrays, unknown = {}, []
  for name, array in state.items():
    module, _, leaf = raw_name(name).rpartition(".")
    layer = translate(module, rules)
    if layer is None:
      unknown.append(name)
    elif leaf != "num_batches_tracked":
      norm = f"{module}.running_mean" in names
      official, array = convert(layer, leaf, np.asarray(array), norm)
      suffix = SUFFIX if name.endswith(SUFFIX) else ""
      arrays[f"{backbone_scope(backbone)}/{official}{suffix}"] = array
  if unknown:
    raise encoders.unexpected(backbone, unknown)
  return arrays


def usual_arguments(state: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of `DeepLab` that whoever wrote a state dict computes with.

  Args:
    state: as `to_official` takes it.
  """
  state = flatten(state)
  family = encoders.recognise(state, FAMILIES)
  return family.usual(dict(state)) if family else {}


def told_backbone(arrays: Mapping[str, Any], state: Mapping[str, Any]) -> str:
  """The backbone of `arrays` that `to_official` made of `state`; "" of one
  that shares its names with others."""
  if not encoders.recognise(flatten(state), FAMILIES):
    return ""
  return next(iter(arrays)).split("/")[0]


def convert(
  layer: str, leaf: str, array: np.ndarray, norm: bool
) -> tuple[str, np.ndarray]:
  """The name of a leaf of `layer`, and the array in official layout."""
  if norm:
    return f"{layer}/BatchNorm/{_NORM_LEAVES[leaf]}", array
  if leaf == "bias":
    return f"{layer}/biases", array
  if array.ndim == 2:
    return f"{layer}/weights", array.T[None, None]
  if array.ndim == 1:
    raise ValueError(
      f"the state dict has no running_mean of {layer}: it holds parameters "
      "alone; give the network's whole state_dict()"
    )
  if layer.endswith("depthwise"):
    return f"{layer}/depthwise_weights", array.transpose(2, 3, 0, 1)
  return f"{layer}/weights", array.transpose(2, 3, 1, 0)


def translate(module: str, rules: Rules) -> str | None:
  """The layer below its backbone's scope that `module` is, if any."""
  for pattern, replacement in rules:
    if match := re.fullmatch(pattern, module):
      if callable(replacement):
        return replacement(match)
      return match.expand(replacement)
  return None


def recognise(state: Mapping[str, tuple[int, ...]]) -> tuple[str, Rules]:
  """The backbone of a state dict and how its modules are called officially.

  Args:
    state: by torch's names the shapes.

  Raises:
    ValueError: it is of no known network; one line.
  """
  if "layer1.0.conv3.weight" in state:
    return _resnet(state), _RESNET
  if "features.0.0.weight" in state:
    return "mobilenet_v2_torch", _TORCHVISION_MOBILENET
  if "conv_stem.weight" in state and _is_timm_mobilenet(state):
    return "mobilenet_v2_torch", _TIMM_MOBILENET
  if "stem.0.conv.weight" in state:
    return _timm_xception(state)
  if any(
    name.endswith("conv_stem.first_conv.convolution.weight") for name in state
  ):
    return "mobilenet_v2", _TRANSFORMERS_MOBILENET
  families = ", ".join(family.title for family in FAMILIES)
  raise ValueError(
    "the state dict is of no known network: expected ResNet-50 or -101 of"
    " torchvision or timm, MobileNetV2 of these or transformers, xception41,"
    f" xception65 or xception71 of timm, {families}; its first names are"
    f" {', '.join(list(state)[:5])}"
  )


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> str:
  """The backbone; raises ValueError for one of other depth or width."""
  names = [name.split(".") for name in shapes if name.startswith("layer")]
  units = Counter(layer for layer, _ in {(name[0], name[1]) for name in names})
  counts = tuple(units[layer] for layer in sorted(units))
  kernel = tuple(shapes.get("layer1.0.conv2.weight", ()))
  for name, known in UNITS.items():
    if known == counts and kernel == (64, 64, 3, 3):
      return f"{name}_torch"
  known = ", ".join(f"{name} {units}" for name, units in UNITS.items())
  raise ValueError(
    f"the state dict is of a ResNet with {counts} units in its layers and "
    f"kernels {kernel} in the first; those that are built here have "
    f"(64, 64, 3, 3) and {known}"
  )


def _is_timm_mobilenet(state) -> bool:
  """Whether it has MobileNetV2's blocks, of all that begin with `conv_stem`."""
  found = {tuple(n.split(".")[1:3]) for n in state if n.startswith("blocks.")}
  wanted = {
    (str(stage), str(block))
    for stage, (first, following) in enumerate(itertools.pairwise(_STAGES))
    for block in range(following - first)
  }
  return found == wanted and not any(".se." in name for name in state)


def _timm_xception(state) -> tuple[str, Rules]:
  count = len({n.split(".")[1] for n in state if n.startswith("blocks.")})
  for backbone in BLOCKS:
    units = xception_units(backbone)
    if len(units) == count:
      return backbone, _xception_rules(units)
  raise ValueError(
    f"a timm Xception has 13, 21 or 23 blocks, the state dict has {count}"
  )


def xception_units(backbone: str) -> list[str]:
  """The official scopes of all units of an Xception, in order."""
  return [
    re.sub(r"_(block\d)", rf"/\1/unit_{unit + 1}", block.name)
    for block in BLOCKS[backbone]
    for unit in range(block.units)
  ]


def _xception_rules(units: list[str]) -> Rules:
  def unit(match):
    scope = f"{units[int(match[1])]}/xception_module"
    if match[2].startswith("shortcut"):
      return f"{scope}/shortcut"
    half = "depthwise" if match[4] == "dw" else "pointwise"
    return f"{scope}/separable_conv{match[3]}_{half}"

  return (
    (r"stem\.0\.(conv|bn)", "entry_flow/conv1_1"),
    (r"stem\.1\.(conv|bn)", "entry_flow/conv1_2"),
    (
      r"blocks\.(\d+)\.(stack\.conv(\d)\.(?:conv|bn)_(dw|pw)"
      r"|shortcut\.(?:conv|bn))",
      unit,
    ),
    (r"head\.fc", "logits"),
  )


def _resnet_unit(match) -> str:
  scope = f"block{match[1]}/unit_{int(match[2]) + 1}/bottleneck_v1"
  return f"{scope}/conv{match[3]}" if match[3] else f"{scope}/shortcut"


def _inverted_residual(index: int, layer: str) -> str:
  return f"expanded_conv_{index}/{layer}" if index else f"expanded_conv/{layer}"


def _torchvision_block(match) -> str:
  index, layer = int(match[1]) - 1, int(match[2])
  # The first block has no expansion.
  layers = ("expand", "depthwise", "project")[0 if index else 1 :]
  return _inverted_residual(index, layers[min(layer, len(layers) - 1)])


def _timm_block(match) -> str:
  index = _STAGES[int(match[1])] + int(match[2])
  layers = (
    {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
    | {"bn1": "expand", "bn2": "depthwise", "bn3": "project"}
    if index
    else {"conv_dw": "depthwise", "conv_pw": "project"}
    | {"bn1": "depthwise", "bn2": "project"}
  )
  return _inverted_residual(index, layers[match[3]])


_RESNET: Rules = (
  (r"(conv|bn)1", "conv1"),
  (r"layer(\d)\.(\d+)\.(?:(?:conv|bn)(\d)|downsample\.[01])", _resnet_unit),
  (r"fc", "logits"),
)
_TRANSFORMERS_LAYERS = {
  "expand_1x1": "expand",
  "conv_3x3": "depthwise",
  "reduce_1x1": "project",
}


def _transformers_block(match) -> str:
  index = int(match[1]) + 1 if match[1] else 0
  return _inverted_residual(index, _TRANSFORMERS_LAYERS[match[2]])


_LAST_LAYER = "Logits/Conv2d_1c_1x1"
_TORCHVISION_MOBILENET: Rules = (
  (r"features\.0\.[01]", "Conv"),
  (r"features\.18\.[01]", "Conv_1"),
  (r"features\.(\d+)\.conv\.(\d)(?:\.[01])?", _torchvision_block),
  (r"classifier\.1", _LAST_LAYER),
)
_TIMM_MOBILENET: Rules = (
  (r"conv_stem|bn1", "Conv"),
  (r"conv_head|bn2", "Conv_1"),
  (r"blocks\.(\d)\.(\d)\.(\w+)", _timm_block),
  (r"classifier", _LAST_LAYER),
)
_PARTS = r"(?:convolution|normalization)"
# The official network, of official weights.
_TRANSFORMERS_MOBILENET: Rules = (
  (rf"(?:mobilenet_v2\.)?conv_stem\.first_conv\.{_PARTS}", "Conv"),
  (
    rf"(?:mobilenet_v2\.)?(?:conv_stem|layer\.(\d+))"
    rf"\.(conv_3x3|reduce_1x1|expand_1x1)\.{_PARTS}",
    _transformers_block,
  ),
  (rf"(?:mobilenet_v2\.)?conv_1x1\.{_PARTS}", "Conv_1"),
  (r"classifier", _LAST_LAYER),
)
