"""onnxruntime-web, which runs ONNX files in browsers: its files, fetched once.

They come from the npm package, of a version whose checksum is written here, or
from one that the user has.
"""

import json
import os
import pathlib
import tarfile
from collections.abc import Callable

from deeplab_jax import runtime
from deeplab_jax.download import fetch

VERSION = "1.30.0"
URL = (
  f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
)
CHECKSUM = (
  "sha256:d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
)
FILES = {
  "ort.wasm.min.js": "ort.wasm.min.js",
  # Not all servers know that a .mjs is JavaScript; browsers run nothing else.
  "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
  "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
"""What is taken of `dist/`, and how it is called beside the page."""

_REMEDY = (
  "give --runtime FILE_OR_FOLDER, the npm package onnxruntime-web as .tgz or "
  "unpacked"
)


def read(given: str | os.PathLike | None = None) -> tuple[str, dict]:
  """The runtime's files.

  Args:
    given: the npm package, as .tgz or unpacked; None for the download of
      `VERSION`, which is kept below `runtime.cache_folder()`.

  Returns:
    its version, and the content of each file by its name beside the page.

  Raises:
    ValueError: it cannot be fetched, or something else was given.
  """
  if given is None:
    path = runtime.cache_folder() / URL.rsplit("/", 1)[-1]
    given = fetch(URL, path, CHECKSUM, lambda path: None, _REMEDY)
  path = pathlib.Path(given)
  try:
    if path.is_dir():
      return _read(lambda name: (path / name).read_bytes())
    with tarfile.open(path) as archive:
      return _read(lambda name: _member(archive, name))
  except (OSError, KeyError, ValueError, tarfile.TarError) as error:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    raise ValueError(
      f"{path} is no npm package onnxruntime-web with {', '.join(FILES)} in "
      f"dist/: {reason}; {_REMEDY}"
    ) from error


def _read(content: Callable[[str], bytes]) -> tuple[str, dict]:
  facts = json.loads(content("package.json"))
  files = {new: content(f"dist/{name}") for name, new in FILES.items()}
  return str(facts["version"]), files


def _member(archive: tarfile.TarFile, name: str) -> bytes:
  file = archive.extractfile(f"package/{name}")
  if file is None:
    raise ValueError(f"{name} is no file")
  return file.read()
