"""Tells where the wall time of a training went."""

import sys

from deeplab_jax.goodput import main

if __name__ == "__main__":
  sys.exit(main())
