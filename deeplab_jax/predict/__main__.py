"""The command `python -m deeplab_jax.predict`."""

import sys

from deeplab_jax.predict import main

sys.exit(main())
