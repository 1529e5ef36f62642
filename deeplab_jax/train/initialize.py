"""Where a run starts: its own newest checkpoint, another's weights, or none."""

import contextlib
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import sharding
from deeplab_jax.checkpoints import items
from deeplab_jax.checkpoints.model_directory import (
  Network,
  find_step,
  read_description,
  read_model,
)
from deeplab_jax.config import make_model
from deeplab_jax.data.source import Dataset
from deeplab_jax.import_weights.fit import Report
from deeplab_jax.models import (
  Classifier,
  DeepLab,
  model_arguments,
  preprocess,
)
from deeplab_jax.models.arguments import IMAGE_ARGUMENTS, TRAINING_ARGUMENTS
from deeplab_jax.models.auxiliary import NAME as AUXILIARY
from deeplab_jax.models.divided import by_rows
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.tasks import Task
from deeplab_jax.train import stem
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.folded_norms import folded_layers, with_statistics
from deeplab_jax.train.state import TrainState

T = TypeVar("T")

# Arguments of a network that fit any weights.
_FIT_ALL = (
  *("num_classes", "output_stride", "multi_grid", AUXILIARY),
  *IMAGE_ARGUMENTS,
  *TRAINING_ARGUMENTS,
)
_OF_BACKBONE = ("backbone", "width_multiplier", "rates_from", "positions_of")
# Those that fit any weights, too, but make another function of them.
_CONVENTIONS = ("half_pixel", "pad_input", "rates_from", "positions_of")


def check_start(config: ConfigDict) -> None:
  """Finds, without reading any weights, if those to start from do not fit.

  Raises:
    ValueError: there are none at `config.init_from`, or they are those of
      another network: one line with the fields that differ.
  """
  path, parts = config.init_from, config.init_parts
  folder = find_step(path).parent.parent
  if not (folder / "model.json").is_file():
    return  # The weights themselves will tell.
  stored = read_model(folder)
  images = {name: getattr(stored, name) for name in IMAGE_ARGUMENTS}
  # Other channels than the data has are no fault: see `stem`.
  wanted = make_model(config, num_classes=2, **images)
  if parts == "all" and isinstance(stored, Classifier) != isinstance(
    wanted, Classifier
  ):
    raise ValueError(
      f"config.init_parts must be 'backbone' where config.init_from={path} is "
      "a model for another task, got 'all'"
    )
  names = _OF_BACKBONE if parts == "backbone" else model_arguments(wanted)
  differing = [
    name
    for name in names
    if name not in _FIT_ALL
    and hasattr(stored, name)
    and getattr(stored, name) != getattr(wanted, name)
  ]
  if differing and not _differences(stored, wanted, parts):
    differing = [name for name in differing if name in _CONVENTIONS]
  if differing:
    raise ValueError(_other_network(path, stored, wanted, differing))


def _differences(stored: Network, wanted: Network, parts: str) -> list[str]:
  source, target = _shapes(stored), _shapes(wanted)
  offered, needed, _ = _divide(source, target, parts)
  return items.differences(offered, needed)


def _shapes(model: Network) -> dict[str, jax.ShapeDtypeStruct]:
  shape = (1, 65, 65, model.channels)
  images = jax.ShapeDtypeStruct(shape, np.float32)
  return items.flatten(shapes_of(model.init, jax.random.key(0), images))


def _other_network(
  path: str, stored: Network, wanted: Network, differing: list[str]
) -> str:
  found = ", ".join(f"{x} {getattr(wanted, x)!r}" for x in differing)
  flags = " ".join(_flag(x, getattr(stored, x)) for x in differing)
  return (
    f"config.init_from={path} holds another network than config.model, which "
    f"has {found}; set {flags}"
  )


def _flag(name: str, value: Any) -> str:
  return shlex.quote(f"--config.model.{name}={value}")


def terms_of_use(
  workdir: pathlib.Path, config: ConfigDict, dataset: Dataset
) -> str:
  """The licence of what a run trains: of its data and its first weights."""
  own = dataset.info.license
  if not config.init_from:
    return own
  try:
    given = _license(config.init_from)
  except ValueError:  # no longer there, or without a description
    with contextlib.suppress(ValueError):
      return _license(workdir) or own
    return own
  if given in own:
    return own
  return f"{own}; of the weights that training started from: {given}"


