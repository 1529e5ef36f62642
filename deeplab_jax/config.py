"""The experiment configuration: its fields, their checks, its arguments.

A file of `configs/` starts from `base_config()` and alters fields. The result
is locked, so a misspelt field fails at launch; `check` finds wrong values
before any long work.
"""

import difflib
import pathlib
import re
import runpy
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from deeplab_jax.data.datasets import DATASETS
from deeplab_jax.models import DeepLab

LR_POLICIES = ("poly", "step")
INIT_PARTS = ("all", "backbone")
DTYPES = ("float32", "bfloat16")


def base_config() -> ConfigDict:
  """A locked config with the VOC 2012 training settings of the paper."""
  config = ConfigDict(
    {
      # Every random draw of a run follows from this number.
      "seed": 0,
      # Where to start from: a workdir, a step in it or an imported model
      # directory; "" draws random weights.
      "init_from": "",
      # "all", or "backbone" to draw the head anew.
      "init_parts": "all",
      # Images per step, over all devices and processes.
      "batch_size": 16,
      # Updates in the whole run.
      "steps": 30_000,
      # Learning rate at the start of the policy, and at the end of "poly".
      "lr": 0.007,
      "lr_end": 0.0,
      # "poly": (1 - t) ** lr_power; "step": x lr_decay_factor every
      # lr_decay_steps.
      "lr_policy": "poly",
      "lr_power": 0.9,
      "lr_decay_steps": 2000,
      "lr_decay_factor": 0.1,
      # The first steps, before the policy begins: at slow_start_lr, or rising
      # from it to lr in a straight line.
      "slow_start_steps": 0,
      "slow_start_lr": 1e-4,
      "slow_start_burn_in": False,
      "momentum": 0.9,
      "nesterov": False,
      # Of full and pointwise kernels and the logits; 1e-4 is for ResNet.
      "weight_decay": 4e-5,
      # Gradients of all but the backbone are multiplied by this.
      "last_layer_multiplier": 1.0,
      # False keeps the stored batch statistics and normalises with them.
      "train_batch_norm": True,
      # Steps between log lines, checkpoints, evaluations (0: at the end only).
      "log_every": 100,
      "checkpoint_every": 1000,
      "eval_every": 0,
      # Also evaluate before the first step.
      "eval_first": False,
      # How many of the newest checkpoints stay; the best is kept beside them.
      "keep_checkpoints": 3,
      "data": _data_fields(),
      "model": _model_fields(),
      "loss": {
        # One factor per class; () weighs all classes alike.
        "class_weights": (),
        # Keep only this fraction of the pixels, the hardest, reached over
        # hard_pixel_steps steps.
        "hard_pixel_fraction": 1.0,
        "hard_pixel_steps": 0,
      },
      "eval": {
        # 0 is the model's own; a checkpoint fits any of 8, 16, 32.
        "output_stride": 0,
        "batch_size": 1,
        # Scales whose probabilities are averaged, each also flipped or not.
        "scales": (1.0,),
        "flip": False,
        # Images drawn into WORKDIR/pictures at each evaluation.
        "pictures": 8,
      },
    }
  )
  return config.lock()


def _data_fields() -> dict[str, Any]:
  return {
    # A name of `deeplab_jax.data.datasets.DATASETS`.
    "name": "voc2012",
    # A folder in VOC layout, for the data set "folder".
    "path": "",
    # Where built data sets are; "" is the user's cache folder.
    "data_dir": "",
    # Where files downloaded by hand are, for data sets that need it.
    "manual_dir": "",
    # "" is the data set's own choice.
    "train_split": "",
    "eval_split": "",
    # Height and width of a training crop: k * output_stride + 1.
    "crop_size": (513, 513),
    # Size evaluated images are padded to; (0, 0) is the largest's.
    "eval_size": (0, 0),
    # Random scales: min_scale, min_scale + scale_step, ..., max_scale.
    "min_scale": 0.5,
    "max_scale": 2.0,
    "scale_step": 0.25,
    # Mirror half of the training crops.
    "flip": True,
    # Resize images to this range of short and long side first (0: do not),
    # sides then being multiples of resize_factor plus 1 (0: any).
    "resize_min": 0,
    "resize_max": 0,
    "resize_factor": 0,
    # Worker processes that read and augment; 0 uses threads of this one.
    "workers": 0,
    # Evaluate only so many images; 0 is all.
    "eval_limit": 0,
  }


