"""Labels a raster with a tiny network, and prints the peak of its memory.

python -m tests.programs.label_raster RASTER OUT
"""

import pathlib
import re
import sys

import numpy as np

from deeplab_jax.inference import Segmenter
from deeplab_jax.models import BACKBONES
from deeplab_jax.predict import geo
from tests.random_variables import random_variables
from tests.tiny_backbone import TINY
from tests.tiny_segmenter import COLORS, NAMES, tiny_model


def main() -> None:
  """Takes uint16 of four bands."""
  BACKBONES["tiny"] = TINY
  ranges = ((0.0, 3000.0),) * 4
  model = tiny_model(channels=4, image_dtype="uint16", value_range=ranges)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  segmenter = Segmenter(model, variables, class_names=NAMES, colors=COLORS)
  source, out = map(pathlib.Path, sys.argv[1:])
  geo.label(segmenter, source, {"labels": out})
  # Not getrusage's, which a process has from the one that started it.
  status = pathlib.Path("/proc/self/status").read_text()
  print(1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]))


if __name__ == "__main__":
  main()
