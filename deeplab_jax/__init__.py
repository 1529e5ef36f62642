"""DeepLabv3+ in JAX: models, training, exact published results.

The names below load on first use, so that `import deeplab_jax` is quick:
`preprocess`, `resize_bilinear`, `load`, and the modules `models`,
`import_weights`, `inference`, `metrics`, `summary`, `checkpoints`, `export`.
"""

import importlib
import os
from typing import Any

# XLA takes a compilation of two minutes for a fault and prints a banner for it,
# among its errors. There is no flag for the banner alone, and this, the level
# below which nothing is printed, is read once, when jax is imported. What does
# fail is raised as well; TF_CPP_MIN_LOG_LEVEL=0 shows all.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_HOMES = {
  "load": "deeplab_jax.inference",
  "preprocess": "deeplab_jax.models",
  "resize_bilinear": "deeplab_jax.models",
}
_MODULES = (
  "checkpoints",
  "export",
  "import_weights",
  "inference",
  "metrics",
  "models",
  "summary",
)

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    return importlib.import_module(f"deeplab_jax.{name}")
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  raise AttributeError(f"module 'deeplab_jax' has no attribute {name!r}")