def _license(path: str | pathlib.Path) -> str:
  """That of a stored model; "" where it has none."""
  return str(read_description(path)[1].get("license") or "")


def starting_point(
  create: jax.stages.Wrapped,
  checkpoints: Checkpoints,
  config: ConfigDict,
  task: Task,
  dataset: Dataset,
  model: DeepLab | Classifier,
  mesh: Mesh,
) -> tuple[TrainState, str]:
  """The state to go on from, and lines saying where it comes from.

  `create` is an `initializer`, which is called where there is no checkpoint.
  """
  restored = checkpoints.restore_newest(create.eval_shape())
  if restored is not None:
    return restored, f"continuing from step {restored.step}"
  if not config.init_from:
    return create(), "starting from random weights"
  start = config.init_from, config.init_parts, config.init_channels
  state, report = initialize_from(create(), *start)
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
    images = preprocess(images, model.backbone, model.value_range)
    return with_statistics(model, variables, folded, images)

  images = sharding.global_batch({"image": images}, mesh)["image"]
  update = by_rows(update, mesh, sharding.HEIGHT_AXIS)
  update = jax.jit(update, out_shardings=sharding.replicated(mesh))
  return state.starting_from(update(state.variables, images))


def initialize_from(
  state: TrainState,
  path: pathlib.Path | str,
  parts: str,
  channels: Sequence[int] = (),
) -> tuple[TrainState, Report]:
  """Copies weights of another checkpoint into `state`.

  Args:
    state: freshly initialised; step and optimizer stay as they are.
    path: as `load_variables` takes it.
    parts: "backbone", or "all": the logits may then have another number of
      classes, and keep their fresh values; so does a second head, which may
      be missing on either side, too.
    channels: as `config.init_channels`.

  Returns:
    The state, and a report, printable, of what went where.

  Raises:
    ValueError: anything else is missing, unexpected or of another shape.
  """
  source = items.flatten(items.restore(find_step(path) / "variables"))
  if jax.process_count() > 1:
    # Not by their files, which differ where each machine has imported them.
    sharding.require_same(
      items.digest(source), f"the weights in config.init_from={path}"
    )
  target = items.flatten(state.variables)
  source, note = stem.adapt(source, target, channels)
  offered, wanted, fresh = _divide(source, target, parts)
  skipped = source.keys() - offered.keys()
  items.require_same_names(offered, wanted, str(path))
  loaded = {
    name: jax.device_put(offered[name].astype(x.dtype), x.sharding)
    for name, x in wanted.items()
  }
  variables = items.unflatten_like(state.variables, {**target, **loaded})
  names = (_below_collection(n) for n in (loaded, skipped, fresh))
  report = Report(*names, notes=note)
  return state.starting_from(variables), report


def _divide(
  source: Mapping[str, T], target: Mapping[str, Any], parts: str
) -> tuple[dict[str, T], dict[str, Any], set[str]]:
  """What the source offers, what the target takes, and what stays fresh."""
  fresh = {name for name in target if _stays_fresh(name, source, target, parts)}
  wanted = {name: x for name, x in target.items() if name not in fresh}
  offered = {
    name: x
    for name, x in source.items()
    if name not in fresh
    and (parts == "all" or _of(("backbone",), name))
    and (name in target or not _of((AUXILIARY,), name))
  }
  return offered, wanted, fresh


def _stays_fresh(
  name: str, source: Mapping, target: Mapping, parts: str
) -> bool:
  """Whether `name` of the target keeps its freshly drawn value."""
  if parts == "backbone":
    return not _of(("backbone",), name)
  other_classes = np.shape(source.get(name)) != target[name].shape
  return other_classes and _of(("logits", "lraspp", AUXILIARY), name)


def _of(modules: tuple[str, ...], name: str) -> bool:
  return name.split("/")[1] in modules


def _below_collection(names: Iterable[str]) -> tuple[str, ...]:
  """ "params/backbone/..." and "batch_stats/backbone/..." -> "backbone/..."."""
  return tuple(sorted(name.partition("/")[2] for name in names))
