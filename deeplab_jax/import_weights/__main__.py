"""Imports published weights: official, torchvision or timm.

Writes a model directory for `deeplab_jax.load`, for prediction and evaluation,
and for training (`--config.init_from=DIR`). The weights tell most of the
network; what is given beside is checked against them.
"""

import argparse
import ast
import dataclasses
import sys
from typing import Any

from deeplab_jax import messages
from deeplab_jax.import_weights.convert import convert
from deeplab_jax.import_weights.releases import RELEASES
from deeplab_jax.models import DeepLab


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = vars(_parser().parse_args(arguments))
  source, out = options.pop("source"), options.pop("out")
  try:
    report = convert(source, out, **options)
  except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    return messages.tell(error)
  print(report)
  print(f"{out} holds the model")
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m deeplab_jax.import_weights",
    description=__doc__,
    epilog=f"Released models: {', '.join(RELEASES)}.",
    argument_default=argparse.SUPPRESS,
  )
  add = parser.add_argument
  add("source", metavar="SOURCE", help="a file, or the name of a release")
  add("--out", required=True, metavar="DIR", help="the directory to write")
  add(
    "--archive", metavar="FILE", help="the file of a release, once you have it"
  )
  add("--dataset", metavar="NAME", help="for the classes' names and colours")
  add("--license", metavar="TEXT", help="of the weights, noted in model.json")
  add(
    "--moving_averages",
    action="store_true",
    help="take moving averages of weights where both are there",
  )
  add(
    "--thresholds",
    type=_values,
    help="the network was trained with a sigmoid for each class: from which "
    "probability on it is there, one for all or one for each; 0.5 is taken "
    "where there is one class",
  )
  add("--seed", type=int, help="of layers drawn anew")
  group = parser.add_argument_group(
    "arguments of DeepLab", "Lists with commas, such as --atrous_rates=6,12,18."
  )
  for field in dataclasses.fields(DeepLab):
    if field.name not in ("parent", "name"):
      names = [f"--{field.name}"]
      if field.name == "backbone":
        names.insert(0, "--model")
      several = isinstance(field.default, tuple)
      group.add_argument(
        *names, dest=field.name, type=_values if several else _value
      )
  return parser


def _value(text: str) -> Any:
  """A Python literal, or the text itself."""
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def _values(text: str) -> tuple[Any, ...]:
  """Values separated by commas; a pair in parentheses is one value."""
  value = _value(text)
  if isinstance(value, str):
    return tuple(part for part in text.split(",") if part)
  return value if isinstance(value, tuple) else (value,)


if __name__ == "__main__":
  sys.exit(main())
