"""One file that runs anywhere, with a certificate that it computes the same.

`onnx`, `stablehlo` and `tflite` write files, see `export.exporting`, and `web`
a page; `load` reads a file of the format stablehlo, and needs jax alone.
"""

import os
from collections.abc import Sequence
from typing import Any

from deeplab_jax.export.loading import Exported, load

__all__ = ["Exported", "load", "onnx", "stablehlo", "tflite", "web"]

Size = tuple[int, int]


def onnx(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  *,
  size: Size | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Writes an ONNX file and its certificate.

  Its input `image` is uint8 RGB (batch, height, width, 3); its output `labels`,
  uint8 or uint16 (batch, height, width), or with `output` `probabilities` or
  `logits`, float32 (batch, height, width, classes). Where classes overlap,
  `labels` are uint8 (batch, height, width, classes), 1 where a class is.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the file.
    size: height and width of the pictures; None for any.
    **options: `output`, `scales`, `flip`, `output_stride`, `overwrite`.

  Returns:
    the certificate, as JSON holds it.

  Raises:
    ValueError: see `export.exporting.export`.
    ImportError: onnx or onnxruntime is not installed.
  """
  from deeplab_jax.export.exporting import export

  sizes = () if size is None else (size,)
  return export(checkpoint, out, "onnx", sizes=sizes, **options)


def stablehlo(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  *,
  sizes: Sequence[Size] = (),
  **options: Any,
) -> dict[str, Any]:
  """Writes a file for `load`, for CPUs, CUDA and TPUs, and its certificate.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the file.
    sizes: heights and widths of the pictures; () for any.
    **options: `output`, `scales`, `flip`, `output_stride`, `overwrite`.

  Returns:
    the certificate, as JSON holds it.

  Raises:
    ValueError: see `export.exporting.export`.
  """
  from deeplab_jax.export.exporting import export

  return export(checkpoint, out, "stablehlo", sizes=sizes, **options)


def tflite(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  *,
  size: Size,
  **options: Any,
) -> dict[str, Any]:
  """Writes a file for LiteRT (TensorFlow Lite) and its certificate.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the file. It takes one picture at a time, uint8 RGB (1, h, w, 3).
    size: height and width of the pictures.
    **options: `precision`, "float32", "float16" or "int8"; `calibrate`, the
      folder of pictures that int8 needs; `output`, `scales`, `flip`,
      `output_stride`, `overwrite`.

  Returns:
    the certificate, as JSON holds it.

  Raises:
    ValueError: see `export.exporting.export`.
    ImportError: tensorflow or ai-edge-litert is not installed.
  """
  from deeplab_jax.export.exporting import export

  return export(checkpoint, out, "tflite", sizes=(size,), **options)


def web(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  *,
  size: Size | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Writes a folder with a page that segments pictures in a browser.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the folder.
    size: height and width to which all pictures are stretched; None for any.
    **options: see `export.web_folder.export_web`.

  Returns:
    the certificate of the ONNX file in it, as JSON holds it.

  Raises:
    ValueError: see `export.web_folder.export_web`.
    ImportError: onnx or onnxruntime is not installed.
  """
  from deeplab_jax.export.web_folder import export_web

  sizes = () if size is None else (size,)
  return export_web(checkpoint, out, sizes=sizes, **options)
