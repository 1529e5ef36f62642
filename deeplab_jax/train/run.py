"""The training run: set up, continue where it stopped, loop, evaluate."""

import contextlib
import dataclasses
import json
import math
import statistics
import time

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from deeplab_jax import checkpoints as checkpoints_lib
from deeplab_jax import config as config_lib
from deeplab_jax import peers, remote, runtime, sharding
from deeplab_jax.data.changes import Record, describe
from deeplab_jax.data.source import Dataset, open_dataset
from deeplab_jax.models import Classifier, DeepLab
from deeplab_jax.optimizer import make_optimizer
from deeplab_jax.runtime import StopRequest
from deeplab_jax.tasks import Task, find_task
from deeplab_jax.train import continuing, curves, lock
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.continuing import Change
from deeplab_jax.train.initialize import (
  check_start,
  starting_point,
  terms_of_use,
)
from deeplab_jax.train.progress import Progress
from deeplab_jax.train.records import Records
from deeplab_jax.train.saving import SavingTimes
from deeplab_jax.train.state import TrainState, initializer
from deeplab_jax.train.step import Metrics, TrainStep, make_train_step
from deeplab_jax.train.timeline import Timeline

# A loss is not believed so many times above the median of the first ones, or of
# 1: the worst that mislabelled images do to a good network is far below.
_FIRST, _EXPLODED = 100, 100


def train_and_evaluate(
  config: ConfigDict,
  workdir: remote.AnyPath | str,
  *,
  evaluating: bool = True,
  allow_changes: bool = False,
) -> float | None:
  """Trains what `config` describes, or continues what `workdir` holds.

  Args:
    config: see `config.base_config`; checked before anything else.
    workdir: a folder, created if missing, or an object store's address, such
      as gs://bucket/run; everything the run writes goes there.
    evaluating: False trains only.
    allow_changes: go on with what changes the meaning of the run, such as
      another model or other classes.

  Returns:
    The held-out mIoU, or top-1 accuracy, in 0..1 after the last step; None if
    that was not evaluated, or the run was told to stop before.

  Raises:
    ValueError: a wrong field, a missing file, weights of another architecture,
      another run that uses the workdir, or changes that are not allowed.
    FloatingPointError: the loss has exploded, or the gradient is not finite.
  """
  config_lib.check(config, jax.device_count())
  task = find_task(config)
  workdir = checkpoints_lib.local_path(workdir, writing=True)
  first = jax.process_index() == 0
  mesh = sharding.make_mesh(config.mesh_height)
  with contextlib.ExitStack() as stack, peers.telling():
    timeline = stack.enter_context(
      contextlib.closing(Timeline(workdir, writes=first))
    )
    timeline.note("imports", 0)
    stop = stack.enter_context(contextlib.closing(StopRequest()))
    still_held = stack.enter_context(lock.only_writer(workdir))
    changes = continuing.config_changes(workdir, config, allow_changes)
    found = continuing.told(changes)
    continuing.settle(workdir, found, allow_changes)  # before data is built
    if config.init_from and not continuing.has_begun(workdir):
      check_start(config)
    multilabel = config.task == "multilabel"
    dataset = open_dataset(config.data, multilabel=multilabel)
    data = describe(dataset)
    timeline.note("data", 0)
    peers.meets("the comparison of what all have for data")
    # Every process compares before the first of them may write.
    of_data = continuing.data_changes(workdir, data, allow_changes)
    found = continuing.told(changes, of_data)
    sharding.require_same(json.dumps(data), f"the data in {dataset.directory}")
    changed = continuing.settle(workdir, found, allow_changes)
    config_lib.check_classes(config, dataset.info.num_classes)
    given, config = config, config_lib.with_crop(config, dataset.train.largest)
    images = config_lib.image_arguments(dataset.info)
    model = config_lib.make_model(config, dataset.info.num_classes, **images)
    optimizer = make_optimizer(config)
    crop_size = config_lib.with_largest_crop(config).data.crop_size
    averaged = config.ema_decay > 0
    create = initializer(
      model, optimizer, crop_size, config.seed, mesh, averaged
    )
    checkpoints = stack.enter_context(
      contextlib.closing(
        Checkpoints(workdir, config.keep_checkpoints, still_held)
      )
    )
    state, origin = starting_point(
      create, checkpoints, config, task, dataset, model, mesh
    )
    step = int(state.step)
    timeline.note("restored", step)
    records = stack.enter_context(
      contextlib.closing(Records(workdir, step, task.score, writes=first))
    )
    run = _Run(
      given=given,
      config=config,
      task=task,
      workdir=workdir,
      evaluating=evaluating,
      mesh=mesh,
      dataset=dataset,
      model=model,
      checkpoints=checkpoints,
      records=records,
      timeline=timeline,
      progress=Progress(config.steps, step, visible=first),
      stop=stop,
      data=data,
      license=terms_of_use(workdir, config, dataset),
      changes=changes,
      first_step=step,
    )
    run.progress.say(f"{_summary(run, state)}\n{origin}")
    if changed:
      run.progress.say(changed)
    if advice := runtime.huge_pages_advice():
      run.progress.say(advice)
    with run.progress:
      loss = task.make_loss(config)
      train_step = make_train_step(model, loss, optimizer, config, mesh)
      state = _loop(run, state, train_step)
    checkpoints.wait()
    last = int(state.step)
    timeline.note("stop", last)
    if last > step and records.score(last) is None:
      _draw_curves(run)
    return _report(run, last)


