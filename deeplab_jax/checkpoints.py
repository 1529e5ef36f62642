"""Saving, finding, verifying and restoring checkpoints, with Orbax.

A workdir and an imported model directory hold the same:

  DIR/model.json                what the weights are: see `write_model_json`
  DIR/checkpoints/<step>/       items `variables` and (workdirs) `training`
  DIR/best/<step>/              the step of the best mIoU, `variables` only

Saves are asynchronous and appear under their final name only when whole.
"""

import json
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from deeplab_jax.models import (
  DeepLab,
  model_from_dict,
  model_to_dict,
  padding_value,
)
from deeplab_jax.state import TrainState

Tree = Any
Path = pathlib.Path | str

FORMAT = 1
_ITEMS = ("variables", "training")


class Checkpoints:
  """The checkpoints of one training run.

  Attributes:
    folder: the workdir.
  """

  def __init__(self, folder: Path, keep: int):
    """Opens `folder`, keeping the `keep` newest steps and the best one."""
    self.folder = pathlib.Path(folder).absolute()
    self._recent = _manager(self.folder / "checkpoints", max_to_keep=keep)
    self._best = _manager(
      self.folder / "best",
      max_to_keep=1,
      best_fn=lambda metrics: metrics["miou"],
    )

  def save(self, state: TrainState) -> None:
    """Begins to save `state`, unless its step is saved already."""
    step = int(state.step)
    if step in self._recent.all_steps():
      return
    training = {"step": state.step, "opt_state": state.opt_state}
    items = {"variables": state.variables, "training": training}
    self._recent.save(step, args=_save_arguments(items))

  def save_best(self, state: TrainState, miou: float) -> None:
    """Begins to save the variables if `miou` is the highest so far."""
    best = self._best.best_step()
    if best is None or miou > self._best.metrics(best)["miou"]:
      self._best.save(
        int(state.step),
        args=_save_arguments({"variables": state.variables}),
        metrics={"miou": float(miou)},
        force=True,
      )

  def restore_newest(self, state: TrainState) -> TrainState | None:
    """The newest whole checkpoint in the placement of `state`, if there is one.

    Broken ones are reported and moved out of the way.

    Args:
      state: arrays or `jax.ShapeDtypeStruct`s with their shardings.

    Raises:
      ValueError: the checkpoint is of another architecture.
    """
    for step in sorted(self._recent.all_steps(), reverse=True):
      folder = self.folder / "checkpoints" / str(step)
      fault = _fault(folder, _ITEMS)
      if fault is None:
        return _restore_state(folder, state)
      self._put_aside(step, fault)
    return None

  def _put_aside(self, step: int, fault: str) -> None:
    """Moves a broken checkpoint to `broken/`, so that its step can be saved."""
    target = self.folder / "broken" / str(step)
    logging.warning(
      "checkpoint %d is not whole (%s); moved to %s", step, fault, target
    )
    if jax.process_index() == 0:
      target.parent.mkdir(exist_ok=True)
      shutil.rmtree(target, ignore_errors=True)
      (self.folder / "checkpoints" / str(step)).rename(target)
    ocp.multihost.sync_global_processes("put_aside")
    self._recent.reload()

  def wait(self) -> None:
    """Returns when every save so far is on disk; raises what failed."""
    self._recent.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits for the saves and stops their threads."""
    self._recent.close()
    self._best.close()


def save_model(
  folder: Path, model: DeepLab, variables: Tree, **fields: Any
) -> None:
  """Writes an imported model directory.

  Args:
    folder: created if missing.
    model: the network `variables` belong to.
    variables: {"params", "batch_stats"}.
    **fields: further fields of `model.json`, see `write_model_json`.
  """
  folder = pathlib.Path(folder).absolute()
  write_model_json(folder, model, **fields)
  with _manager(folder / "checkpoints", max_to_keep=1) as manager:
    manager.save(0, args=_save_arguments({"variables": variables}), force=True)


def write_model_json(folder: Path, model: DeepLab, **fields: Any) -> None:
  """Writes `model.json`: format, model, preprocessing and `fields`.

  `fields` are `dataset` {name, class_names, colors, ignore_label}, `source`,
  `license`, `evaluation`, or a `preprocessing` of the weights' own: the
  network's input is (image - mean) * scale for RGB images of 0..255.
  """
  mean = padding_value(model.backbone)
  scale = 2 / 255 if mean == (127.5,) * 3 else 1.0
  content = {
    "format": FORMAT,
    "model": model_to_dict(model),
    "preprocessing": {"mean": list(mean), "scale": [scale] * 3},
    **fields,
  }
  write_json(pathlib.Path(folder) / "model.json", content)


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file that is never seen half written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(content, indent=2) + "\n")
  partial.rename(path)


def load_variables(path: Path) -> tuple[DeepLab, Tree, dict[str, Any]]:
  """Loads a model for inference.

  Args:
    path: a workdir or imported model directory (its newest whole step), a step
      in its `checkpoints`, or its `best`.

  Returns:
    The model, its variables {"params", "batch_stats"} as `jax.Array`s on the
    first device, and the content of `model.json`.

  Raises:
    ValueError: nothing usable there, or weights that are not the model's.
  """
  step = find_step(path)
  content = _read_model_json(step.parent.parent)
  model = model_from_dict(content["model"])
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), np.float32)
  wanted = jax.eval_shape(model.init, jax.random.key(0), images)
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return model, _restore_item(step / "variables", wanted, place), content


def find_step(path: Path) -> pathlib.Path:
  """The folder of the newest whole step of `path` (see `load_variables`)."""
  path = pathlib.Path(path).expanduser().absolute()
  if path.name.isdigit() and (path / "variables").is_dir():
    steps = [path]
  else:
    steps = _steps(path / "checkpoints") or _steps(path)
  faults = []
  for step in steps:
    fault = _fault(step, ("variables",))
    if fault is None:
      return step
    faults.append(f"{step}: {fault}")
  raise ValueError(
    f"no checkpoint at {path}: give a workdir, a step in its checkpoints, its "
    "best, or a folder written by `python -m deeplab_jax.import_weights`"
    + "".join(f"\n  not whole: {fault}" for fault in faults)
  )


def initialize_from(
  state: TrainState, path: Path, parts: str
) -> tuple[TrainState, str]:
  """Copies weights of another checkpoint into `state`.

  Args:
    state: freshly initialised; step and optimizer stay as they are.
    path: as `load_variables` takes it.
    parts: "backbone", or "all": the logits may then have another number of
      classes, and keep their fresh values.

  Returns:
    The state, and a table of what was loaded, drawn anew and left over.

  Raises:
    ValueError: anything else is missing, unexpected or of another shape.
  """
  source = _flatten(_restore_item(find_step(path) / "variables"))
  target = _flatten(state.variables)
  drawn = {name for name in target if _stays_fresh(name, source, target, parts)}
  wanted = {name: x for name, x in target.items() if name not in drawn}
  left = {
    name
    for name in source
    if name in drawn or (parts == "backbone" and not _of_backbone(name))
  }
  offered = {name: x for name, x in source.items() if name not in left}
  _require_same_names(offered, wanted, str(path))
  loaded = {
    name: jax.device_put(offered[name].astype(x.dtype), x.sharding)
    for name, x in wanted.items()
  }
  variables = _unflatten_like(state.variables, {**target, **loaded})
  table = _table({"loaded": loaded, "drawn anew": drawn, "left over": left})
  return state.replace(**variables), f"initialised from {path}\n{table}"


def _of_backbone(name: str) -> bool:
  return name.split("/")[1] == "backbone"


def _stays_fresh(name, source, target, parts) -> bool:
  """Whether `name` of the target keeps its freshly drawn value."""
  if parts == "backbone":
    return not _of_backbone(name)
  is_logits = name.split("/")[1] == "logits"
  return is_logits and np.shape(source.get(name)) != target[name].shape


def _table(groups: Mapping[str, Any]) -> str:
  """Lines `what  count  of which part` for sets of tensor names."""
  lines = []
  for what, names in groups.items():
    parts = sorted({"/".join(name.split("/")[:2]) for name in names})
    lines.append(f"  {what:<11}{len(names):>5} tensors  {', '.join(parts)}")
  return "\n".join(lines)


def _manager(folder: pathlib.Path, **options: Any) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(
      cleanup_tmp_directories=True, save_root_metadata=False, **options
    ),
  )


def _save_arguments(items: Mapping[str, Tree]) -> ocp.args.Composite:
  return ocp.args.Composite(
    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()}
  )


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
  """The step folders in `folder`, newest first."""
  if not folder.is_dir():
    return []
  steps = [step for step in folder.iterdir() if step.name.isdigit()]
  return sorted(steps, key=lambda step: int(step.name), reverse=True)


def _read_model_json(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / "model.json"
  if not path.is_file():
    raise ValueError(f"{path} is missing: {folder} is no model directory")
  content = json.loads(path.read_text())
  if content.get("format") != FORMAT:
    raise ValueError(
      f"{path}: format must be {FORMAT}, got {content.get('format')}"
    )
  return content


def _fault(step: pathlib.Path, items: tuple[str, ...]) -> str | None:
  """What is wrong with the files of a checkpoint, None if it is whole.

  Reads everything once: Orbax itself answers a truncated file with a page of
  traceback for every array.
  """
  for item in items:
    try:
      _read_everything(step / item)
    except (OSError, ValueError) as error:
      return f"{item}: {str(error).splitlines()[0]}"
  return None


def _read_everything(item: pathlib.Path) -> None:
  json.loads((item / "_METADATA").read_text())
  store = tensorstore.KvStore.open(
    {"driver": "ocdbt", "base": f"file://{item}/"}
  ).result()
  keys = store.list().result()
  if not keys:
    raise ValueError(f"{item} holds no arrays")
  for read in [store.read(key) for key in keys]:
    read.result()


def _restore_state(folder: pathlib.Path, state: TrainState) -> TrainState:
  variables = _restore_item(folder / "variables", state.variables)
  training = {"step": state.step, "opt_state": state.opt_state}
  training = _restore_item(folder / "training", training)
  return TrainState(**variables, **training)


def _restore_item(
  item: pathlib.Path,
  wanted: Tree | None = None,
  place: jax.sharding.Sharding | None = None,
) -> Tree:
  """Restores one item of a step.

  Args:
    item: its folder.
    wanted: the tree expected, of arrays or shapes; None takes what there is,
      as NumPy arrays.
    place: where to put the arrays; None follows `wanted`.
  """
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    saved = reader.metadata(item).item_metadata.tree
    if wanted is None:
      as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
      arguments = jax.tree.map(lambda _: as_numpy, saved)
      return reader.restore(
        item, args=ocp.args.PyTreeRestore(restore_args=arguments)
      )
    _require_same_names(_flatten(saved), _flatten(wanted), str(item))
    arguments = jax.tree.map(
      lambda x: ocp.ArrayRestoreArgs(
        sharding=place or x.sharding, global_shape=x.shape, dtype=x.dtype
      ),
      wanted,
    )
    return reader.restore(
      item, args=ocp.args.PyTreeRestore(wanted, restore_args=arguments)
    )


def _flatten(tree: Tree) -> dict[str, Any]:
  """Leaves by names such as "params/backbone/conv/kernel"."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def _unflatten_like(tree: Tree, leaves: Mapping[str, Any]) -> Tree:
  return jax.tree.unflatten(
    jax.tree.structure(tree), [leaves[name] for name in _flatten(tree)]
  )


def _require_same_names(
  found: Mapping[str, Any], wanted: Mapping[str, Any], where: str
) -> None:
  """Raises one error that lists every difference of names and shapes."""
  faults = [f"missing: {name}" for name in wanted if name not in found]
  faults += [f"unexpected: {name}" for name in found if name not in wanted]
  faults += [
    f"wrong shape: {name} must be {tuple(x.shape)}, got "
    f"{tuple(found[name].shape)}"
    for name, x in wanted.items()
    if name in found and tuple(found[name].shape) != tuple(x.shape)
  ]
  if faults:
    raise ValueError(
      f"{where} is a checkpoint of another architecture; give the model it "
      "was trained with, another --workdir, or init_parts='backbone':\n  "
      + "\n  ".join(faults)
    )
