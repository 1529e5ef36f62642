"""The checkpoints of a training run."""

import logging
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from deeplab_jax.checkpoints import items, wholeness
from deeplab_jax.checkpoints.model_directory import local_path, way_out
from deeplab_jax.sharding import of_first_process
from deeplab_jax.train.state import TrainState


class Checkpoints:
  """The checkpoints of one training run.

  Attributes:
    folder: the workdir.
  """

  def __init__(self, folder: pathlib.Path | str, keep: int):
    """Opens `folder`, keeping the `keep` newest steps and the best one.

    Raises:
      OSError: the best one cannot be read.
    """
    self.folder = local_path(folder, writing=True)
    self._recent = items.manager(self.folder / "checkpoints", max_to_keep=keep)
    for step, fault in _faults(self.folder / "best", "variables", "metrics"):
      if fault is not None:
        self._put_aside(step, f"not whole ({fault})")
    self._best = items.manager(
      self.folder / "best",
      max_to_keep=1,
      best_fn=lambda metrics: metrics["score"],
    )
    for step in self._best.all_steps():  # A killed run may leave the former.
      if step != self._best.best_step():
        self._best.delete(step)

  def save(self, state: TrainState) -> None:
    """Begins to save `state`, unless its step is saved already.

    What is the best so far is then on disk: a run that continues from this step
    cannot have lost it.
    """
    step = int(state.step)
    self._best.wait_until_finished()
    if step in self._recent.all_steps():
      return
    self._recent.save(
      step,
      args=items.to_save(variables=state.shipped, training=_training(state)),
    )

  def save_best(self, state: TrainState, score: float) -> None:
    """Begins to save the variables if `score` is the highest so far."""
    self._best.wait_until_finished()  # or the last score cannot be read yet
    best, step = self._best.best_step(), int(state.step)
    better = best is None or score > self._best.metrics(best)["score"]
    if of_first_process(better and not math.isnan(score)):
      if step in self._best.all_steps():  # Trained again, with another outcome.
        self._best.delete(step)
      self._best.save(
        step,
        args=items.to_save(variables=state.shipped),
        metrics={"score": float(score)},
        force=True,
      )

  def restore_newest(self, state: TrainState) -> TrainState | None:
    """The newest whole checkpoint in the placement of `state`.

    Broken ones are reported and moved out of the way of saving them again.

    Args:
      state: arrays or `jax.ShapeDtypeStruct`s with their shardings.

    Returns:
      None if there is no checkpoint at all.

    Raises:
      OSError: one cannot be read, which does not say that it is broken.
      ValueError: none is whole, or it is of another architecture.
    """
    folder = self.folder / "checkpoints"
    faults = {}
    for step, fault in _faults(folder, "variables", "training"):
      try:
        restored = None if fault else _restore_state(step, state)
      except items.CannotRestoreError as error:
        restored, fault = None, str(error)
      if restored is not None:
        for broken, reason in faults.items():
          self._put_aside(broken, f"not whole ({reason})")
        self._recent.reload()
        return restored
      faults[step] = fault
    if not faults:
      return None
    found = "; ".join(f"{step.name}: {fault}" for step, fault in faults.items())
    raise ValueError(
      f"no checkpoint in {folder} is whole ({found}){way_out(self.folder)}; or "
      "begin anew with another --workdir"
    )

  def distrust(self, step: int, fault: str) -> int | None:
    """Puts the checkpoint of `step` aside, if there is one.

    Args:
      step: of the state that turned out bad.
      fault: one line.

    Returns:
      the newest step that stays, None without one.
    """
    self.wait()
    if step in self._recent.all_steps():
      self._put_aside(self.folder / "checkpoints" / str(step), fault)
      self._recent.reload()
    return self._recent.latest_step()

  def _put_aside(self, step: pathlib.Path, fault: str) -> None:
    """Moves a broken step into `broken/`, so that it can be saved anew."""
    if jax.process_index() == 0:
      of_best = step.parent.name == "best"
      name = f"best_{step.name}" if of_best else step.name
      target = self.folder / "broken" / name
      count = 1
      while target.exists():
        count += 1
        target = target.with_name(f"{name}_{count}")
      target.parent.mkdir(exist_ok=True)
      step.rename(target)
      logging.warning(
        "checkpoint %s is %s; moved to %s", step.name, fault, target
      )
    multihost_utils.sync_global_devices("put_aside")

  def wait(self) -> None:
    """Returns when every save so far is on disk; raises what failed."""
    self._recent.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits for the saves and stops their threads."""
    self._recent.close()
    self._best.close()


def _faults(
  folder: pathlib.Path, *names: str
) -> Iterator[tuple[pathlib.Path, str | None]]:
  """The steps in `folder`, newest first, with what is wrong with them.

  The first process looks and tells the others, so that they do not go apart.
  """
  first = jax.process_index() == 0
  steps = wholeness.steps(folder) if first else []
  for index in range(of_first_process(len(steps))):
    number = int(steps[index].name) if first else 0
    step = folder / str(of_first_process(number))
    fault = wholeness.fault(step, *names) if first else None
    whole = of_first_process(fault is None)
    yield step, None if whole else fault or "the first process says why"


def _training(state: TrainState) -> dict[str, Any]:
  """What only training needs of a state: the item beside `variables`.

  With an average, which is what `variables` then holds, also what it is of.
  """
  training = {"step": state.step, "opt_state": state.opt_state}
  if state.average is not None:
    training["trained"] = state.variables
  return training


def _restore_state(folder: pathlib.Path, state: TrainState) -> TrainState:
  shipped = items.restore(folder / "variables", state.shipped)
  training = items.restore(folder / "training", _training(state))
  if state.average is None:
    return TrainState(**shipped, **training)
  return TrainState(**training.pop("trained"), **training, average=shipped)
