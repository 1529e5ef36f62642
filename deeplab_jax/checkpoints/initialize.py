"""Starting a run from the weights of another checkpoint."""

import pathlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from deeplab_jax.checkpoints import items
from deeplab_jax.checkpoints.models import find_step
from deeplab_jax.import_weights.fit import Report
from deeplab_jax.state import TrainState


def initialize_from(
  state: TrainState, path: pathlib.Path | str, parts: str
) -> tuple[TrainState, Report]:
  """Copies weights of another checkpoint into `state`.

  Args:
    state: freshly initialised; step and optimizer stay as they are.
    path: as `load_variables` takes it.
    parts: "backbone", or "all": the logits may then have another number of
      classes, and keep their fresh values.

  Returns:
    The state, and a report, printable, of what went where.

  Raises:
    ValueError: anything else is missing, unexpected or of another shape.
  """
  source = items.flatten(items.restore(find_step(path) / "variables"))
  target = items.flatten(state.variables)
  fresh = {name for name in target if _stays_fresh(name, source, target, parts)}
  wanted = {name: x for name, x in target.items() if name not in fresh}
  skipped = {
    name
    for name in source
    if name in fresh or (parts == "backbone" and not _of(("backbone",), name))
  }
  offered = {name: x for name, x in source.items() if name not in skipped}
  items.require_same_names(offered, wanted, str(path))
  loaded = {
    name: jax.device_put(offered[name].astype(x.dtype), x.sharding)
    for name, x in wanted.items()
  }
  variables = items.unflatten_like(state.variables, {**target, **loaded})
  report = Report(*(_below_collection(n) for n in (loaded, skipped, fresh)))
  return state.replace(**variables), report


def _stays_fresh(
  name: str, source: Mapping, target: Mapping, parts: str
) -> bool:
  """Whether `name` of the target keeps its freshly drawn value."""
  if parts == "backbone":
    return not _of(("backbone",), name)
  other_classes = np.shape(source.get(name)) != target[name].shape
  return other_classes and _of(("logits", "lraspp"), name)


def _of(modules: tuple[str, ...], name: str) -> bool:
  return name.split("/")[1] in modules


def _below_collection(names: Iterable[str]) -> tuple[str, ...]:
  """ "params/backbone/..." and "batch_stats/backbone/..." -> "backbone/..."."""
  return tuple(sorted(name.partition("/")[2] for name in names))
