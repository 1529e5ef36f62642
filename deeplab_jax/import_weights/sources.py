"""Arrays of published weights, from the files they are published in.

TensorFlow reads its checkpoints and torch its pickles; both are imported only
then. Frozen graphs, .npz and .safetensors files need neither.
"""

import argparse
import importlib
import pathlib
import pickle
import re
import tarfile
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from deeplab_jax.import_weights.averages import raw_name
from deeplab_jax.import_weights.names import VARIABLES
from deeplab_jax.import_weights.pytorch import is_torch
from deeplab_jax.import_weights.states import flatten
from deeplab_jax.import_weights.torch_deeplabs import to_official

Path = pathlib.Path | str
Arrays = dict[str, np.ndarray]

_TORCH = "torch>=2.6"
_WANTED = "expected a file of torch.save(network.state_dict(), file)"
_ONLY = ("[!.]*.pb", "[!.]*.index", "model.safetensors", "pytorch_model.bin")
_FORMATS = (
  "a TensorFlow checkpoint (its prefix such as model.ckpt, its .index file, or"
  " its folder), a frozen graph (.pb), a release (.tar.gz), .npz,"
  " .safetensors, or a torch state dict (.pth, .pt, .bin, .ckpt of Lightning)"
)


def read(path: Path) -> Arrays:
  """Reads all arrays of a file by official variable name.

  Args:
    path: a TensorFlow checkpoint (prefix, `.index` file or folder), a frozen
      graph, a released archive, an `.npz` file, or a state dict of torch.

  Returns:
    What the file holds, steps, optimizer slots and moving averages
    (`<variable>/ExponentialMovingAverage`) included; kernels in TensorFlow's
    layout.

  Raises:
    ValueError: nothing of these is there, or it cannot be read.
    ImportError: the file needs a package that is not installed.
  """
  arrays = read_stored(path)
  return to_official(arrays) if is_torch(arrays) else arrays


def read_stored(path: Path) -> Arrays:
  """As `read`, but a state dict as it is: by torch's names, in its layout."""
  path = pathlib.Path(path).expanduser()
  return _read(_only_model_in(path) if path.is_dir() else path)


def _read(path: pathlib.Path) -> Arrays:
  reader = _find_reader(path)
  try:
    return reader(path)
  except ImportError:
    raise
  except Exception as error:  # Every library has its own.
    raise ValueError(
      f"cannot read {path}: {type(error).__name__}: {error}"
    ) from error


def _find_reader(path: pathlib.Path) -> Callable[[pathlib.Path], Arrays]:
  prefix = _checkpoint_prefix(path)
  if prefix.with_name(f"{prefix.name}.index").is_file():
    return _read_checkpoint
  for suffix, reader in _READERS.items():
    if path.name.endswith(suffix) and path.is_file():
      return reader
  problem = "is not" if path.exists() else "does not exist; expected"
  raise ValueError(f"{path} {problem} {_FORMATS}")


def _only_model_in(folder: pathlib.Path) -> pathlib.Path:
  """The frozen graph below `folder`, else its one checkpoint.

  They hold the same variables, and a graph needs no TensorFlow. Folders of the
  Hub have the same state dict in two files, of which one needs no torch.
  """
  for pattern in _ONLY:
    found = sorted(folder.rglob(pattern))
    if len(found) == 1:
      return found[0]
    if found:
      names = ", ".join(str(file) for file in found)
      raise ValueError(f"{folder} holds several models, give one: {names}")
  raise ValueError(
    f"{folder} holds neither .index nor .pb file, nor one of the Hub"
  )


def _read_archive(path: pathlib.Path) -> Arrays:
  with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as archive:
    archive.extractall(folder, filter="data")
    return _read(_only_model_in(pathlib.Path(folder)))


def _checkpoint_prefix(path: pathlib.Path) -> pathlib.Path:
  """What the names of a TensorFlow checkpoint's files begin with."""
  return path.with_name(path.name.removesuffix(".index").split(".data-")[0])


def _read_checkpoint(path: pathlib.Path) -> Arrays:
  tensorflow = _import("tensorflow", "deeplab_jax[import]", path)
  reader = tensorflow.train.load_checkpoint(str(_checkpoint_prefix(path)))
  names = sorted(reader.get_variable_to_shape_map())
  return {name: reader.get_tensor(name) for name in names}


def _read_graph(path: pathlib.Path) -> Arrays:
  """The constants that were variables before the graph was frozen."""
  # The same messages as TensorFlow's, from a package that is always here.
  from tensorboardX.proto.graph_pb2 import GraphDef

  graph = GraphDef.FromString(path.read_bytes())
  return {
    node.name: _constant(node.attr["value"].tensor)
    for node in graph.node
    if node.op == "Const"
    and raw_name(node.name).rsplit("/", 1)[-1] in VARIABLES
  }


def _constant(tensor: Any) -> np.ndarray:
  """A float32 tensor; a single stored value stands for all elements."""
  shape = [dimension.size for dimension in tensor.tensor_shape.dim]
  if tensor.tensor_content:
    return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
  values = np.asarray(tensor.float_val, np.float32)
  if len(values) == 1:
    return np.full(shape, values[0])
  return values.reshape(shape)


def _read_npz(path: pathlib.Path) -> Arrays:
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def _read_safetensors(path: pathlib.Path) -> Arrays:
  return _import("safetensors.numpy", "safetensors", path).load_file(path)


def _read_pickle(path: pathlib.Path) -> Arrays:
  torch = _import("torch", _TORCH, path)
  if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
    raise ImportError(
      f"reading {path} needs {_TORCH}, before which a file could run programs"
      f" (CVE-2025-32434); this is torch {torch.__version__}: pip install"
      f" '{_TORCH}'"
    )
  with torch.serialization.safe_globals(_harmless()):
    try:
      content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
      raise ValueError(_without_a_page(error)) from error
    except RuntimeError as error:
      if "TorchScript" not in str(error):
        raise
      raise ValueError(
        f"it holds a program of TorchScript; {_WANTED}"
      ) from error
  if not isinstance(content, dict):
    raise ValueError(f"it holds no state dict, but a {type(content).__name__}")
  return flatten(content)


def _harmless() -> list[Any]:
  """What scripts keep beside weights: scores of NumPy's, their arguments."""
  number = np.float64(0).__reduce__()[0]
  kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
  allowed = [number, (number, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
  allowed.append(argparse.Namespace)
  for module in ("pathlib", "pathlib._local"):  # since Python 3.13
    allowed.append((pathlib.PurePosixPath, f"{module}.PosixPath"))
    allowed.append((pathlib.PureWindowsPath, f"{module}.WindowsPath"))
  return allowed


def _without_a_page(error: Exception) -> str:
  """What torch says of a file that holds more than tensors, in a line."""
  found = re.search(r"GLOBAL ([\w.]+)", str(error))
  what = f"it holds a {found[1]}" if found else "it is damaged"
  return f"{what}; {_WANTED}"


_READERS = {
  ".tar.gz": _read_archive,
  ".tgz": _read_archive,
  ".npz": _read_npz,
  ".pb": _read_graph,
  ".safetensors": _read_safetensors,
  ".pth": _read_pickle,
  ".pth.tar": _read_pickle,
  ".pt": _read_pickle,
  ".bin": _read_pickle,
  ".ckpt": _read_pickle,
}


def _import(module: str, package: str, path: pathlib.Path) -> ModuleType:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"reading {path} needs {module.split('.')[0]}: pip install"
      f" '{package}' ({error})"
    ) from error
