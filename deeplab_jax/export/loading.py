"""Files of the format stablehlo: their content, and how jax alone runs them.

To read a program jax needs the package flatbuffers, which it does not install.

A file is a zip archive, uncompressed, of `export.json` (what the network is,
the sizes it takes), `weights/N.npy`, and a program of `jax.export` for every
size, or one for all. The weights are arguments of the programs.
"""

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

FORMAT = 1
_FACTS = "export.json"
_ANY = "any"


class Exported:
  """An exported network. Compiled for every shape that it meets.

  Attributes:
    facts: what the file says about itself: class names, colours, licence,
      source, output stride and more.
    output: "labels", "probabilities" or "logits".
    class_names: one per class.
    colors: (r, g, b) of 0..255 per class.
    sizes: heights and widths of the pictures that it takes; () for any.
  """

  def __init__(self, content: bytes):
    """Reads a file.

    Args:
      content: of the file.

    Raises:
      ValueError: it is none.
    """
    try:
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        self.facts = json.loads(archive.read(_FACTS))
        if self.facts["format"] != FORMAT:
          raise ValueError(f"format must be {FORMAT}")
        self._programs = {
          name: jax.export.deserialize(bytearray(archive.read(name)))
          for name in self.facts["programs"]
        }
        self.weights = [
          np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
          for name in self.facts["weights"]
        ]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
      raise ValueError(f"no exported network, or damaged: {error}") from error
    self.output = self.facts["output"]
    self.class_names = tuple(self.facts["class_names"])
    self.colors = tuple(map(tuple, self.facts["colors"]))
    self.sizes = tuple(
      tuple(map(int, name.split("x")))
      for name in self._programs
      if name != _ANY
    )
    self._on_device = None
    self._calls = {
      name: jax.jit(program.call) for name, program in self._programs.items()
    }

  def __call__(self, images: Any) -> jax.Array:
    """Looks at pictures of one size.

    Args:
      images: (b, h, w, channels) of the dtype that `facts` name, uint8 RGB of
        three channels for most.

    Returns:
      labels, uint8 or uint16 (b, h, w), or where classes overlap uint8
      (b, h, w, classes); or float32 probabilities or logits (b, h, w, classes).

    Raises:
      ValueError: wrong images, or of a size that the file is not for.
    """
    shape, dtype = np.shape(images), getattr(images, "dtype", None)
    channels = self.facts.get("channels", 3)
    wanted = self.facts.get("image_dtype", "uint8")
    if len(shape) != 4 or shape[3] != channels or dtype != wanted or 0 in shape:
      kind = "uint8 RGB" if (channels, wanted) == (3, "uint8") else wanted
      raise ValueError(
        f"images must be {kind} of shape (b, h, w, {channels}), got {dtype} "
        f"{shape}"
      )
    name = _ANY if not self.sizes else f"{shape[1]}x{shape[2]}"
    if name not in self._calls:
      known = ", ".join(self._calls)
      raise ValueError(f"images must be of {known} pixels, got {name}")
    if self._on_device is None:
      with jax.ensure_compile_time_eval():  # though a caller may be traced
        self._on_device = jax.device_put(self.weights)
    return self._calls[name](self._on_device, images)


def load(path: str | os.PathLike) -> Exported:
  """Reads a file of the format stablehlo; needs jax alone.

  Args:
    path: of the file.

  Raises:
    ValueError: it is none.
  """
  with open(path, "rb") as file:
    content = file.read()
  try:
    return Exported(content)
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)}: {error}") from error


def pack(
  facts: Mapping[str, Any],
  programs: Mapping[tuple[int, int] | None, bytes],
  weights: Sequence[np.ndarray],
) -> bytes:
  """The content of a file.

  Args:
    facts: what it says about itself.
    programs: serialised, by the size of the pictures or None for any.
    weights: their first argument.
  """
  names = {
    size: _ANY if size is None else f"{size[0]}x{size[1]}" for size in programs
  }
  arrays = [f"weights/{i}.npy" for i in range(len(weights))]
  facts = {
    "format": FORMAT,
    **facts,
    "programs": list(names.values()),
    "weights": arrays,
  }
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    _add(archive, _FACTS, json.dumps(facts, indent=2).encode())
    for size, program in programs.items():
      _add(archive, names[size], bytes(program))
    for name, array in zip(arrays, weights):
      part = io.BytesIO()
      np.save(part, np.asarray(array), allow_pickle=False)
      _add(archive, name, part.getvalue())
  return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
  """Without the time of day: equal networks make equal files."""
  archive.writestr(zipfile.ZipInfo(name), content)
