"""The arguments of a model from the names and shapes of its variables."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from deeplab_jax.import_weights.averages import raw_name
from deeplab_jax.import_weights.names import backbone_scope
from deeplab_jax.models.backbones import BACKBONES, build_backbone
from deeplab_jax.models.trace import shapes_of

Shapes = Mapping[str, tuple[int, ...]]

_PUBLISHED_RATES = (6, 12, 18)


def infer_arguments(shapes: Shapes) -> dict[str, Any]:
  """What names and shapes tell of a DeepLab, or of a classifier's backbone.

  Args:
    shapes: of all variables or their moving averages, by official name.

  Returns:
    Arguments of `DeepLab`. Rates and the multi-grid leave no trace: three
    atrous branches are taken to have the published rates, other numbers of
    branches are left out. Of an ImageNet classifier only the backbone and its
    width are told.

  Raises:
    ValueError: there is no known backbone among the names.
  """
  shapes = {raw_name(name): shape for name, shape in shapes.items()}
  backbone = _backbone(shapes)
  arguments = {"backbone": backbone}
  last = f"{backbone_scope(backbone)}/expanded_conv_16/project/weights"
  if BACKBONES[backbone].has_width and last in shapes:
    arguments["width_multiplier"] = shapes[last][-1] / 320  # MobileNetV2's
  if is_classifier(shapes):
    return arguments
  if BACKBONES[backbone].head == "lraspp":
    arguments |= {"head": "lraspp", "decoder": BACKBONES[backbone].decoder}
    return arguments | _classes(shapes, "decoder/decoder_conv0")
  return (
    arguments
    | _classes(shapes, "logits/semantic")
    | _head(shapes)
    | _decoder(shapes, arguments)
  )


def is_classifier(shapes: Shapes) -> bool:
  """Whether the variables are those of an ImageNet classifier."""
  return not any(name.startswith(("logits/", "decoder/")) for name in shapes)


def _backbone(shapes: Shapes) -> str:
  scopes = {name.partition("/")[0] for name in shapes}
  found = [b for b in BACKBONES if backbone_scope(b) in scopes]
  if not found:
    known = sorted({backbone_scope(b) for b in BACKBONES})
    raise ValueError(
      f"no known backbone among the variables: expected one of"
      f" {', '.join(known)}; found {', '.join(sorted(scopes)[:10]) or 'none'}"
    )
  return max(found, key=lambda b: _is_told(BACKBONES[b].telltale, shapes))


def _is_told(telltale: str, shapes: Shapes) -> int:
  """1 if the telltale is there, 0 if a backbone has none, -1 if it is not."""
  if not telltale:
    return 0
  return 1 if any(telltale in name for name in shapes) else -1


def _classes(shapes: Shapes, layer: str) -> dict[str, Any]:
  kernel = shapes.get(f"{layer}/weights")
  return {"num_classes": kernel[-1]} if kernel else {}


def _head(shapes: Shapes) -> dict[str, Any]:
  arguments = _channels(shapes)
  if any(name.startswith("meta_architecture/") for name in shapes):
    return arguments | {"head": "dpc"}
  arguments["image_pooling"] = "image_pooling/weights" in shapes
  separable = "aspp1_depthwise/depthwise_weights" in shapes
  kind = "_depthwise/depthwise_weights" if separable else "/weights"
  branches = sum(f"aspp{i}{kind}" in shapes for i in range(1, len(shapes)))
  if branches:
    arguments["aspp_separable"] = separable
  if branches in (0, len(_PUBLISHED_RATES)):
    arguments["atrous_rates"] = _PUBLISHED_RATES[:branches]
  return arguments


def _channels(shapes: Shapes) -> dict[str, Any]:
  """Those of the result of ASPP, or of the dense prediction cell."""
  for scope in ("", "meta_architecture/"):
    if kernel := shapes.get(f"{scope}concat_projection/weights"):
      return {"aspp_channels": kernel[-1]}
  return {}


def _decoder(shapes: Shapes, encoder: dict[str, Any]) -> dict[str, Any]:
  names = [f"decoder/feature_projection0{s}/weights" for s in ("", "_1", "_2")]
  projections = [shapes[name] for name in names if name in shapes]
  if not projections:
    return {"decoder": ()}
  arguments = {"decoder_low_level_channels": projections[0][-1]}
  levels = _low_levels(**encoder)
  if all(kernel[-2] in levels for kernel in projections):
    arguments["decoder"] = tuple(levels[kernel[-2]] for kernel in projections)
  return arguments | _decoder_convs(shapes)


def _low_levels(backbone: str, width_multiplier: float = 1.0) -> dict[int, str]:
  """Channels to name of the low-level features of the paper."""
  network = build_backbone(
    backbone, output_stride=16, width_multiplier=width_multiplier
  )
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  (_, low_levels), _ = shapes_of(
    lambda x: network.init_with_output(jax.random.key(0), x, False), images
  )
  return {
    feature.shape[-1]: name
    for name, feature in low_levels.items()
    if name.startswith("conv")
  }


def _decoder_convs(shapes: Shapes) -> dict[str, Any]:
  """Kernel sizes and channels; separable and plain ones may mix (1x1)."""
  convs, separable = [], []
  for i in itertools.count():
    scope = f"decoder/decoder_conv{i}"
    depthwise = shapes.get(f"{scope}_depthwise/depthwise_weights")
    plain = f"decoder/decoder_conv0/decoder_conv0_{i + 1}/weights"
    last = shapes.get(f"{scope}_pointwise/weights" if depthwise else plain)
    if last is None:
      break
    size = (depthwise or last)[0]
    convs.append((size, last[-1]))
    if size > 1:
      separable.append(bool(depthwise))
  arguments = {"decoder_convs": tuple(convs)} if convs else {}
  return arguments | (
    {"decoder_separable": any(separable)} if separable else {}
  )
