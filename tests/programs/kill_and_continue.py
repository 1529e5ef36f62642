"""Kills a run again and again, continues it, and compares how it ends.

  python -m tests.programs.kill_and_continue FOLDER KILLS

The loop, records, checkpoints, pictures and restarts are the real ones; the
network is a sum, so that a start takes a fraction of a second. Each run is a
fork of this process, which has imported everything and computed nothing. Kills
come at the run's calls to the disk or soon after, and at any time. It prints
how many there were in each phase of a run.
"""

import collections
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax import atomic, remote
from deeplab_jax.checkpoints import items, wholeness
from deeplab_jax.config import base_config
from deeplab_jax.models import DeepLab
from deeplab_jax.tasks import SEGMENTATION
from deeplab_jax.train import checkpoints, continuing, run, timeline
from deeplab_jax.train.state import TrainState

STEPS = 6
_SCORES = {0: 0.1, 2: 0.6, 4: 0.3, 6: 0.5}
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
# What begins when an event of the run is over, or a function is called.
_AFTER = {
  "start": "setting up",
  "imports": "opening data",
  "data": "restoring",
  "restored": "before the first step",
  "compiled": "steps",
  "steps": "steps",
  "waited": "steps",
  "save": "steps, while it is saved",
  "evaluation": "steps, while it is saved",
  "stop": "ending",
}
_BEGUN = (
  (checkpoints.Checkpoints, "save", "beginning to save"),
  (checkpoints.Checkpoints, "save_best", "beginning to save the best"),
  (checkpoints.Checkpoints, "wait", "waiting for the last save"),
  (continuing, "write_config", "writing descriptions"),
  (run, "_evaluate", "evaluation"),
  (run, "_draw_curves", "drawing curves"),
)
PHASES = tuple(dict.fromkeys((*_AFTER.values(), *(x[2] for x in _BEGUN))))


def _state() -> TrainState:
  leaf = jnp.arange(600.0).reshape(20, 30)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params={"kernel": leaf},
    batch_stats={"mean": leaf[0]},
    opt_state=({"momentum": leaf},),
  )


def _train_step(state: TrainState, batch):
  shift = batch["image"].sum()
  params = {"kernel": state.params["kernel"] + shift}
  figures = ("loss", "gradient_norm", "learning_rate")
  state = state.replace(step=state.step + 1, params=params)
  return state, dict.fromkeys(figures, 1.0 / shift)


def _batches(dataset, config, step: int):
  while True:
    step += 1
    yield {"name": [str(step)], "image": np.full((1, 2), step, np.float32)}


def _evaluate(scores, model, variables, config, *, picture, **_):
  atomic.write_bytes(
    picture, np.asarray(variables["params"]["kernel"]).tobytes()
  )
  step = int(picture.stem.removeprefix("step_"))
  return {"eval/miou": scores[step]}


def train(workdir: remote.AnyPath, best: int, data: pathlib.Path) -> None:
  """A run whose best step is `best`: the real one around a small network."""
  config = base_config()
  config.update(steps=STEPS, eval_every=2, checkpoint_every=1, log_every=1)
  config.update(batch_size=1, keep_checkpoints=1, eval_first=True)
  config.data.update(name="shapes", data_dir=str(data))
  scores = _SCORES | {best: 0.9}
  task = SEGMENTATION._replace(
    train_batches=_batches,
    evaluate=lambda *args, **options: _evaluate(scores, *args, **options),
  )
  run.find_task = lambda _: task
  run.initializer = lambda *_: jax.jit(_state)
  run.config_lib.make_model = lambda *_, **images: DeepLab(21, **images)
  run.make_optimizer = lambda *_: None
  run.make_train_step = lambda *_: _train_step
  run._summary = lambda *_: ""
  run.train_and_evaluate(config, workdir)


def in_child(function) -> int:
  """Runs `function` in a fork; gives the status as `os.waitpid` does."""
  child = os.fork()
  if child == 0:
    status = 1
    try:
      silent = os.open(os.devnull, os.O_WRONLY)
      os.dup2(silent, 1)
      function()
      status = 0
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(status)
  return os.waitpid(child, 0)[1]


def _killed_at(event: int, delay: float, counter: pathlib.Path | None = None):
  """Kills this process so many seconds after the `event`-th call to the disk.

  Calls are those of Python that open or change something of the run.
  """
  seen = 0

  def note(name, arguments):
    nonlocal seen
    if name not in _EVENTS or "/run" not in str(arguments[0]):
      return
    seen += 1
    if counter is not None:
      os.write(counter, b".")
    if seen == event:
      if not delay:
        os.kill(os.getpid(), signal.SIGKILL)
      kill = os.kill, (os.getpid(), signal.SIGKILL)
      threading.Timer(delay, *kill).start()

  sys.addaudithook(note)


