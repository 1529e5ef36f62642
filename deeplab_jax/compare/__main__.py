"""Shows training runs side by side: curves in a picture, figures in a table."""

import sys

from deeplab_jax.compare import main

if __name__ == "__main__":
  sys.exit(main())
