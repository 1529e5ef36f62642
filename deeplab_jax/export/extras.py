"""Packages that only some formats need."""

import importlib
from types import ModuleType


def needs(name: str, package: str | None = None) -> ModuleType:
  """Imports a module of a package (default: of its name) of the extra `export`.

  Raises:
    ImportError: it is not installed; says how to.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(
      f"this needs {package or name}: pip install 'deeplab_jax[export]'"
    ) from error
