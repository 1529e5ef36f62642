"""The numbers that each field of a config may have."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Range(NamedTuple):
  """Numbers from `low` to `high`.

  Attributes:
    low: the smallest.
    high: the largest; of no limit, any finite number.
    low_open: whether `low` itself is left out.
    high_open: the same of `high`.
  """

  low: float = 0
  high: float = math.inf
  low_open: bool = False
  high_open: bool = False

  def holds(self, value: Any) -> bool:
    """Whether `value` is one of them; False of what is no number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
      return False
    above = value > self.low if self.low_open else value >= self.low
    return above and (
      value < self.high if self.high_open else value <= self.high
    )

  def __str__(self) -> str:
    low, high = f"{self.low:.15g}", f"{self.high:.15g}"
    if self.high == math.inf:
      return f"above {low}" if self.low_open else f"{low} or more"
    if self.low_open:
      return f"above {low}, at most {high}"
    return f"from {low} to {'less than ' * self.high_open}{high}"


_POSITIVE = Range(low_open=True)
_NOT_NEGATIVE = Range()
_SHARE = Range(high=1)
_KEPT = Range(high=1, high_open=True)
_PART = Range(high=1, low_open=True)

# Every field that is one number, but those whose range depends on other fields
# and those of the network, which checks its own.
RANGES = {
  "seed": Range(high=2**32 - 1),
  "batch_size": _POSITIVE,
  "accumulate_steps": _POSITIVE,
  "steps": _POSITIVE,
  "lr": _POSITIVE,
  "lr_end": _NOT_NEGATIVE,
  "lr_power": _NOT_NEGATIVE,
  "lr_decay_steps": _POSITIVE,
  "lr_decay_factor": _POSITIVE,
  "slow_start_lr": _NOT_NEGATIVE,
  "momentum": _KEPT,
  "adam_beta2": _KEPT,
  "adam_epsilon": _POSITIVE,
  "weight_decay": _NOT_NEGATIVE,
  "last_layer_multiplier": _NOT_NEGATIVE,
  "layer_decay": _PART,
  "clip_norm": _NOT_NEGATIVE,
  "ema_decay": _KEPT,
  "batch_norm_groups": _POSITIVE,
  "log_every": _POSITIVE,
  "checkpoint_every": _NOT_NEGATIVE,
  "eval_every": _NOT_NEGATIVE,
  "keep_checkpoints": _POSITIVE,
  "data.tile": _NOT_NEGATIVE,
  "data.tile_overlap": _NOT_NEGATIVE,
  "data.tile_nodata": _SHARE,
  "data.min_scale": _POSITIVE,
  "data.max_scale": _POSITIVE,
  "data.scale_step": _NOT_NEGATIVE,
  "data.rotation": Range(high=180),
  "data.blur": Range(high=20),
  "data.noise": Range(high=128),
  "data.cutout": _SHARE,
  "data.cutmix": _SHARE,
  "data.classmix": _SHARE,
  "data.copy_paste": _SHARE,
  "data.resize_min": _NOT_NEGATIVE,
  "data.resize_max": _NOT_NEGATIVE,
  "data.resize_factor": _NOT_NEGATIVE,
  "data.workers": _NOT_NEGATIVE,
  "data.eval_limit": _NOT_NEGATIVE,
  "loss.hard_pixel_fraction": _PART,
  "loss.hard_pixel_steps": _NOT_NEGATIVE,
  "loss.label_smoothing": _KEPT,
  "loss.auxiliary_weight": _POSITIVE,
  "loss.focal_power": _NOT_NEGATIVE,
  "loss.boundary_width": Range(low=1),
  "loss.boundary_weight": _NOT_NEGATIVE,
  "loss.smooth": _NOT_NEGATIVE,
  "loss.false_positives": _POSITIVE,
  "loss.false_negatives": _POSITIVE,
  "eval.batch_size": _POSITIVE,
  "eval.max_pixels": _NOT_NEGATIVE,
  "eval.tile": _NOT_NEGATIVE,
  "eval.pictures": _NOT_NEGATIVE,
}


def out_of_range(config: ConfigDict) -> Iterator[str]:
  """A line for each number of `config` that cannot be right."""
  for name, allowed in RANGES.items():
    value = config
    for part in name.split("."):
      value = value[part]
    if not allowed.holds(value):
      infinite = isinstance(value, float) and math.isinf(value)
      finite = ", a finite number" * infinite
      yield f"config.{name} must be {allowed}{finite}, got {value}"
