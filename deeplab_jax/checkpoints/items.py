"""Trees of arrays on disk: the layer above Orbax."""

import contextlib
import hashlib
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from deeplab_jax.checkpoints import wholeness

Tree = Any

_UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders being written
_SHOWN = 20  # differences between two trees
_FIRST_ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix="first_alone"
)


class CannotRestoreError(ValueError):
  """The files of an item are not what Orbax wrote."""


def manager(
  folder: pathlib.Path,
  publish: Callable[[pathlib.Path, str], None] | None = None,
  **options: Any,
) -> ocp.CheckpointManager:
  """Orbax's manager of `folder`; first clears what killed saves left there.

  Orbax offers to clear in a thread, which fails noisily if the program ends.
  Checksums are written in the thread that saves, before the step is renamed.

  Of several processes the first one alone has a manager. Where all of them save
  together, and one cannot, Orbax has the others wait for it for 10 minutes.

  Args:
    folder: of the steps.
    publish: called with the files of a step, whole, and the step's name, before
      it counts as saved.
    **options: of Orbax's manager.
  """
  for unfinished in _unfinished(folder):
    shutil.rmtree(unfinished)
  if jax.process_count() > 1:
    folder.mkdir(parents=True, exist_ok=True)
    options |= {"multiprocessing_options": _FIRST_ALONE, "create": False}

  def finish() -> None:
    for unfinished in _unfinished(folder):
      wholeness.write_checksums(unfinished)
      if publish is not None:
        publish(unfinished, unfinished.name.partition(_UNFINISHED)[0])

  return ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(
      save_root_metadata=False,
      async_options=ocp.AsyncOptions(post_finalization_callback=finish),
      **options,
    ),
  )


def _unfinished(folder: pathlib.Path) -> list[pathlib.Path]:
  return list(folder.glob(f"*{_UNFINISHED}*"))


def of_this_process(tree: Tree) -> Tree:
  """`tree`, which is the same on all devices, as one of its devices holds it.

  In NumPy arrays, which a process can save without the others: Orbax refuses
  arrays of one device where there are several processes.
  """
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def to_save(**trees: Tree) -> ocp.args.Composite:
  """The argument of a manager's `save` for items by name."""
  return ocp.args.Composite(
    **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
  )


def restore(
  item: pathlib.Path,
  wanted: Tree | None = None,
  place: jax.sharding.Sharding | None = None,
) -> Tree:
  """Restores one item of a step, without waiting for other processes.

  Args:
    item: its folder.
    wanted: the tree expected, of arrays or shapes; None takes what there is,
      as NumPy arrays.
    place: where to put the arrays; None follows `wanted`.

  Raises:
    CannotRestoreError: the files are broken.
    ValueError: they hold another tree than `wanted`.
  """
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )
  reading = ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
    multiprocessing_options=alone,
  )
  with _quietly(), reading as reader:
    with _explaining(item):
      saved = reader.metadata(item).item_metadata.tree
    if wanted is None:
      as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
      arguments = jax.tree.map(lambda _: as_numpy, saved)
    else:
      require_same_names(flatten(saved), flatten(wanted), str(item))
      arguments = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(
          sharding=place or x.sharding, global_shape=x.shape, dtype=x.dtype
        ),
        wanted,
      )
    with _explaining(item):
      return reader.restore(
        item, args=ocp.args.PyTreeRestore(wanted, restore_args=arguments)
      )


@contextlib.contextmanager
def _explaining(item: pathlib.Path) -> Iterator[None]:
  """Turns what Orbax makes of broken files into one line."""
  try:
    yield
  except OSError as error:
    if not isinstance(error, FileNotFoundError):
      raise  # of the disk or the permissions, not of what the files hold
    raise CannotRestoreError(f"{item}: {error}") from error
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    text = str(error).strip() or type(error).__name__
    raise CannotRestoreError(f"{item}: {text.splitlines()[0]}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Keeps to itself that an item alone has no metadata of a whole step."""
  logger = logging.getLogger("absl")
  before = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(before)


def flatten(tree: Tree) -> dict[str, Any]:
  """Leaves by names such as "params/backbone/conv/kernel"."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def digest(tree: Tree) -> str:
  """SHA-256 of names, types, shapes and numbers of the leaves."""
  found = hashlib.sha256()
  for name, leaf in flatten(tree).items():
    array = np.ascontiguousarray(jax.device_get(leaf))
    found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    found.update(array.tobytes())
  return found.hexdigest()


def unflatten_like(tree: Tree, leaves: Mapping[str, Any]) -> Tree:
  """The reverse of `flatten`, in the structure of `tree`."""
  return jax.tree.unflatten(
    jax.tree.structure(tree), [leaves[name] for name in flatten(tree)]
  )


def require_same_names(
  found: Mapping[str, Any], wanted: Mapping[str, Any], where: str
) -> None:
  """Raises one error that lists differences of names and shapes, 20 at most."""
  faults = differences(found, wanted)
  if len(faults) > _SHOWN:
    faults[_SHOWN:] = [f"and {len(faults) - _SHOWN} more"]
  if faults:
    raise ValueError(
      f"{where} is a checkpoint of another architecture; give the model it "
      "was trained with, another --workdir, or init_parts='backbone':\n  "
      + "\n  ".join(faults)
    )


def differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """Every difference of names and shapes, a line each."""
  faults = [f"missing: {name}" for name in wanted if name not in found]
  faults += [f"unexpected: {name}" for name in found if name not in wanted]
  return faults + [
    f"wrong shape: {name} must be {tuple(x.shape)}, got "
    f"{tuple(found[name].shape)}"
    for name, x in wanted.items()
    if name in found and tuple(found[name].shape) != tuple(x.shape)
  ]
