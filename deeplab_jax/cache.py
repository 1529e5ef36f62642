"""Where this machine keeps what can be made or fetched again."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
  """`$DEEPLAB_CACHE`, or `~/.cache/deeplab_jax`."""
  default = pathlib.Path.home() / ".cache" / "deeplab_jax"
  return pathlib.Path(os.environ.get("DEEPLAB_CACHE", default))
