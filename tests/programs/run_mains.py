"""Runs a door such as `deeplab_jax.main` with several command lines, for tests.

  run_mains.py MODULE < COMMAND_LINES.json

One process for all: starting Python and jax takes longer than all else. Prints
as JSON, by the name of the command line, its exit status and what it printed.
"""

import contextlib
import importlib
import io
import json
import sys
from types import ModuleType

from absl import flags

from deeplab_jax.config import door


def outcome(module: ModuleType, arguments: list[str]) -> tuple[int, str]:
  """Exit status and output of one command line, as the shell would see them."""
  sys.argv = ["main", *arguments]  # where the flags of a config look
  flags.FLAGS.unparse_flags()
  for name in list(flags.FLAGS):
    if name.startswith("config."):  # each config defines its own
      delattr(flags.FLAGS, name)
  output, status = io.StringIO(), 0
  with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
    try:
      door.run(module.main)
    except SystemExit as end:
      status = end.code
  if isinstance(status, str):  # Python prints it and exits with 1
    print(status, file=output)
    status = 1
  return status or 0, output.getvalue()


if __name__ == "__main__":
  module = importlib.import_module(sys.argv[1])
  outcomes = {
    name: outcome(module, line) for name, line in json.load(sys.stdin).items()
  }
  print(json.dumps(outcomes))
