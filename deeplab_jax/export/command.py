"""The flags of the command, and whom it calls for which format."""

import argparse
import os
import re
from typing import Any

from deeplab_jax.export.exporting import export
from deeplab_jax.export.formats import NAMES, WEB
from deeplab_jax.export.job import PRECISIONS
from deeplab_jax.export.program import OUTPUTS
from deeplab_jax.export.web_folder import export_web
from deeplab_jax.inference.protocol import scales_argument

_OF_ONE_FORMAT = {
  "runtime": WEB,
  "sample": WEB,
  "precision": "tflite",
  "calibrate": "tflite",
}


def parser(description: str) -> argparse.ArgumentParser:
  """What reads the command line; `description` is for --help."""
  made = argparse.ArgumentParser(
    prog="python -m deeplab_jax.export", description=description
  )
  add = made.add_argument
  add("checkpoint", help="workdir, step in it, or imported model directory")
  add("--format", required=True, help=f"one of {', '.join(NAMES)}")
  out = "the file to write; of format web the folder"
  add("--out", required=True, metavar="FILE_OR_DIR", help=out)
  add("--output", default="labels", help=f"one of {', '.join(OUTPUTS)}")
  size = (
    "height and width of the pictures, any by default; stablehlo takes more"
  )
  flag = {"dest": "sizes", "action": "append", "metavar": "HxW"}
  add("--size", type=_size, default=[], **flag, help=size)
  add(
    "--scales", type=scales_argument, default=(1.0,), help="average over these"
  )
  add("--flip", action="store_true", help="average over mirror images, too")
  add("--output_stride", type=int, help="8, 16 or 32; the model's by default")
  add("--precision", help=f"tflite: one of {', '.join(PRECISIONS)}")
  pictures = "tflite: pictures for numbers of 8 bits, and to judge by"
  add("--calibrate", metavar="FOLDER", help=pictures)
  package = (
    "web: the npm package onnxruntime-web, .tgz or unpacked; else downloaded"
  )
  add("--runtime", metavar="FILE_OR_DIR", help=package)
  add("--sample", metavar="PICTURE", help="web: what the page offers")
  add("--overwrite", action="store_true", help="replace files that are there")
  return made


def _size(text: str) -> tuple[int, int]:
  if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
    raise argparse.ArgumentTypeError(
      f"must be HxW, such as 513x513; got {text}"
    )
  return int(found[1]), int(found[2])


def export_any(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  format: str,
  **options: Any,
) -> dict[str, Any]:
  """Writes a file or folder of any format, as the flags say.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the file, or of format web the folder.
    format: of `NAMES`.
    **options: see `exporting.export` and `web_folder.export_web`; those of one
      format alone are None for others.

  Returns:
    the certificate, as JSON holds it.

  Raises:
    ValueError: an argument is wrong, or of another format; see there.
    ImportError: the format needs a package that is not installed.
  """
  for name, owner in _OF_ONE_FORMAT.items():
    if format != owner and options.pop(name, None) is not None:
      raise ValueError(f"--{name} is of format {owner} alone")
  if format == WEB:
    return export_web(checkpoint, out, **options)
  return export(checkpoint, out, format, **options)
