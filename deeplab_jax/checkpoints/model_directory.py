"""Model directories: weights together with what they are."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from deeplab_jax import atomic, remote
from deeplab_jax.checkpoints import items, wholeness
from deeplab_jax.checkpoints.fetching import local_copy
from deeplab_jax.models import (
  Classifier,
  DeepLab,
  model_from_dict,
  model_to_dict,
  normalisation,
  without_auxiliary,
)
from deeplab_jax.models.trace import shapes_of

Path = remote.AnyPath | str
Tree = Any
Network = DeepLab | Classifier

FORMAT = 1
KINDS = {"segmenter": DeepLab, "classifier": Classifier}
_MODEL_JSON = "model.json"
_CHECKSUM = "sha256"  # its field; those of earlier versions have none


def local_path(path: Path, writing: bool = False) -> remote.AnyPath:
  """`path` made absolute; an object store's address as it is.

  Args:
    path: of a folder, which need not exist.
    writing: whether checkpoints are to be saved there.

  Raises:
    ValueError: the address of a store that is not supported. Or Orbax cannot
      save there: it takes [ for a pattern and a backslash for a slash, and
      needs UTF-8.
  """
  path = remote.as_path(path)
  if isinstance(path, remote.Address):
    return path
  path = path.expanduser().absolute()
  if ".." in path.parts:  # which tensorstore takes for a fault of the files
    path = path.resolve()
  text = os.fsencode(path).decode("utf-8", "replace")
  found = [character for character in "[\\\ufffd" if character in text]
  if writing and found:
    raise ValueError(
      f"checkpoints cannot be saved in {text!r}: give a folder without "
      f"{'bytes that are not UTF-8' if text != str(path) else found[0]}"
    )
  return path


def save_model(
  folder: Path,
  model: Network,
  variables: Tree,
  dtype: npt.DTypeLike | None = None,
  **fields: Any,
) -> None:
  """Writes an imported model directory.

  Args:
    folder: created if missing.
    model: the network `variables` belong to.
    variables: {"params", "batch_stats"}.
    dtype: of the stored kernels, such as "float16" for half the size; None
      keeps theirs. Vectors are stored as they are, and `load_variables` gives
      back what the model works with, float32.
    **fields: further fields of `model.json`, see `write_model_json`.

  Raises:
    ValueError: a kernel holds values that `dtype` cannot; or `folder` holds a
      model, or another process writes one there.
  """
  folder = local_path(folder, writing=True)
  if dtype is not None:
    variables = _with_kernels_in(variables, np.dtype(dtype))
  if isinstance(folder, remote.Address):
    _save_remotely(folder, model, variables, fields)
    return
  with _only_one(folder):
    refuse_to_replace(folder)
    write_model_json(folder, model, **fields)
    with items.manager(folder / "checkpoints", max_to_keep=1) as manager:
      manager.save(0, args=items.to_save(variables=variables), force=True)


def _save_remotely(
  folder: remote.Address, model: Network, variables: Tree, fields: dict
) -> None:
  """The same for an object store: made here and put there."""
  refuse_to_replace(folder)
  with tempfile.TemporaryDirectory() as here:
    save_model(here, model, variables, **fields)
    content = pathlib.Path(here, _MODEL_JSON).read_bytes()
    atomic.write_bytes(folder / _MODEL_JSON, content)
    step = pathlib.Path("checkpoints", "0")
    remote.upload(here / step, folder / str(step), wholeness.CHECKSUMS)


def refuse_to_replace(folder: remote.AnyPath) -> None:
  """Refuses a folder that holds a model; what a kill left is none."""
  if wholeness.steps(folder / "checkpoints"):
    raise ValueError(f"{folder} holds a model already; give another --out")


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
  """Creates `folder`; refuses one in which another process is writing."""
  folder.mkdir(parents=True, exist_ok=True)
  file = os.open(folder, os.O_RDONLY)
  try:
    if not atomic.lock(file):
      raise ValueError(f"{folder} is being written; give another --out")
    yield
  finally:
    os.close(file)


def _with_kernels_in(variables: Tree, dtype: np.dtype) -> Tree:
  def narrow(x: jax.Array) -> np.ndarray:
    if np.ndim(x) < 2:
      return np.asarray(x)
    with np.errstate(over="ignore"):
      narrowed = np.asarray(x).astype(dtype)
    if not np.isfinite(narrowed).all():
      raise ValueError(f"dtype {dtype} cannot hold kernels of {abs(x).max()}")
    return narrowed

  return jax.tree.map(narrow, variables)


def write_model_json(folder: Path, model: Network, **fields: Any) -> None:
  """Writes `model.json`: format, kind, model, preprocessing and `fields`.

  The kind is a key of `KINDS`. `fields` are `dataset` {name, class_names,
  colors, ignore_label}, `source`, `license`, `evaluation`, and of a model whose
  classes overlap `thresholds`, one per class, and by step of the checkpoints
  evaluated, `thresholds_by_step`. As `preprocessing` says, the network's input
  is (image - mean) * scale, for RGB images of 0..255 or for images of the
  model's channels, dtype and range, which values beyond are brought to before.
  """
  images = model.backbone, model.channels, model.value_range
  mean, scale = (x.tolist() for x in normalisation(*images))
  content = {
    "format": FORMAT,
    "kind": "classifier" if isinstance(model, Classifier) else "segmenter",
    "model": model_to_dict(model),
    "preprocessing": {"mean": mean, "scale": scale},
    **fields,
  }
  content[_CHECKSUM] = _checksum(content)
  atomic.write_json(remote.as_path(folder) / _MODEL_JSON, content)


def _checksum(content: dict[str, Any]) -> str:
  """SHA-256 of the fields of a `model.json`."""
  as_read = json.loads(json.dumps(content))
  text = json.dumps(as_read, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def load_variables(
  path: Path, kind: str = "segmenter"
) -> tuple[Network, Tree, dict[str, Any]]:
  """Loads a model for inference.

  Args:
    path: a workdir or imported model directory (its newest whole step), a step
      in its `checkpoints`, or its `best`.
    kind: the key of `KINDS` that is wanted.

  Returns:
    The model, its variables {"params", "batch_stats"} as `jax.Array`s on the
    first device, both without a head that only trains, and the content of
    `model.json`.

  Raises:
    ValueError: nothing usable there, a model of another kind, or weights that
      are not the model's.
  """
  step = find_step(path)
  model, content = _read_model(step.parent.parent)
  if not isinstance(model, KINDS[kind]):
    raise ValueError(
      f"{path} must hold a {kind}, got a {content['kind']}; to train from its "
      "backbone, give it as init_from with init_parts='backbone'"
    )
  shape = (1, 65, 65, model.channels)
  images = jax.ShapeDtypeStruct(shape, np.float32)
  wanted = shapes_of(model.init, jax.random.key(0), images)
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  variables = items.restore(step / "variables", wanted, place)
  of_step = content.get("thresholds_by_step") or {}
  if step.name in of_step:  # another evaluation than the latest chose these
    content["thresholds"] = of_step[step.name]
  return *without_auxiliary(model, variables), content


def read_model(path: Path) -> Network:
  """The network that is stored at `path`, without its weights: see
  `read_description`."""
  return read_description(path)[0]


def read_description(path: Path) -> tuple[Network, dict[str, Any]]:
  """The network that is stored at `path`, and the content of `model.json`.

  Args:
    path: as `load_variables` takes it.

  Raises:
    ValueError: there is no `model.json`, or a damaged one.
  """
  path = local_path(path)
  for folder in (path, *list(path.parents)[:2]):
    if (folder / _MODEL_JSON).is_file():
      return _read_model(folder)
  raise ValueError(
    f"no model at {path}: give a workdir, or a folder written by `python -m "
    "deeplab_jax.import_weights`"
  )


def _read_model(folder: remote.AnyPath) -> tuple[Network, dict[str, Any]]:
  """The network that `model.json` describes, and all that it holds."""
  content = _read_model_json(folder)
  try:
    kind = KINDS[content.setdefault("kind", "segmenter")]
    return model_from_dict(content["model"], kind), content
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(_damaged(folder / _MODEL_JSON, error)) from error


def find_step(path: Path) -> pathlib.Path:
  """The folder of the newest whole step of `path` (see `load_variables`).

  Of an object store, a copy on this machine, of what inference needs.
  """
  path = local_path(path)
  if path.name.isdecimal() and (path / "variables").is_dir():
    steps = [path]
  else:
    steps = wholeness.steps(path / "checkpoints") or wholeness.steps(path)
  faults = []
  for step in steps:
    folder, fault = _examine(step)
    if fault is None:
      if faults:
        logging.warning("using %s, as %s", step, "; ".join(faults))
      return folder
    faults.append(f"{step} is not whole: {fault}")
  if faults:
    raise ValueError("; ".join(faults) + way_out(steps[0].parent.parent))
  raise ValueError(
    f"no checkpoint at {path}: give a workdir, a step in its checkpoints, its "
    "best, or a folder written by `python -m deeplab_jax.import_weights`"
  )


def _examine(step: remote.AnyPath) -> tuple[pathlib.Path, str | None]:
  """Where to read a step's `variables`, and what is wrong with them."""
  if isinstance(step, remote.Address):
    try:
      step = local_copy(step)
    except FileNotFoundError as error:
      return pathlib.Path(), f"{error.filename} is missing"
  return step, wholeness.fault(step, "variables")


def way_out(workdir: remote.AnyPath) -> str:
  """What is left of a run without a whole checkpoint."""
  for step in wholeness.steps(workdir / "best"):
    if _examine(step)[1] is None:
      best = step.parent
      return (
        f"; the best model is whole: it can be used as {best}, and trained on "
        f"in another --workdir with --config.init_from={best}"
      )
  return "; no best model is beside it: restore the files from a copy"


def _read_model_json(folder: remote.AnyPath) -> dict[str, Any]:
  path = folder / _MODEL_JSON
  if not path.is_file():
    raise ValueError(f"{path} is missing: {folder} is no model directory")
  try:
    content = json.loads(path.read_bytes())
    found = content.get("format")
  except (ValueError, AttributeError) as error:
    raise ValueError(_damaged(path, error)) from error
  if found != FORMAT:
    raise ValueError(f"{path}: format must be {FORMAT}, got {found}")
  checksum = content.pop(_CHECKSUM, None)
  if checksum not in (None, _checksum(content)):
    raise ValueError(
      _damaged(
        path,
        f"it is not what was written, unless you edited it: then "
        f"remove its field {_CHECKSUM}",
      )
    )
  return content


def _damaged(path: remote.AnyPath, error: object) -> str:
  return (
    f"{path} is damaged ({error}): restore it from a copy; a run that goes on "
    "writes it anew"
  )