def _model_fields() -> dict[str, Any]:
  """The arguments of `models.DeepLab` but the number of classes."""
  return {
    "backbone": "xception_65",
    "output_stride": 16,
    "multi_grid": config_dict.placeholder(tuple),
    "width_multiplier": 1.0,
    "head": "aspp",
    "atrous_rates": (6, 12, 18),
    "image_pooling": True,
    "aspp_separable": True,
    "decoder_separable": True,
    "decoder": ("conv2",),
    "decoder_low_level_channels": 48,
    "decoder_convs": ((3, 256), (3, 256)),
    "dropout_rate": 0.1,
    # None is the published 0.9997 (ASPP, decoder), which takes thousands of
    # steps to settle: short runs need less.
    "batch_norm_momentum": config_dict.placeholder(float),
    # Of the computation; parameters, statistics and loss stay float32.
    "dtype": "float32",
  }


def make_model(config: ConfigDict, num_classes: int) -> DeepLab:
  """The network of `config`, for `num_classes` classes."""
  arguments = config.model.to_dict()
  dtype = jnp.dtype(arguments.pop("dtype"))
  return DeepLab(num_classes, dtype=dtype, **arguments)


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the part after the colon of `--config configs/x.py:name=value,flag`.

  Args:
    arg: comma-separated `name=value`, or `name` alone for True.
    **defaults: the names allowed and their defaults, which give the types;
      `runlocal` is always one.

  Returns:
    A locked config of the names.
  """
  values = ConfigDict({"runlocal": False, **defaults})
  for item in filter(None, (arg or "").split(",")):
    name, _, text = item.partition("=")
    if name not in values:
      raise ValueError(
        f"config argument must be one of {sorted(values)}, got {name!r}"
        + _nearest(name, values)
      )
    values[name] = _parse(name, text, values[name])
  return values.lock()


def _parse(name: str, text: str, default: Any) -> Any:
  """`text` as a value of the type of `default`."""
  if isinstance(default, bool):
    allowed = {"": True, "true": True, "1": True, "false": False, "0": False}
    if text.lower() in allowed:
      return allowed[text.lower()]
    raise ValueError(
      f"config argument {name} must be true or false, got {text}"
    )
  try:
    return type(default)(text)
  except ValueError:
    raise ValueError(
      f"config argument {name} must be of type {type(default).__name__}, "
      f"got {text!r}"
    ) from None


def runlocal(config: ConfigDict) -> ConfigDict:
  """`config` shrunk to seconds on a CPU, on the data set that builds itself."""
  stride = config.model.output_stride
  crop = 4 * stride + 1
  config.update(
    init_from="", batch_size=2, steps=2, slow_start_steps=0, log_every=1
  )
  config.update(checkpoint_every=2, eval_every=0, keep_checkpoints=1)
  config.data = {**_data_fields(), "name": "shapes", "eval_limit": 2}
  config.data.crop_size = (crop, crop)
  config.loss.class_weights = ()
  config.eval.update(scales=(1.0,), flip=False, batch_size=1, pictures=2)
  return config


def field_names(config: ConfigDict) -> list[str]:
  """Every field by its dotted name, such as "data.crop_size"."""
  names = []
  for name, value in config.items():
    names.append(name)
    if isinstance(value, ConfigDict):
      names += [f"{name}.{inner}" for inner in field_names(value)]
  return names


def load(spec: str) -> ConfigDict:
  """The config of `configs/x.py` or `configs/x.py:argument`.

  Raises:
    ValueError: no such file, a wrong argument, or a field that is misspelt.
  """
  path, _, arg = spec.partition(":")
  if not pathlib.Path(path).is_file():
    raise ValueError(f"--config must be a file such as configs/voc.py: {path}")
  get_config = runpy.run_path(path)["get_config"]
  try:
    return get_config(arg or None)
  except AttributeError as error:
    misspelt = re.search(r'Key "(\w+)" does not exist', str(error))
    if misspelt is None:
      raise
    raise ValueError(f"{path}: {_no_such_field(misspelt[1])}") from error


def check_overrides(arguments: Iterable[str]) -> None:
  """Finds misspelt fields among `--config.FIELD=VALUE` command-line words."""
  known = field_names(base_config())
  for word in arguments:
    flag = word.lstrip("-").partition("=")[0]
    name = flag.removeprefix("config.")
    if word.startswith("-") and name != flag and name not in known:
      raise ValueError(_no_such_field(name))


def _no_such_field(name: str) -> str:
  known = field_names(base_config())
  hint = _nearest(name, known) or f"; its fields are {', '.join(known)}"
  return f"config has no field {name!r}{hint}"


def check(config: ConfigDict, num_devices: int = 1) -> None:
  """Raises ValueError for the first value of `config` that cannot be right.

  Args:
    config: as `base_config` gives it, altered.
    num_devices: devices of all processes, among which a batch is divided.
  """
  _require_one_of("data.name", config.data.name, DATASETS)
  _require_one_of("init_parts", config.init_parts, INIT_PARTS)
  _require_one_of("lr_policy", config.lr_policy, LR_POLICIES)
  _require_one_of("model.dtype", config.model.dtype, DTYPES)
  _check_model(config)
  _check_ranges(config)
  _check_crop(config)
  if config.batch_size % num_devices:
    nearest = -(-config.batch_size // num_devices) * num_devices
    raise ValueError(
      f"config.batch_size must be divisible by the {num_devices} devices, got "
      f"{config.batch_size}; try {nearest}"
    )


def _check_model(config: ConfigDict) -> None:
  try:
    make_model(config, num_classes=2)
  except ValueError as error:
    raise ValueError(f"config.model: {error}") from error
  if config.eval.output_stride not in (0, 8, 16, 32):
    raise ValueError(
      "config.eval.output_stride must be 0 (the model's), 8, 16 or 32, got "
      f"{config.eval.output_stride}"
    )


def _check_ranges(config: ConfigDict) -> None:
  positive = ("batch_size", "steps", "log_every", "checkpoint_every")
  positive += ("keep_checkpoints", "lr", "data.min_scale", "data.scale_step")
  for name in (*positive, "lr_decay_steps", "eval.batch_size"):
    _require(name, _get(config, name) > 0, "above 0", _get(config, name))
  for name in ("momentum", "last_layer_multiplier", "weight_decay"):
    _require(name, config[name] >= 0, "0 or more", config[name])
  for name in ("eval_every", "data.workers", "data.eval_limit"):
    _require(name, _get(config, name) >= 0, "0 or more", _get(config, name))
  slow = config.slow_start_steps
  _require(
    "slow_start_steps",
    0 <= slow < config.steps,
    f"from 0 to less than the {config.steps} steps",
    slow,
  )
  fraction = config.loss.hard_pixel_fraction
  _require("loss.hard_pixel_fraction", 0 < fraction <= 1, "in (0, 1]", fraction)
  low, high = config.data.min_scale, config.data.max_scale
  _require("data.max_scale", high >= low, f"min_scale ({low}) or more", high)
  scales = config.eval.scales
  wanted = "one or more factors above 0"
  _require("eval.scales", scales and min(scales) > 0, wanted, scales)


def _check_crop(config: ConfigDict) -> None:
  stride = config.model.output_stride
  crop = config.data.crop_size
  _require("data.crop_size", len(crop) == 2, "(height, width)", crop)
  if any(side <= 1 or (side - 1) % stride for side in crop):
    nearest = tuple(max(round((s - 1) / stride), 1) * stride + 1 for s in crop)
    raise ValueError(
      f"config.data.crop_size must be k * output_stride + 1 = k * {stride} + 1 "
      f"on both sides, got {crop}; the nearest is {nearest}"
    )


def _get(config: ConfigDict, name: str) -> Any:
  for part in name.split("."):
    config = config[part]
  return config


def _require(name: str, holds: Any, allowed: str, found: Any) -> None:
  if not holds:
    raise ValueError(f"config.{name} must be {allowed}, got {found}")


def _require_one_of(name: str, found: str, allowed: Iterable[str]) -> None:
  if found not in allowed:
    raise ValueError(
      f"config.{name} must be one of {', '.join(allowed)}, got {found!r}"
      + _nearest(found, allowed)
    )


def _nearest(name: str, known: Iterable[str] | Mapping[str, Any]) -> str:
  """A hint at the nearest known name, or nothing."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else ""
