"""The formats, one module each."""

import dataclasses
from collections.abc import Callable
from typing import Any

from deeplab_jax.export import as_onnx, as_stablehlo, as_tflite
from deeplab_jax.export.job import Job, Opened


@dataclasses.dataclass(frozen=True)
class Format:
  """How files of one kind are made and tried.

  Attributes:
    runtime: the name of what runs them.
    packages: whose versions a certificate names.
    check: raises what stands against a file of some sizes, before any work.
    make: the content of the file that a job asks for.
    open_file: that content, ready to look at pictures.
    precisions: of numbers that files can have.
  """

  runtime: str
  packages: tuple[str, ...]
  check: Callable[[tuple], None]
  make: Callable[[Job], bytes]
  open_file: Callable[[bytes, Job], Opened]
  precisions: tuple[str, ...]


def _of(module: Any) -> Format:
  return Format(
    module.RUNTIME,
    module.PACKAGES,
    module.check,
    module.make,
    module.open_file,
    getattr(module, "PRECISIONS", ("float32",)),
  )


FORMATS = {
  "onnx": _of(as_onnx),
  "stablehlo": _of(as_stablehlo),
  "tflite": _of(as_tflite),
}
WEB = "web"
"""The name of the one format that is no file, see `web_folder`."""
NAMES = (*FORMATS, WEB)


def find_format(name: str) -> Format:
  """The entry of `name`; ValueError with the known names otherwise."""
  if name not in FORMATS:
    known = ", ".join((*FORMATS, WEB))
    raise ValueError(f"format must be one of {known}; got {name}")
  return FORMATS[name]
