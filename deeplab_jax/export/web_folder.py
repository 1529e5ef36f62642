"""The format web: a folder with a page that segments pictures in a browser.

The page is static, see `web/`; beside it lie the ONNX file with its
certificate, what the page says of it, a sample picture, and onnxruntime-web.
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import cv2
import numpy as np

from deeplab_jax import atomic, remote
from deeplab_jax.checkpoints.model_directory import read_description
from deeplab_jax.export import certificate, web_runtime
from deeplab_jax.export.exporting import export
from deeplab_jax.inference.protocol import stored_thresholds

PAGE = (
  "network.js",
  "page.css",
  "page.js",
  "png.js",
  "view.js",
  "worker.js",
)
INDEX, MODEL, FACTS, SAMPLE = (
  "index.html",
  "model.onnx",
  "model.json",
  "sample.jpg",
)
_TOLD = (
  "class_names",
  "colors",
  "license",
  "source",
  "backbone",
  "head",
  "output_stride",
  "scales",
  "flip",
  "sizes",
  "bytes",
  "sha256",
)
_DRAWN = ", a drawn street: networks that know photographs err on it"


def export_web(
  checkpoint: str | os.PathLike,
  out: str | os.PathLike,
  *,
  runtime: str | os.PathLike | None = None,
  sample: str | os.PathLike | None = None,
  overwrite: bool = False,
  tell: Callable[[str], None] = lambda line: None,
  **options: Any,
) -> dict[str, Any]:
  """Writes a folder with a page that segments pictures in a browser.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    out: the folder.
    runtime: the npm package onnxruntime-web, as .tgz or unpacked; by default it
      is downloaded once.
    sample: a picture that the page offers; by default a drawn street.
    overwrite: whether files that are there may be replaced.
    tell: is given lines about what was found.
    **options: `sizes`, `scales`, `flip` and `output_stride`, see
      `exporting.export`.

  Returns:
    the certificate of the ONNX file; its "bytes" and "contents" are of the
    whole folder.

  Raises:
    CertificateFailed: the ONNX file computes something else; it is kept as
      OUT/model.onnx.failed, and no page is written.
    ImportError: onnx or onnxruntime is not installed.
    ValueError: an argument is wrong, or ONNX cannot express the network.
  """
  out = remote.as_path(out)
  _check(out, overwrite, options)
  model, description = read_description(checkpoint)
  if (model.channels, model.image_dtype) != (3, "uint8"):
    raise ValueError(
      "the page of format web shows RGB of 8 bits, got a network for "
      f"{model.channels} channels of {model.image_dtype}; give --format onnx"
    )
  if stored_thresholds(description) is not None:
    raise ValueError(
      f"the page of format web shows one class a pixel, but those of "
      f"{checkpoint} overlap; --format onnx gives a mask of each"
    )
  picture = _sample(sample)
  version, engine = web_runtime.read(runtime)
  facts = export(
    checkpoint, out / MODEL, "onnx", overwrite=overwrite, tell=tell, **options
  )
  note = _DRAWN if sample is None else ""
  files = {SAMPLE: picture, FACTS: _facts(facts, version, note)}
  files |= {name: _ours(name) for name in PAGE}
  files |= {f"runtime/{name}": content for name, content in engine.items()}
  files["runtime/LICENSE.txt"] = _ours("LICENSE.txt")
  files[INDEX] = _ours(INDEX)  # last: where it is, all is
  for name, content in files.items():
    atomic.write_bytes(out / name, content)
  total = facts["bytes"] + sum(map(len, files.values()))
  contents = f"a page for file servers, onnxruntime-web {version}"
  return facts | {"bytes": total, "contents": contents}


def _check(
  out: remote.AnyPath, overwrite: bool, options: Mapping[str, Any]
) -> None:
  """Finds out before any work whether the folder can be written."""
  if options.get("output", "labels") != "labels":
    raise ValueError(
      f"the page of format web shows labels, got output {options['output']}; "
      "--format onnx gives others"
    )
  if out.exists() and not out.is_dir():
    raise ValueError(f"--out must be a folder, got the file {out}")
  if out.is_dir() and any(out.iterdir()) and not overwrite:
    raise ValueError(
      f"{out} is not empty; --overwrite replaces the files of a page in it"
    )


def _sample(path: str | os.PathLike | None) -> bytes:
  """The content of the sample picture."""
  if path is None:
    return _ours(SAMPLE)
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"--sample {path}: {error.strerror}") from error
  if not content or cv2.imdecode(np.frombuffer(content, np.uint8), 1) is None:
    raise ValueError(f"--sample {path} is no picture")
  return content


def _ours(name: str) -> bytes:
  return (resources.files("deeplab_jax.export") / "web" / name).read_bytes()


def _facts(facts: Mapping[str, Any], version: str, note: str) -> bytes:
  """What the page says of the network, as JSON."""
  engine = f"{facts['runtime']} {facts['versions'][facts['runtime']]}"
  told = {name: facts[name] for name in _TOLD}
  told["certificate"] = (
    f"Held against the network when it was made, in {engine} on a CPU: "
    f"{certificate.line(facts).partition(': ')[2]}."
  )
  told["runtime"] = f"ONNX Runtime Web {version}"
  told["sample_note"] = note
  return json.dumps(told, indent=2).encode()