@dataclasses.dataclass(frozen=True)
class _Run:
  """What one run has at hand, all of it fixed for its duration.

  `config` is the one `given`, with the crop that suits the data.
  """

  given: ConfigDict
  config: ConfigDict
  task: Task
  workdir: remote.AnyPath
  evaluating: bool
  mesh: Mesh
  dataset: Dataset
  model: DeepLab | Classifier
  checkpoints: Checkpoints
  records: Records
  timeline: Timeline
  progress: Progress
  stop: StopRequest
  data: Record
  license: str
  changes: list[Change]
  first_step: int

  def due(self, step: int, every: int) -> bool:
    """Whether `step` is the last, or one of those done every so many steps."""
    return step >= self.config.steps or (every > 0 and step % every == 0)

  def evaluates(self, step: int) -> bool:
    """Whether there is to be an evaluation after `step` updates."""
    if step == 0:
      return self.evaluating and self.config.eval_first
    return self.evaluating and self.due(step, self.config.eval_every)


def _write_descriptions(run: _Run) -> None:
  """Writes config.json, and model.json with the latest evaluation."""
  if jax.process_index() != 0:
    return
  continuing.write_config(run.workdir, run.given, run.changes, run.first_step)
  continuing.write_data(run.workdir, run.data)
  facts = dataclasses.asdict(run.dataset.info)
  names = ("name", "class_names", "colors", "ignore_label")
  crop_size = list(run.task.evaluation_size(run.config))
  checkpoints_lib.write_model_json(
    run.workdir,
    run.model,
    dataset={name: facts[name] for name in names},
    source=f"trained by deeplab_jax, init_from={run.config.init_from!r}",
    license=run.license,
    evaluation={"crop_size": crop_size, **run.records.last_evaluation()},
    **run.task.facts(run.records.evaluations, run.dataset.info.class_names),
  )


def _summary(run: _Run, state: TrainState) -> str:
  """What is trained on what, and where."""
  devices = run.mesh.devices.ravel()
  millions = sum(x.size for x in jax.tree.leaves(state.params)) / 1e6
  sources = run.dataset.train, run.dataset.eval
  sizes = [f"{len(source)} images in {source.split}" for source in sources]
  height, width = run.config.data.crop_size
  return (
    f"{len(devices)} x {devices[0].device_kind}, {jax.process_count()} process"
    f"(es); {run.model.backbone}, {millions:.2f} M parameters; "
    f"{run.dataset.info.name}: {', '.join(sizes)}; crops of {width} x {height}"
  )


def _loop(run: _Run, state: TrainState, train_step: TrainStep) -> TrainState:
  """Trains to the last step or until told to stop; saves either way."""
  config = run.config
  step = int(state.step)
  batches = run.task.train_batches(run.dataset, config, step)
  window = _Window(run, step)
  times = None  # of saves, where the config does not tell them
  if config.checkpoint_every == 0:
    times = SavingTimes(run.workdir, step, config.log_every)
  evaluating = _owes_evaluation(run, state, step)
  if evaluating or step < config.steps:
    run.timeline.begin()
  while True:
    if evaluating:
      going_on = _evaluate(run, state, step)
      run.timeline.note("evaluation", step)
      if not going_on:
        run.checkpoints.save(state)
        break
      window.restart_clock()
    if step >= config.steps:
      break
    began = time.monotonic()
    batch = next(batches)
    run.timeline.waiting(time.monotonic() - began)
    names = batch.pop("name")
    late = config.data.late_crop_step
    if step in (run.first_step, late or run.first_step):
      run.progress.say("compiling the training step ...")
    peers.meets(f"step {step + 1}")
    state, metrics = train_step(state, sharding.global_batch(batch, run.mesh))
    step += 1
    window.add(step, names, metrics)
    if step == run.first_step + 1:
      run.stop.training_began()
      _write_descriptions(run)
      jax.block_until_ready(metrics)
      run.timeline.note("compiled", step)
      window.restart_clock()
    elif late and step == late + 1:  # compiled anew
      jax.block_until_ready(metrics)
      window.restart_clock()
    run.progress.advance(step)
    run.checkpoints.check()
    stopping = run.stop.at(step)
    saving = stopping or run.due(step, config.checkpoint_every)
    if times is not None:
      saving = times.due(step) or saving
    evaluating = run.evaluates(step) and not stopping
    if run.due(step, config.log_every):
      window.log()
    if saving or evaluating:
      window.check()
    if saving or evaluating or run.due(step, config.log_every):
      run.timeline.note("steps", step)
    if saving:
      began = time.monotonic()
      run.records.flush()
      run.checkpoints.save(state)
      run.timeline.note("save", step)
      if times is not None:
        times.saved(step, time.monotonic() - began)
    if stopping:
      break
  return state


