"""MobileNetV4 and EfficientNetV2 in timm's state dicts."""

import re

from deeplab_jax.import_weights.encoders import Arrays, Family, Shapes
from deeplab_jax.models.efficient import VARIANTS, Variant

# What parts of a block are called, by a name that only blocks of its kind have.
_KINDS = {
  "conv_exp": {
    "conv_exp": "fused",
    "bn1": "fused",
    "conv_pwl": "project",
    "bn2": "project",
  },
  "conv_dw": {
    "conv_pw": "expand",
    "bn1": "expand",
    "conv_dw": "depthwise",
    "bn2": "depthwise",
    "se.conv_reduce": "squeeze_excite/squeeze",
    "se.conv_expand": "squeeze_excite/excite",
    "conv_pwl": "project",
    "bn3": "project",
  },
  "pw_exp.conv": {
    f"{theirs}.{part}": ours
    for theirs, ours in (
      ("dw_start", "first_depthwise"),
      ("pw_exp", "expand"),
      ("dw_mid", "depthwise"),
      ("pw_proj", "project"),
    )
    for part in ("conv", "bn")
  },
  "conv": {"conv": "conv", "bn1": "conv"},
}
_BLOCK = r"(blocks\.\d+\.\d+)"


def _with_kinds(state: Arrays) -> Arrays:
  """Has names of blocks tell their kind, on which depends what `bn1` is."""
  kinds = {}
  for name in state:
    for kind in _KINDS:
      if match := re.match(rf"{_BLOCK}\.{kind}\.weight", name):
        kinds[match[1]] = kind

  def told(name):
    match = re.fullmatch(rf"{_BLOCK}\.(.+)(\.\w+(?:/\w+)?)", name)
    kind = match and kinds.get(match[1])
    if kind and match[2] in _KINDS[kind]:
      return f"{match[1]}.<{kind}>.{match[2]}{match[3]}"
    return name

  return {told(name): array for name, array in state.items()}


def _layer(match: re.Match) -> str:
  stage, block, kind, part = match.groups()
  return f"stage{stage}_block{block}/{_KINDS[kind][part]}"


def _signature(variant: Variant) -> dict[str, int]:
  """Output channels by block."""
  return {
    f"stage{i}_block{j}": block.features
    for i, stage in enumerate(variant.stages)
    for j, block in enumerate(stage)
  }


def _find(shapes: Shapes) -> str:
  found = {
    name.split("/")[0]: shape[-1]
    for name, shape in shapes.items()
    if re.fullmatch(r"stage\d+_block\d+/(conv|project)/weights", name)
  }
  for name, variant in VARIANTS.items():
    if _signature(variant) == found:
      return name
  stages = sorted({name.split("_")[0] for name in found})
  ends = [
    (sum(n.startswith(f"{stage}_") for n in found), found[f"{stage}_block0"])
    for stage in stages
  ]
  raise ValueError(
    "the state dict is of a network with stages of these (blocks, channels):"
    f" {', '.join(map(str, ends))}; known are {', '.join(VARIANTS)}"
  )


FAMILY = Family(
  "MobileNetV4 or EfficientNetV2",
  r"blocks\.\d+\.\d+\.(?:pw_exp\.conv|conv_exp)\.weight",
  (
    (r"blocks\.(\d+)\.(\d+)\.<(.+)>\.(.+)", _layer),
    (r"conv_stem|bn1", "stem"),
    (r"conv_head|bn2|norm_head", "conv_1"),
    (r"classifier", "logits"),
  ),
  _find,
  _with_kinds,
)
