"""The experiment configuration: its fields, their checks, its arguments.

A file of `configs/` starts from `base_config()` and alters fields. The result
is locked, so a misspelt field fails at launch; `check` finds wrong values
before any long work.
"""

from deeplab_jax.config.arguments import (
  check_command_line,
  check_overrides,
  config_names,
  load,
  parse_arg,
)
from deeplab_jax.config.checks import check, check_classes
from deeplab_jax.config.fields import (
  base_config,
  field_names,
  image_arguments,
  make_model,
)
from deeplab_jax.config.following import (
  follow_model,
  with_crop,
  with_largest_crop,
)
from deeplab_jax.config.local import runlocal

__all__ = [
  "base_config",
  "check",
  "check_classes",
  "check_command_line",
  "check_overrides",
  "config_names",
  "field_names",
  "follow_model",
  "image_arguments",
  "load",
  "make_model",
  "parse_arg",
  "runlocal",
  "with_crop",
  "with_largest_crop",
]
