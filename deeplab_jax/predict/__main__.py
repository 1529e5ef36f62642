"""Labels pictures with a trained network; writes label maps and overlays."""

import sys

from deeplab_jax.predict import main

if __name__ == "__main__":
  sys.exit(main())
