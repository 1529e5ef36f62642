"""Wrong values of a config, found before any long work."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from deeplab_jax import sharding
from deeplab_jax.config.arguments import nearest
from deeplab_jax.config.fields import base_config, make_model
from deeplab_jax.config.following import follows_images
from deeplab_jax.config.ranges import out_of_range
from deeplab_jax.data import augmentation
from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.losses import JOINED, LOSSES, MULTILABEL_LOSSES, settings
from deeplab_jax.models import INFERENCE_DTYPES, model_arguments
from deeplab_jax.models.arguments import MOST_CHANNELS
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.optimizer import check_freezing
from deeplab_jax.optimizer.rules import OPTIMIZERS
from deeplab_jax.optimizer.schedules import LR_POLICIES

TASKS = ("segmentation", "classification", "multilabel")
INIT_PARTS = ("all", "backbone")
DTYPES = ("float32", "bfloat16", "float64")


def check(config: ConfigDict, num_devices: int | None = None) -> None:
  """Raises ValueError for the first value of `config` that cannot be right.

  Args:
    config: as `base_config` gives it, altered.
    num_devices: devices of all processes, among which a batch is divided; None
      if that is not known yet.
  """
  _require_one_of("task", config.task, TASKS)
  _require_one_of("data.name", config.data.name, DATASETS)
  _require_one_of("init_parts", config.init_parts, INIT_PARTS)
  _require_one_of("lr_policy", config.lr_policy, LR_POLICIES)
  _require_one_of("optimizer", config.optimizer, OPTIMIZERS)
  _require_one_of("model.dtype", config.model.dtype, DTYPES)
  if config.model.dtype == "float64" and not jax.config.jax_enable_x64:
    raise ValueError(
      "config.model.dtype must be float32 or bfloat16, got 'float64', which "
      "jax knows only with JAX_ENABLE_X64=1 in the environment"
    )
  _check_model(config)
  _check_loss(config)
  _check_ranges(config)
  _check_optimizer(config)
  _check_augmentation(config)
  _check_images(config)
  _check_crop(config)
  _check_evaluation(config)
  _check_batch(config, num_devices)


def _check_batch(config: ConfigDict, num_devices: int | None) -> None:
  height = config.mesh_height
  _require("mesh_height", height > 0, "1 or more", height)
  devices = num_devices or height
  fitting = sharding.fitting_heights(devices)
  wanted = f"one of {fitting}, which divide the {devices} devices"
  _require("mesh_height", height in fitting, wanted, height)
  parts = devices // height * config.accumulate_steps
  if config.batch_size % parts:
    among = f"the {devices} devices"
    if height > 1:
      among += f" / {height} mesh_height = {devices // height}"
    if config.accumulate_steps > 1:
      among += f" times {config.accumulate_steps} accumulate_steps"
    raise ValueError(
      f"config.batch_size must be divisible by {among}, got "
      f"{config.batch_size}; try {-(-config.batch_size // parts) * parts}"
    )
  part = config.batch_size // config.accumulate_steps
  if part % config.batch_norm_groups:
    of = " / accumulate_steps" if config.accumulate_steps > 1 else ""
    raise ValueError(
      f"config.batch_norm_groups must divide batch_size{of} = {part}, got "
      f"{config.batch_norm_groups}"
    )


def _check_model(config: ConfigDict) -> None:
  try:
    model = make_model(config, num_classes=2)
  except ValueError as error:
    raise ValueError(f"config.model: {error}") from error
  defaults = base_config().model
  for name in sorted(set(defaults) - set(model_arguments(model))):
    wanted = f"{defaults[name]!r}, as a classifier has none"
    found = config.model[name]
    _require(f"model.{name}", found == defaults[name], wanted, found)


def _check_loss(config: ConfigDict) -> None:
  """Refuses a loss that is not there, and settings that it would pass over."""
  if config.task == "classification":
    _require_one_of("loss.name", config.loss.name, ["cross_entropy"])
    loss, taken = "a classifier's loss", {"label_smoothing"}
  else:
    taken = _check_names(config)
    loss = f"the loss {config.loss.name!r}"
  for name, default in base_config().loss.items():
    found = config.loss[name]
    fine = name in {"name", *taken} or found == default
    reason = f"{loss} takes no other"
    if name == "auxiliary_weight":
      reason = "model.auxiliary is no second head"
    _require(f"loss.{name}", fine, f"{default!r}: {reason}", found)


def _check_names(config: ConfigDict) -> set[str]:
  """Refuses losses that are not there; gives the settings of those that are."""
  names = config.loss.name.split(JOINED)
  overlap = config.task == "multilabel"
  known, other = LOSSES, MULTILABEL_LOSSES
  if overlap:
    known, other = other, known
  for name in names:
    if name in other and name not in known:
      head = "sigmoids" if overlap else "a softmax"
      raise ValueError(
        f"config.loss.name must be of {', '.join(known)} with config.task "
        f"{config.task!r}, whose head is of {head}, got {name!r}"
      )
    _require_one_of("loss.name", name, known)
  unlike = len(set(names)) == len(names)
  _require("loss.name", unlike, "losses that differ", config.loss.name)
  weights = config.loss.weights
  wanted = "(): one loss has no weights"
  if len(names) > 1:
    wanted = f"() or {len(names)} positive numbers, one for each of {names}"
  count = len(names) if len(names) > 1 else 0
  fine = len(weights) in (0, count) and all(_number(w) > 0 for w in weights)
  _require("loss.weights", fine, wanted, weights)
  if len(names) > 1 and config.accumulate_steps > 1:
    _require(
      "loss.hard_pixel_fraction",
      config.loss.hard_pixel_fraction == 1,
      "1.0 in a sum of losses with accumulate_steps above 1, as the number of "
      "hard pixels of the batch is not known by its parts",
      config.loss.hard_pixel_fraction,
    )
  taken = set.union(*(settings(known[name]) for name in names))
  if config.model.auxiliary:
    taken.add("auxiliary_weight")
  return taken | {"weights"}


def check_classes(config: ConfigDict, num_classes: int) -> None:
  """Raises ValueError for what does not fit the classes of the data.

  Args:
    config: checked.
    num_classes: of the data set that is open.
  """
  for name in ("class_weights", "positive_weights"):
    weights = config.loss[name]
    fine = len(weights) in (0, num_classes) and all(
      _number(w) >= 0 for w in weights
    )
    fine = fine and (not len(weights) or max(weights) > 0)
    wanted = (
      f"() or {num_classes} numbers, one per class, none negative, not all 0"
    )
    _require(f"loss.{name}", fine, wanted, tuple(weights))
  pasted = config.data.copy_paste_classes
  wanted = f"indices from 0 to {num_classes - 1}"
  fine = all(c in range(num_classes) for c in pasted)
  _require("data.copy_paste_classes", fine, wanted, tuple(pasted))


def _number(value: Any) -> float:
  """`value`, NaN if it is no finite number: not above, not below anything."""
  fine = isinstance(value, int | float) and math.isfinite(value)
  return value if fine else math.nan


def _check_ranges(config: ConfigDict) -> None:
  for line in out_of_range(config):
    raise ValueError(line)
  slow = config.slow_start_steps
  _require(
    "slow_start_steps",
    0 <= slow < config.steps,
    f"from 0 to less than the {config.steps} steps",
    slow,
  )
  low, high = config.data.min_scale, config.data.max_scale
  _require("data.max_scale", high >= low, f"min_scale ({low}) or more", high)
  jitter = config.data.color_jitter
  strengths = len(jitter) == 3 and all(0 <= _number(s) <= 1 for s in jitter)
  _require("data.color_jitter", strengths, "three numbers in 0..1", jitter)
  _check_resizing(config.data)


def _check_resizing(data: ConfigDict) -> None:
  """Refuses limits that would be passed over, or contradict each other."""
  for name in ("resize_max", "resize_factor"):
    fine = data.resize_min or not data[name]
    _require(f"data.{name}", fine, "0 where data.resize_min is 0", data[name])
  low, high = data.resize_min, data.resize_max
  wanted = f"0, for no limit, or data.resize_min ({low}) or more"
  _require("data.resize_max", not high or high >= low, wanted, high)


def _check_evaluation(config: ConfigDict) -> None:
  if config.eval.output_stride not in (0, 8, 16, 32):
    raise ValueError(
      "config.eval.output_stride must be 0 (the model's), 8, 16 or 32, got "
      f"{config.eval.output_stride}"
    )
  _require_one_of("eval.dtype", config.eval.dtype, ("", *INFERENCE_DTYPES))
  threshold = config.eval.threshold
  fine = 0 <= _number(threshold) < 1
  fine = fine and (config.task == "multilabel" or not threshold)
  wanted = "from 0 to less than 1, and 0 but with task 'multilabel'"
  _require("eval.threshold", fine, wanted, threshold)
  size = config.data.eval_size
  scales, tile = config.eval.scales, config.eval.tile
  _require_sides("data.eval_size", size)
  fine = min(size) > 0 or max(size) == 0
  _require("data.eval_size", fine, "(0, 0), or both above 0", size)
  wanted = "one or more positive multiples of 1/4"
  fine = scales and all(_number(s) > 0 and s * 4 % 1 == 0 for s in scales)
  _require("eval.scales", fine, wanted, scales)
  # As `inference.protocol` has it, which is a floor above.
  parts = next(n for n in (1, 2, 4) if all(s * n % 1 == 0 for s in scales))
  wanted = f"0, or a multiple of {32 * parts} plus 1"
  fine = tile == 0 or (tile > 1 and (tile - 1) % (32 * parts) == 0)
  _require("eval.tile", fine, wanted, tile)


def _check_optimizer(config: ConfigDict) -> None:
  """Refuses what the optimizer would pass over, and freezes that are none."""
  for name in ("adam_beta2", "adam_epsilon"):
    found, default = config[name], base_config()[name]
    fine = config.optimizer == "adamw" or found == default
    wanted = f"{default:g}, as optimizer {config.optimizer!r} has none"
    _require(name, fine, wanted, found)
  thaw, freezes = config.thaw_step, config.freeze or config.freeze_stride
  wanted = f"from 0 to less than the {config.steps} steps"
  _require("thaw_step", 0 <= thaw < config.steps, wanted, thaw)
  wanted = "0 where nothing is frozen by freeze or freeze_stride"
  _require("thaw_step", freezes or not thaw, wanted, thaw)
  if freezes:
    _check_freezing(config)


def _check_freezing(config: ConfigDict) -> None:
  patterns = config.freeze
  fine = all(isinstance(pattern, str) for pattern in patterns)
  wanted = 'a tuple of patterns, such as ("backbone",)'
  _require("freeze", fine, wanted, repr(patterns))
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), np.float32)
  model = make_model(config, num_classes=2)
  shapes = shapes_of(model.init, jax.random.key(0), images)
  if fault := check_freezing(config, shapes["params"]):
    raise ValueError(fault)


def _check_augmentation(config: ConfigDict) -> None:
  data, defaults = config.data, base_config().data
  for name in augmentation.FIELDS:
    fine = config.task != "classification" or data[name] == defaults[name]
    wanted = f"{defaults[name]!r}, as classification has none"
    _require(f"data.{name}", fine, wanted, data[name])
  classes = data.copy_paste_classes
  wanted = "one class or more" if data.copy_paste else "(), as copy_paste is 0"
  fine = bool(data.copy_paste) == bool(len(classes))
  _require("data.copy_paste_classes", fine, wanted, classes)


def _check_images(config: ConfigDict) -> None:
  """Refuses channels that are none; whether they fit is seen with the data."""
  chosen, channels = config.init_channels, config.data.channels
  fine = all(isinstance(c, int) and c >= -1 for c in chosen)
  wanted = "() or channels of the stored network by number, -1 being the mean"
  _require("init_channels", fine, wanted, chosen)
  wanted = "() without config.init_from"
  _require("init_channels", config.init_from or not chosen, wanted, chosen)
  wanted = f"0 or from 1 to {MOST_CHANNELS}"
  fine = isinstance(channels, int) and 0 <= channels <= MOST_CHANNELS
  _require("data.channels", fine, wanted, channels)
  wanted = "() where data.channels is 0"
  value_range = config.data.value_range
  _require("data.value_range", channels or not value_range, wanted, value_range)


def _check_crop(config: ConfigDict) -> None:
  late, step = config.data.late_crop_size, config.data.late_crop_step
  wanted = f"from 0 to less than the {config.steps} steps"
  _require("data.late_crop_step", 0 <= step < config.steps, wanted, step)
  fine = config.task != "classification" or not step
  _require("data.late_crop_step", fine, "0, as classification has none", step)
  wanted = "(height, width)" if step else "(0, 0) where late_crop_step is 0"
  _require_sides("data.late_crop_size", late)
  fine = (tuple(late) != (0, 0)) == bool(step)
  _require("data.late_crop_size", fine, wanted, late)
  if step:
    _check_one_crop(config, "late_crop_size")
  _require_sides("data.crop_size", config.data.crop_size)
  if config.task == "classification" or not follows_images(config):
    _check_one_crop(config, "crop_size")


def _check_one_crop(config: ConfigDict, name: str) -> None:
  stride, crop = config.model.output_stride, config.data[name]
  name = f"data.{name}"
  if config.task == "classification":
    wanted = f"{stride} or more on both sides"
    _require(name, min(crop) >= stride, wanted, crop)
  elif not config.model.pad_input:
    least = stride if config.model.whole_patches else 1
    _require(name, min(crop) >= least, f"{least} or more on both sides", crop)
  elif any(side <= 1 or (side - 1) % stride for side in crop):
    nearest = tuple(max(round((s - 1) / stride), 1) * stride + 1 for s in crop)
    raise ValueError(
      f"config.{name} must be k * output_stride + 1 = k * {stride} + 1 "
      f"on both sides, got {crop}; the nearest is {nearest}"
    )


def _get(config: ConfigDict, name: str) -> Any:
  for part in name.split("."):
    config = config[part]
  return config


def _require(name: str, holds: Any, allowed: str, found: Any) -> None:
  if not holds:
    raise ValueError(f"config.{name} must be {allowed}, got {found}")


def _require_sides(name: str, found: Any) -> None:
  fine = len(found) == 2
  fine = fine and all(isinstance(side, int) and side >= 0 for side in found)
  _require(name, fine, "(height, width) in pixels", found)


def _require_one_of(name: str, found: str, allowed: Iterable[str]) -> None:
  if found not in allowed:
    raise ValueError(
      f"config.{name} must be one of {', '.join(allowed)}, got {found!r}"
      + nearest(found, allowed)
    )
