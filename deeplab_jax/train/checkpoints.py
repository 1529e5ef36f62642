"""The checkpoints of a training run."""

import logging
import pathlib
import shutil
from typing import Any

import jax
from jax.experimental import multihost_utils

from deeplab_jax.checkpoints import items
from deeplab_jax.checkpoints.model_directory import local_path
from deeplab_jax.train.state import TrainState


class Checkpoints:
  """The checkpoints of one training run.

  Attributes:
    folder: the workdir.
  """

  def __init__(self, folder: pathlib.Path | str, keep: int):
    """Opens `folder`, keeping the `keep` newest steps and the best one."""
    self.folder = local_path(folder)
    self._recent = items.manager(self.folder / "checkpoints", max_to_keep=keep)
    self._best = items.manager(
      self.folder / "best",
      max_to_keep=1,
      best_fn=lambda metrics: metrics["score"],
    )

  def save(self, state: TrainState) -> None:
    """Begins to save `state`, unless its step is saved already."""
    step = int(state.step)
    if step in self._recent.all_steps():
      return
    self._recent.save(
      step,
      args=items.to_save(variables=state.variables, training=_training(state)),
    )

  def save_best(self, state: TrainState, score: float) -> None:
    """Begins to save the variables if `score` is the highest so far."""
    self._best.wait_until_finished()  # or the last score cannot be read yet
    best = self._best.best_step()
    if best is None or score > self._best.metrics(best)["score"]:
      self._best.save(
        int(state.step),
        args=items.to_save(variables=state.variables),
        metrics={"score": float(score)},
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
      fault = items.fault(folder, "variables", "training")
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
    multihost_utils.sync_global_devices("put_aside")
    self._recent.reload()

  def wait(self) -> None:
    """Returns when every save so far is on disk; raises what failed."""
    self._recent.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits for the saves and stops their threads."""
    self._recent.close()
    self._best.close()


def _training(state: TrainState) -> dict[str, Any]:
  """What only training needs of a state: the item beside `variables`."""
  return {"step": state.step, "opt_state": state.opt_state}


def _restore_state(folder: pathlib.Path, state: TrainState) -> TrainState:
  variables = items.restore(folder / "variables", state.variables)
  training = items.restore(folder / "training", _training(state))
  return TrainState(**variables, **training)