def _owes_evaluation(run: _Run, state: TrainState, step: int) -> bool:
  """Whether to evaluate before going on: the run may have been cut off after
  it saved `step` and before it evaluated. Cut off after that and before the
  best was saved, it saves that now."""
  score = run.records.score(step)
  if sharding.of_first_process(score is not None):
    run.checkpoints.save_best(state, score or 0.0)
    return False
  return run.evaluates(step)


def _evaluate(run: _Run, state: TrainState, step: int) -> bool:
  """Evaluates, draws, records, keeps the best; False if told to stop."""
  run.progress.say(f"step {step}: evaluating ...")
  figures = run.task.evaluate(
    run.model,
    state.shipped,
    run.config,
    dataset=run.dataset,
    mesh=run.mesh,
    should_stop=lambda: run.stop.received,
    picture=run.workdir / "pictures" / f"step_{step}.png",
  )
  if figures is None:
    return False
  score = figures[run.task.score]
  run.records.write(step, figures)
  _write_descriptions(run)
  _draw_curves(run)
  run.checkpoints.save_best(state, score)
  run.progress.result = f"{run.task.title} {score:.2%}"
  run.progress.say(f"step {step}: held-out {run.progress.result}")
  return True


def _draw_curves(run: _Run) -> None:
  if jax.process_index() == 0:
    curves.write(run.workdir, run.task)


def _report(run: _Run, step: int) -> float | None:
  """Says how the run ended and where things are; the last score, if any."""
  if step < run.config.steps:
    run.progress.say(
      f"stopped at step {step}, saved; the same command continues"
    )
    return None
  score = run.records.score(step)
  result = "not evaluated"
  if score is not None:
    result = f"held-out {run.task.title} {score:.2%}"
  names = ("curves.png", "pictures", "checkpoints", "best")
  paths = [run.workdir / name for name in names]
  there = "".join(f"\n{x.stem}: {x}" for x in paths if x.exists())
  run.progress.say(f"{result} after {step} steps{there}")
  return score


class _Window:
  """The latest steps, whose figures may still be on the device."""

  def __init__(self, run: _Run, step: int):
    self._run = run
    self._pending: list[tuple[int, list[str], Metrics]] = []
    self._latest: tuple[int, dict[str, float]] = (step, {})
    self._steps_timed = 0
    self._began = time.monotonic()
    # Those at the beginning of the run, wherever it continues now.
    losses = (row.get("train/loss") for row in run.records.rows)
    self._first_losses = [x for x in losses if x is not None][:_FIRST]

  def add(self, step: int, names: list[str], metrics: Metrics) -> None:
    """Takes a step just begun, once the one before has ended.

    The wait bounds the work queued on the device, and so the time to stop.
    """
    if self._pending:
      jax.block_until_ready(self._pending[-1][2])
    self._pending.append((step, names, metrics))
    self._steps_timed += 1

  def restart_clock(self) -> None:
    """Begins to time anew, after something that was not training."""
    self._steps_timed = 0
    self._began = time.monotonic()

  def log(self) -> None:
    """Records and shows the figures of the last step."""
    step, figures = self.check()
    seconds = time.monotonic() - self._began
    rate = None
    if self._steps_timed:  # none before the second step of this start
      rate = self._steps_timed * self._run.config.batch_size / seconds
      figures["images_per_second"] = rate
    self.restart_clock()
    values = {f"train/{name}": value for name, value in figures.items()}
    self._run.records.write(step, values)
    self._run.progress.show(step, figures["loss"], rate)

  def check(self) -> tuple[int, dict[str, float]]:
    """Fetches the figures of the last step; all since the last check, sound.

    Raises:
      FloatingPointError: naming the first step that is not, and its images.
    """
    for step, names, metrics in self._pending:
      self._latest = step, {k: float(v) for k, v in metrics.items()}
      self._require_sound(*self._latest, names)
    self._pending.clear()
    return self._latest

  def _require_sound(
    self, step: int, figures: dict[str, float], names: list[str]
  ) -> None:
    """Refuses figures that are not finite, or far above how the run began."""
    loss, gradient_norm = figures["loss"], figures["gradient_norm"]
    usual = statistics.median(self._first_losses or [loss])
    finite = math.isfinite(loss + gradient_norm)
    if finite and loss <= _EXPLODED * max(usual, 1):
      if len(self._first_losses) < _FIRST:
        self._first_losses.append(loss)
      return
    # The weights that gave this loss may be saved: they are no place to go on.
    newest = self._run.checkpoints.distrust(
      step - 1, f"no good: loss {loss:g} in the step after it"
    )
    folder = self._run.workdir / "checkpoints"
    kept = "there is no checkpoint before it"
    if newest is not None:
      kept = f"the checkpoint before it is of step {newest}, in {folder}"
    raise FloatingPointError(
      f"loss {loss:g}, gradient norm {gradient_norm:g} in step {step} at "
      f"learning rate {figures['learning_rate']:g}, images {', '.join(names)} "
      f"(the loss was {usual:g} when the run began): look at these, or lower "
      f"config.lr; {kept}"
    )
