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

_AUTO = re.compile(r"^(--?config\.checkpoint_every=)auto$")
_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_CONFIG_FLAG = re.compile(r"((?:^|\0)--?config[=\0])([^\0]+)")
_WITHOUT_CONFIG = ("-h", "--h", "-?", "--?", "--flagfile", "-flagfile")


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


def config_names() -> list[str]:
  """The configs that come with the package."""
  return sorted(path.stem for path in _CONFIGS.glob("*.py"))


def find_config(spec: str) -> str:
  """The file that a value of `--config` means, with its arguments.

  Args:
    spec: a file, or a config of the package as `voc` or `configs/voc.py`, each
      perhaps followed by `:ARGUMENTS`.

  Raises:
    ValueError: there is no such file or config.
  """
  path, colon, arg = spec.partition(":")
  name = path.removeprefix("configs/").removesuffix(".py")
  if not pathlib.Path(path).is_file():
    if name not in config_names():
      raise ValueError(
        f"--config must be a file or one of {', '.join(config_names())}; got "
        f"{path}{nearest(name, config_names())}"
      )
    path = str(_CONFIGS / f"{name}.py")
  return path + colon + arg


def load(spec: str) -> ConfigDict:
  """The config of `voc`, `configs/x.py` or `configs/x.py:argument`.

  Raises:
    ValueError: no such file, a wrong argument, or a field that is misspelt.
  """
  path, _, arg = find_config(spec).partition(":")
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


def check_command_line(words: list[str]) -> list[str]:
  """Finds mistakes in the config that its flags would report at length.

  Args:
    words: of the command line, without the program.

  Returns:
    The words, with a config's file in place of its name, and 0 in that of auto.

  Raises:
    ValueError: a misspelt field, no config or an unknown one, a wrong argument.
  """
  check_overrides(words)
  words = [_AUTO.sub(r"\g<1>0", word) for word in words]
  joined = "\0".join(words)
  flag = _CONFIG_FLAG.search(joined)
  if flag:
    load(flag[2])
    joined = _CONFIG_FLAG.sub(lambda m: m[1] + find_config(m[2]), joined)
  elif not any(word.startswith(_WITHOUT_CONFIG) for word in words):
    raise ValueError(
      f"give --config, one of {', '.join(config_names())} or a file of your "
      "own, such as --config=voc"
    )
  return joined.split("\0") if words else words
