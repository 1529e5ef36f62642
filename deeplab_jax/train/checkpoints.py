"""The checkpoints of a training run.

The first process saves: the state is the same in all of them. For a run in an
object store it saves to a folder of its machine, and puts steps from there into
the store before they count as saved. Every process then restores from a copy of
its own: machines need not share a disk.
"""

import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from deeplab_jax import remote, sharding
from deeplab_jax.checkpoints import items, wholeness
from deeplab_jax.checkpoints.fetching import Mirror
from deeplab_jax.checkpoints.model_directory import local_path, way_out
from deeplab_jax.sharding import of_first_process
from deeplab_jax.train.state import TrainState

_FIRST_SAYS = "the first process says why"


class Checkpoints:
  """The checkpoints of one training run.

  Attributes:
    folder: the workdir.
  """

  def __init__(
    self,
    folder: remote.AnyPath | str,
    keep: int,
    still_held: Callable[[], None] = lambda: None,
  ):
    """Opens `folder`, keeping the `keep` newest steps and the best one.

    Args:
      folder: the workdir.
      keep: how many steps.
      still_held: raises if the workdir has become another run's.

    Raises:
      OSError: the best one cannot be read.
    """
    self.folder = local_path(folder, writing=True)
    self._keep, self._still_held = keep, still_held
    self._here, self._mirror = self.folder, None
    first = jax.process_index() == 0
    if isinstance(self.folder, remote.Address):
      self._mirror = Mirror(self.folder, jax.process_index())
      self._here = self._mirror.folder
      for kind in ("checkpoints", "best"):
        self._mirror.open(kind, writes=first)
    self._saves = first
    self._recent = self._manager("checkpoints", max_to_keep=keep)
    for step, fault in self._faults("best", "variables", "metrics"):
      if fault is not None:
        self._put_aside(step, f"not whole ({fault})")
    self._best = self._manager(
      "best", max_to_keep=1, best_fn=lambda metrics: metrics["score"]
    )
    if self._best is not None:
      for step in self._best.all_steps():  # A killed run may leave the former.
        if step != self._best.best_step():
          self._delete_best(step)

  def _manager(self, kind: str, **options: Any) -> Any:
    """Orbax's manager of a folder; None where another process saves."""
    if not self._saves:
      return None
    publish = None
    if self._mirror is not None:

      def publish(step: pathlib.Path, name: str) -> None:
        self._still_held()
        self._mirror.publish(step, kind, name)
        kept = self._keep if kind == "checkpoints" else 1
        found = self._mirror.steps(kind)
        for old in sorted(found, key=lambda x: x.name != name)[kept:]:
          self._mirror.remove(kind, old.name)

    return items.manager(self._here / kind, publish, **options)

  def _delete_best(self, step: int) -> None:
    self._best.delete(step)
    if self._mirror is not None:
      self._mirror.remove("best", str(step))

  def save(self, state: TrainState) -> None:
    """Begins to save `state`, unless its step is saved already.

    What is the best so far is then on disk: a run that continues from this step
    cannot have lost it.
    """
    if not self._saves:
      return
    step = int(state.step)
    self._best.wait_until_finished()
    if step in self._recent.all_steps():
      return
    self._recent.save(
      step,
      args=self._to_save(variables=state.shipped, training=_training(state)),
    )

  def _to_save(self, **trees: Any) -> Any:
    several = jax.process_count() > 1
    return items.to_save(**(items.of_this_process(trees) if several else trees))

  def save_best(self, state: TrainState, score: float) -> None:
    """Begins to save the variables if `score` is the highest so far."""
    better, step = False, int(state.step)
    if self._saves:
      self._best.wait_until_finished()  # or the last score cannot be read yet
      best = self._best.best_step()
      better = best is None or score > self._best.metrics(best)["score"]
    if of_first_process(better and not math.isnan(score)) and self._saves:
      if step in self._best.all_steps():  # Trained again, with another outcome.
        self._delete_best(step)
      self._best.save(
        step,
        args=self._to_save(variables=state.shipped),
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
    for step, fault in self._faults("checkpoints", "variables", "training"):
      restored = None
      if fault is None:
        restored, fault = self._restored(step, state)
      if restored is not None:
        for broken, reason in faults.items():
          self._put_aside(broken, f"not whole ({reason})")
        if self._saves:
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

  def _restored(
    self, step: pathlib.Path, state: TrainState
  ) -> tuple[TrainState | None, str | None]:
    """The state of a step, or None and what is wrong with its files.

    Processes that went on from different steps would sum what does not belong
    together: all take what the first one takes, or the run ends.

    Raises:
      OSError: another process cannot restore what the first one can.
      ValueError: processes have different files of this step.
    """
    restored, fault = None, None
    try:
      restored = _restore_state(step, state)
    except items.CannotRestoreError as error:
      fault = str(error)
    if not of_first_process(restored is not None):
      return None, fault or _FIRST_SAYS
    if restored is None:
      raise OSError(
        f"{step} can be restored by the first process and not by this one, "
        f"process {jax.process_index()}: {fault}; give all of them the same "
        "--workdir, on a disk that they share or in an object store"
      )
    sharding.require_same(wholeness.identity(step), f"checkpoint {step}")
    return restored, None

  def distrust(self, step: int, fault: str) -> int | None:
    """Puts the checkpoint of `step` aside, if there is one.

    Args:
      step: of the state that turned out bad.
      fault: one line.

    Returns:
      the newest step that stays, None without one.
    """
    self.wait()
    found = self._saves and step in self._recent.all_steps()
    if of_first_process(found):
      self._put_aside(self._here / "checkpoints" / str(step), fault)
      if self._saves:
        self._recent.reload()
    newest = self._recent.latest_step() if self._saves else None
    newest = of_first_process(-1 if newest is None else newest)
    return None if newest < 0 else newest

  def _put_aside(self, step: pathlib.Path, fault: str) -> None:
    """Moves a broken step into `broken/`, so that it can be saved anew."""
    if jax.process_index() == 0:
      kind = step.parent.name
      name = f"best_{step.name}" if kind == "best" else step.name
      target = self.folder / "broken" / name
      count = 1
      while target.exists():
        count += 1
        target = target.with_name(f"{name}_{count}")
      if self._mirror is not None:
        self._mirror.put_aside(kind, step.name, target)
      else:
        target.parent.mkdir(exist_ok=True)
        step.rename(target)
      logging.warning(
        "checkpoint %s is %s; moved to %s", step.name, fault, target
      )
    elif self._mirror is not None:
      shutil.rmtree(step, ignore_errors=True)
    multihost_utils.sync_global_devices("put_aside")

  def check(self) -> None:
    """Raises what a save that has ended failed with; does not wait for any."""
    for manager in (self._recent, self._best) if self._saves else ():
      if not manager.is_saving_in_progress():
        manager.wait_until_finished()

  def wait(self) -> None:
    """Returns, in all processes, when every save so far is on disk.

    Raises:
      Exception: what one failed with, in the process that saves.
    """
    if self._saves:
      self._recent.wait_until_finished()
      self._best.wait_until_finished()
    of_first_process(True)  # which has waited

  def close(self) -> None:
    """Waits for the saves and stops their threads."""
    if self._saves:
      self._recent.close()
      self._best.close()
    if self._mirror is not None:
      self._mirror.close()

  def _faults(
    self, kind: str, *names: str
  ) -> Iterator[tuple[pathlib.Path, str | None]]:
    """The steps in `kind`, newest first, with what is wrong with them.

    The first process looks and tells the others, so that they do not go apart.
    """
    first = jax.process_index() == 0
    steps = wholeness.steps(self.folder / kind) if first else []
    for index in range(of_first_process(len(steps))):
      number = int(steps[index].name) if first else 0
      step = self._here / kind / str(of_first_process(number))
      fault = self._fault(step, names) if first else None
      whole = of_first_process(fault is None)
      if whole and not first and self._mirror is not None:
        self._fetch(step, names)
      yield step, None if whole else fault or _FIRST_SAYS

  def _fault(self, step: pathlib.Path, names: tuple[str, ...]) -> str | None:
    """What is wrong with a step, which is brought here first."""
    if self._mirror is not None:
      try:
        self._mirror.fetch(step.parent.name, step.name)
      except FileNotFoundError as error:
        return f"{pathlib.PurePath(error.filename).name} is missing"
    return wholeness.fault(step, *names)

  def _fetch(self, step: pathlib.Path, names: tuple[str, ...]) -> None:
    """Brings here what the first process has found whole."""
    if step.parent.name == "checkpoints":  # only the first needs the best
      fault = self._fault(step, names)
      if fault is not None:
        raise OSError(f"{self.folder}: {step.name} came here damaged: {fault}")


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
