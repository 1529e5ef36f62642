"""Where a run starts: its own newest checkpoint, another's weights, or none."""

import pathlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import sharding
from deeplab_jax.checkpoints import items
from deeplab_jax.checkpoints.model_directory import find_step
from deeplab_jax.data.source import Dataset
from deeplab_jax.import_weights.fit import Report
from deeplab_jax.models import Classifier, DeepLab, preprocess
from deeplab_jax.tasks import Task
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.folded_norms import folded_layers, with_statistics
from deeplab_jax.train.state import TrainState, abstract


def starting_point(
  state: TrainState,
  checkpoints: Checkpoints,
  config: ConfigDict,
  task: Task,
  dataset: Dataset,
  model: DeepLab | Classifier,
  mesh: Mesh,
) -> tuple[TrainState, str]:
  """The state to go on from, and lines saying where it comes from."""
  restored = checkpoints.restore_newest(abstract(state))
  if restored is not None:
    return restored, f"continuing from step {restored.step}"
  if not config.init_from:
    return state, "starting from random weights"
  state, report = initialize_from(state, config.init_from, config.init_parts)
  origin = f"starting from {config.init_from}\n{report}"
  folded = folded_layers(state.variables)
  if folded and config.train_batch_norm:
    images = next(task.train_batches(dataset, config, 0))["image"]
    state = _unfolded(state, folded, images, model, mesh)
    count = len(folded)
    origin += f"\nstatistics of the first batch for {count} folded batch norms"
  return state, origin


def _unfolded(
  state: TrainState,
  folded: list[tuple[str, ...]],
  images: np.ndarray,
  model: DeepLab | Classifier,
  mesh: Mesh,
) -> TrainState:
  """`state` with batch norms that can be trained, see `with_statistics`."""

  def update(variables, images):
    images = preprocess(images, model.backbone)
    return with_statistics(model, variables, folded, images)

  images = sharding.global_batch({"image": images}, mesh)["image"]
  update = jax.jit(update, out_shardings=sharding.replicated(mesh))
  return state.replace(**update(state.variables, images))


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
