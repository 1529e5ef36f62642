"""What the arguments of `DeepLab` may be."""

import math
import typing
from typing import Any

from deeplab_jax.models.atrous import RatesFrom
from deeplab_jax.models.backbones import find_backbone
from deeplab_jax.models.positions import PositionsOf

OUTPUT_STRIDES = (8, 16, 32)
HEADS = ("aspp", "dpc", "lraspp", "lraspp_torch")
LITE_HEADS = ("lraspp", "lraspp_torch")
"""Those that are all of the network behind the backbone."""
LOW_LEVEL_STRIDES = {
  "conv4": 16,
  "stage4": 16,
  "conv3": 8,
  "stage3": 8,
  "conv2": 4,
  "stage2": 4,
}
"""Low-level features, from coarse to fine, by the paper's names; `stage...` are
those that torch's networks take."""
AUXILIARIES = ("", "conv4", "conv3", "conv2", "features")
IMAGE_DTYPES = ("uint8", "uint16", "int16", "float32")
MOST_CHANNELS = 32
IMAGE_ARGUMENTS = ("channels", "image_dtype", "value_range")
"""Those that follow the images, not the config."""
TRAINING_ARGUMENTS = (
  "dtype",
  "dropout_rate",
  "drop_path_rate",
  "batch_norm_momentum",
)
"""Those that tell how a network is trained, not what its weights are."""


def check_arguments(model: Any) -> None:
  """Raises ValueError naming the first argument that is not allowed.

  Args:
    model: anything with the attributes of `DeepLab`.
  """
  _check_images(model)
  _check_backbone(model)
  _check_head(model)
  _check_decoder(model)


def _check_images(model):
  _require(
    model,
    "channels",
    f"from 1 to {MOST_CHANNELS}",
    lambda v: isinstance(v, int) and 1 <= v <= MOST_CHANNELS,
  )
  _require(
    model, "image_dtype", f"one of {IMAGE_DTYPES}", lambda v: v in IMAGE_DTYPES
  )
  rule = f"a (low, high) of each of the {model.channels} channels, low < high"
  is_rgb = model.image_dtype == "uint8"
  _require(
    model,
    "value_range",
    f"() or {rule}" if is_rgb else rule,
    lambda v: (
      (is_rgb and not v)
      or (
        len(v) == model.channels
        and all(
          len(pair) == 2 and -math.inf < pair[0] < pair[1] < math.inf
          for pair in v
        )
      )
    ),
  )


def _check_backbone(model):
  entry = find_backbone(model.backbone)
  _require(model, "output_stride", "8, 16 or 32", lambda v: v in OUTPUT_STRIDES)
  if entry.multi_grid is None:
    rule = f"None: {model.backbone} has no multi-grid"
    _require(model, "multi_grid", rule, lambda v: v is None)
  _require(
    model,
    "multi_grid",
    "None or three positive factors",
    lambda v: v is None or (len(v) == 3 and all(map(_positive, v))),
  )
  _require(model, "width_multiplier", "positive", lambda v: 0 < v < math.inf)
  if not entry.has_width:
    rule = f"1: {model.backbone} has one width"
    _require(model, "width_multiplier", rule, lambda v: v == 1)
  if not entry.has_patches:
    rule = f"False: {model.backbone} has no patches"
    _require(model, "whole_patches", rule, lambda v: v is False)
  _require(model, "drop_path_rate", "in [0, 1)", lambda v: 0 <= v < 1)
  if not entry.has_drop_path:
    rule = f"0: {model.backbone} has no stochastic depth"
    _require(model, "drop_path_rate", rule, lambda v: v == 0)
  if not entry.has_rates_from:
    rule = f"'next_unit': {model.backbone} has no other"
    _require(model, "rates_from", rule, lambda v: v == "next_unit")
  rates = typing.get_args(RatesFrom)
  _require(model, "rates_from", f"one of {rates}", lambda v: v in rates)
  if not entry.has_positions:
    rule = f"'timm': {model.backbone} has no positions"
    _require(model, "positions_of", rule, lambda v: v == "timm")
  who = typing.get_args(PositionsOf)
  _require(model, "positions_of", f"one of {who}", lambda v: v in who)


def _check_head(model):
  _require(model, "num_classes", "a positive integer", _positive)
  _require(model, "head", f"one of {HEADS}", lambda v: v in HEADS)
  stride = model.output_stride
  _require(
    model,
    "atrous_rates",
    "positive integers (at output stride 16) that stay whole when scaled by"
    f" 16 / {stride}",
    lambda v: all(_positive(rate) and rate * 16 % stride == 0 for rate in v),
  )
  _require(model, "aspp_channels", "a positive integer", _positive)
  _require(
    model, "auxiliary", f"one of {AUXILIARIES}", lambda v: v in AUXILIARIES
  )
  _require(model, "dropout_rate", "in [0, 1)", lambda v: 0 <= v < 1)
  _require(
    model,
    "batch_norm_momentum",
    "None or in [0, 1)",
    lambda v: v is None or 0 <= v < 1,
  )
  _require(
    model,
    "head_convs",
    "(odd kernel size, channels) pairs, or ()",
    _are_convs,
  )
  if model.head in LITE_HEADS:
    rule = f"() for head {model.head!r}, behind which there is nothing"
    _require(model, "head_convs", rule, lambda v: not v)
    rule = f"256 for head {model.head!r}, whose channels are its own"
    _require(model, "aspp_channels", rule, lambda v: v == 256)


def _check_decoder(model):
  _require(
    model,
    "decoder",
    f"low-level features from coarse to fine, of {tuple(LOW_LEVEL_STRIDES)}",
    lambda v: (
      not isinstance(v, str)
      and list(v) == [name for name in LOW_LEVEL_STRIDES if name in v]
    ),
  )
  if model.head in LITE_HEADS:
    rule = (
      f"one low-level feature for head {model.head!r}, as published ('conv3',)"
    )
    _require(model, "decoder", rule, lambda v: len(v) == 1)
  _require(model, "decoder_low_level_channels", "a positive integer", _positive)
  _require(
    model,
    "decoder_convs",
    "(odd kernel size, channels) pairs, at least one",
    lambda v: len(v) > 0 and _are_convs(v),
  )


def _are_convs(pairs) -> bool:
  return all(
    len(pair) == 2 and all(map(_positive, pair)) and pair[0] % 2 == 1
    for pair in pairs
  )


def _positive(value) -> bool:
  return isinstance(value, int) and value >= 1


def _require(model, argument, rule, holds):
  value = getattr(model, argument)
  try:
    fine = holds(value)
  except TypeError:
    fine = False
  if not fine:
    raise ValueError(f"{argument} must be {rule}; got {value!r}")
