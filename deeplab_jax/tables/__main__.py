"""Prints the paper's tables 1 to 5: `python -m deeplab_jax.tables`.

Beside the paper's figures (percent; B: 1e9 multiply-adds at 513 x 513) our
mIoU or "not yet run", our exact multiply-adds, and ours by the paper's
convention with the distance from its figure.
"""

import argparse
import pathlib
import sys

import rich.console

from deeplab_jax import atomic
from deeplab_jax.tables import TABLES, load_results, to_markdown, to_rich

_WIDTH = 136


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = _parser().parse_args(arguments)
  tables = [t for t in TABLES if options.table in (None, t.number)]
  try:
    results = load_results(options.results)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  console = rich.console.Console(width=_WIDTH)
  for table in tables:
    with console.status(f"counting table {table.number}"):
      text = to_rich(table, results)
    console.print(text)
  if options.markdown:
    page = "\n".join(to_markdown(table, results) for table in tables)
    atomic.write_text(options.markdown, page)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m deeplab_jax.tables",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--table", type=int, choices=[t.number for t in TABLES], help="only this"
  )
  parser.add_argument(
    "--results",
    type=pathlib.Path,
    default=pathlib.Path("docs/results"),
    help="folder of our results, <row>.json each (default: docs/results)",
  )
  parser.add_argument(
    "--markdown",
    type=pathlib.Path,
    metavar="FILE",
    help="write the tables there as well",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
