"""The command line of a door that takes `--config`: what all of them share."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from deeplab_jax import messages
from deeplab_jax.config.arguments import check_command_line
from deeplab_jax.config.reference import markdown

flags.disclaim_key_flags()  # `--help` then lists --config with a door's own


def config_flag() -> flags.FlagHolder:
  """Defines `--config`, and with it `--config.FIELD`; gives its holder."""
  return config_flags.DEFINE_config_file(
    "config",
    help_string="Name or file of a config, with :ARGUMENTS if it takes any; "
    "`--help config` lists the fields.",
  )


def run(main: Callable[[], None]) -> None:
  """Parses the command line and calls `main`.

  A mistake ends in one message and exit status 1; `--verbosity=1` shows where
  it came from.
  """

  def start(words: list[str]) -> None:
    if len(words) > 1:
      raise ValueError(f"flags begin with --, got {' '.join(words[1:])}")
    main()

  words = sys.argv[1:]
  if words == ["--help", "config"]:
    print(markdown())
    return
  with messages.ending_in_one_message():
    app.run(start, [sys.argv[0], *check_command_line(words)])
