"""What a command line says of a config: its file, arguments and overrides."""

import difflib
import pathlib
import re
import runpy
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from deeplab_jax.config.fields import base_config, field_names
from deeplab_jax.config.local import SMALL_BACKBONE


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the part after the colon of `--config configs/x.py:name=value,flag`.

  Args:
    arg: comma-separated `name=value`, or `name` alone for True.
    **defaults: the names allowed and their defaults, which give the types;
      `runlocal` is always one, and makes `backbone` a small one unless asked
      for another.

  Returns:
    A locked config of the names.
  """
  values = ConfigDict({"runlocal": False, **defaults})
  items = [item.partition("=") for item in (arg or "").split(",") if item]
  for name, _, text in items:
    if name not in values:
      raise ValueError(
        f"config argument must be one of {sorted(values)}, got {name!r}"
        + nearest(name, values)
      )
    values[name] = _parse(name, text, values[name])
  asked = {name for name, _, _ in items}
  if values.runlocal and "backbone" in defaults.keys() - asked:
    values.backbone = SMALL_BACKBONE
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
  hint = nearest(name, known) or f"; its fields are {', '.join(known)}"
  return f"config has no field {name!r}{hint}"


def nearest(name: str, known: Iterable[str] | Mapping[str, Any]) -> str:
  """A hint at the nearest known name, or nothing."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else ""


def check_command_line(words: list[str]) -> None:
  """Finds mistakes in the config that its flags would report at length.

  Args:
    words: of the command line, without the program.

  Raises:
    ValueError: a misspelt field, no such config file, a wrong argument of it.
  """
  check_overrides(words)
  flag = re.search(r"(?:^|\0)--?config[=\0]([^\0]+)", "\0".join(words))
  if flag:
    load(flag[1])
