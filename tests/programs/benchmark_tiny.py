"""`python -m benchmarks.run` with the backbone "tiny" among the models."""

import runpy

from benchmarks import arguments
from deeplab_jax.models import BACKBONES
from tests.tiny_backbone import TINY

if __name__ == "__main__":
  BACKBONES["tiny"] = TINY
  arguments.MODELS += ("tiny",)
  runpy.run_module("benchmarks.run", run_name="__main__")