def _tell_phases(writer: int) -> None:
  """Writes the number of each phase, one byte, when it begins."""

  def tell(phase):
    os.write(writer, bytes([PHASES.index(phase)]))

  def telling(function, phase):
    @functools.wraps(function)
    def call(*args, **kwargs):
      tell(phase)
      return function(*args, **kwargs)

    return call

  for place, name, phase in _BEGUN:
    setattr(place, name, telling(getattr(place, name), phase))
  note = timeline.Timeline._note

  def note_and_tell(self, event, step, at):
    note(self, event, step, at)
    tell(_AFTER[event])

  timeline.Timeline._note = note_and_tell


def _outcome(workdir: pathlib.Path) -> dict:
  """All that a run leaves, the clock apart; in a fork, as it computes."""
  trees = {}
  kinds = {"checkpoints": ("variables", "training"), "best": ("variables",)}
  for kind, names in kinds.items():
    # A kill may leave an old checkpoint beside the newest one.
    newest = 1 if kind == "checkpoints" else None
    for step in wholeness.steps(workdir / kind)[:newest]:
      assert wholeness.fault(step, *names) is None
      for name in names:
        tree = items.flatten(items.restore(step / name))
        trees |= {
          f"{kind}/{step.name}/{name}/{leaf}": np.asarray(x).tolist()
          for leaf, x in tree.items()
        }
  rows = [
    {k: v for k, v in json.loads(line).items() if "per_second" not in k}
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  pictures = {p.name: p.read_bytes().hex() for p in workdir.glob("pictures/*")}
  return {"trees": trees, "rows": rows, "pictures": pictures}


def _note_outcome(workdir: pathlib.Path) -> dict:
  path = workdir.parent / "outcome.json"
  assert in_child(lambda: path.write_text(json.dumps(_outcome(workdir)))) == 0
  return json.loads(path.read_text())


def _undisturbed(folder: pathlib.Path, best: int) -> tuple[dict, int]:
  """How such a run ends, and how often it calls to the disk."""
  workdir = folder / f"run_whole_{best}"
  reader, writer = os.pipe()

  def whole():
    _killed_at(0, 0, writer)
    train(workdir, best, folder / "data")

  assert in_child(whole) == 0
  calls = len(os.read(reader, 1 << 16))
  found = [step.name for step in wholeness.steps(workdir / "best")]
  assert found == [str(best)], found
  return _note_outcome(workdir), calls


def main(folder: pathlib.Path, kills: int) -> None:
  """Raises AssertionError if a run that was killed ends in another way."""
  chance, bests = random.Random(0), (2, STEPS)
  whole = {best: _undisturbed(folder, best) for best in bests}
  workdir, done, runs = folder / "run_killed", 0, 0
  phases = collections.Counter()
  seconds = 1.0  # that a start takes; learnt
  while done < kills or workdir.exists():
    best = bests[runs % 2]
    expected, calls = whole[best]
    # Once there have been enough, the last run may end.
    event = chance.randrange(1, calls) if done < kills else 0
    delay = chance.choice([0, chance.uniform(0, 0.02)])
    if event and chance.random() < 0.4:
      event, delay = 0, chance.uniform(0, seconds)
    reader, writer = os.pipe()

    def attempt(event=event, delay=delay, best=best, writer=writer):
      _tell_phases(writer)
      if event:
        _killed_at(event, delay)
      elif delay:
        kill = os.kill, (os.getpid(), signal.SIGKILL)
        threading.Timer(delay, *kill).start()
      train(workdir, best, folder / "data")

    began = time.monotonic()
    status = in_child(attempt)
    os.close(writer)
    told = os.read(reader, 1 << 16)
    os.close(reader)
    if status == signal.SIGKILL:
      done += 1
      phases[PHASES[told[-1]] if told else "checking the config"] += 1
      continue
    assert status == 0, status
    seconds = time.monotonic() - began
    assert _note_outcome(workdir) == expected, (runs, done)
    shutil.rmtree(workdir)
    runs += 1
  for phase, count in phases.most_common():
    print(f"{count:>5}  {phase}")
  print(f"{done} kills, {runs} runs ended alike", flush=True)


if __name__ == "__main__":
  began = time.monotonic()
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
  print(f"{time.monotonic() - began:.0f} s")
