"""Kills a run again and again, continues it, and compares how it ends.

  python -m tests.programs.kill_and_continue FOLDER KILLS \
    [--processes 2] [--store gs|s3] [--minutes M]

The run is that of `small_run`, of one process or several, in FOLDER or in an
emulated object store with faults of the network. Each process is a fork of this
one, which has imported everything and computed nothing. Kills come at the run's
calls to the disk or soon after, and at any time; of several processes they hit
one, and the others have to end by themselves, or all. With a store, what the
machine has is lost with every other kill. It prints how many kills there were
in each phase of the process that was hit.
"""

import argparse
import atexit
import collections
import contextlib
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
from typing import NamedTuple

from deeplab_jax import peers, remote, runtime
from deeplab_jax.train import checkpoints, continuing, run, timeline
from tests import processes, stores
from tests.programs.small_run import STEPS, outcome, train

_CALLS = 150  # about as many as a whole run makes to the disk
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
# Seconds: processes are thought lost sooner than in earnest, and end within
# _BOUND of another one's end.
peers.SILENCE, peers._EVERY, peers._GRACE = 10.0, 0.25, 0.5
_BOUND = 40.0
_LOG = "DEEPLAB_KILLS_LOG"  # in the environment, a file
_FAULTS = {"unavailable": 0.02, "slow": 0.02, "torn": 0.02}
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
_FIRST_PHASE = "starting, checking the config"


class _Kill(NamedTuple):
  """When a process is killed.

  Attributes:
    index: which process; -1 is none.
    event: at which of its calls to the disk; 0 is at any time.
    delay: so many seconds later.
    all: whether the others are killed with it.
  """

  index: int = -1
  event: int = 0
  delay: float = 0.0
  all: bool = False


_NONE = _Kill()


class _Runs(NamedTuple):
  """What all starts have in common.

  Attributes:
    processes: of how many.
    folder: of this machine, with the data.
    place: where workdirs are.
  """

  processes: int
  folder: pathlib.Path
  place: remote.AnyPath

  def start(
    self, workdir: remote.AnyPath, best: int, kill: _Kill = _NONE
  ) -> tuple[list[int], str]:
    """A start of the run; all statuses, and the phase of the one killed."""
    reader, writer = os.pipe()
    joined = [{}]
    if self.processes > 1:
      joined = processes.joined(self.processes)

    def child(index):
      os.environ.update(joined[index])
      if self.processes > 1:
        runtime.start_runtime()
      if index == kill.index:
        _tell_phases(writer)
        _kill_at(kill)
      with peers.watched():
        train(workdir, best, self.folder / "data")
      atexit._run_exitfuncs()  # where processes wait for each other

    children = [
      _fork(functools.partial(child, index)) for index in range(self.processes)
    ]
    os.close(writer)
    statuses = _wait_for(children, kill)
    told = os.read(reader, 1 << 16)
    os.close(reader)
    return statuses, PHASES[told[-1]] if told else _FIRST_PHASE

  def outcome(self, workdir: remote.AnyPath) -> dict:
    """All that the run has left, which is then removed.

    In a fork: after computations, and what tensorstore does, none can be made.
    """
    path = self.folder / "outcome.json"

    def note():
      here = self.folder / "here"
      shutil.rmtree(here, ignore_errors=True)
      path.write_text(json.dumps(outcome(workdir, here)))
      _remove(workdir)

    assert _wait_for([_fork(note)], _NONE) == [0]
    return json.loads(path.read_text())

  def undisturbed(self, best: int) -> dict:
    """How such a run ends."""
    workdir = self.place / f"run_whole_{best}"
    statuses, _ = self.start(workdir, best)
    assert not any(statuses), statuses
    found = self.outcome(workdir)
    assert f"best/{best}/variables/params/kernel" in found["trees"]
    return found


def _wait_for(children: list[int], kill: _Kill) -> list[int]:
  """How they end; those left by a kill have to, in bounded time."""
  statuses, until = {}, None
  while len(statuses) < len(children):
    for index, child in enumerate(children):
      if index not in statuses:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
          statuses[index] = status
          until = until or time.monotonic() + _BOUND
          if kill.all and status == signal.SIGKILL:
            for other in children:
              with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
    if until is not None and time.monotonic() > until:
      left = set(range(len(children))) - statuses.keys()
      for index in left:
        os.kill(children[index], signal.SIGKILL)
      raise AssertionError(f"{left} did not end after {statuses}, {kill}")
    time.sleep(0.005)
  return [statuses[index] for index in range(len(children))]


def _fork(function) -> int:
  """Runs `function` in a fork, which prints to _LOG; gives its id."""
  child = os.fork()
  if child == 0:
    status = 1
    try:
      log = os.open(os.environ[_LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
      os.dup2(log, 1)
      os.dup2(log, 2)
      function()
      status = 0
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(status)
  return child


def _kill_at(kill: _Kill) -> None:
  """Has this process killed.

  Calls to the disk are those of Python that open or change something of the
  run.
  """
  if not kill.event:
    _kill_in(kill.delay)
    return
  seen = 0

  def note(name, arguments):
    nonlocal seen
    if name not in _EVENTS:
      return
    if not any(x in str(arguments[0]) for x in ("/run", "/workdirs/")):
      return
    seen += 1
    if seen == kill.event:
      if not kill.delay:
        os.kill(os.getpid(), signal.SIGKILL)
      _kill_in(kill.delay)

  sys.addaudithook(note)


def _kill_in(seconds: float) -> None:
  timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
  timer.daemon = True
  timer.start()


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


def _remove(workdir: remote.AnyPath) -> None:
  if isinstance(workdir, remote.Address):
    for name in workdir.below():
      (workdir / name).unlink()
  else:
    shutil.rmtree(workdir)


def _draw(chance: random.Random, count: int, seconds: float) -> _Kill:
  """A kill of one of `count` processes of a run that takes some seconds."""
  index, every = chance.randrange(count), chance.random() < 0.3
  if chance.random() < 0.4:
    return _Kill(index, 0, chance.uniform(0, seconds), every)
  delay = chance.choice([0, chance.uniform(0, 0.02)])
  return _Kill(index, chance.randrange(1, _CALLS), delay, every)


def main(runs: _Runs, kills: int, until: float) -> None:
  """Raises AssertionError if a run that was killed ends in another way.

  Args:
    runs: what is killed.
    kills: how often; each run is killed until that is enough.
    until: when, of `time.monotonic`, no more are made.
  """
  chance, bests = random.Random(0), (2, STEPS)
  began = time.monotonic()
  whole = {best: runs.undisturbed(best) for best in bests}
  seconds = (time.monotonic() - began) / 2  # that a start takes; learnt
  workdir, done, ended = runs.place / "run_killed", 0, 0
  phases, under_way = collections.Counter(), False
  while (done < kills and time.monotonic() < until) or under_way:
    best, under_way = bests[ended % 2], True
    # Once there have been enough, the last run may end.
    enough = done >= kills or time.monotonic() > until
    kill = _NONE if enough else _draw(chance, runs.processes, seconds)
    began = time.monotonic()
    statuses, phase = runs.start(workdir, best, kill)
    if signal.SIGKILL in statuses:
      done += 1
      phases[phase] += 1
      if done % 2 and isinstance(workdir, remote.Address):
        shutil.rmtree(os.environ["DEEPLAB_CACHE"], ignore_errors=True)
      continue
    assert not any(statuses), (statuses, kill)
    seconds = time.monotonic() - began
    assert runs.outcome(workdir) == whole[best], (ended, done)
    ended, under_way = ended + 1, False
  for phase, count in phases.most_common():
    print(f"{count:>5}  {phase}")
  print(f"{done} kills, {ended} runs ended alike", flush=True)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path, help="for all that is made")
  parser.add_argument("kills", type=int)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--store", choices=stores.SCHEMES, default="")
  parser.add_argument("--minutes", type=float, default=float("inf"))
  return parser.parse_args()


if __name__ == "__main__":
  began, flags = time.monotonic(), _parse()
  folder = flags.folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  os.environ["DEEPLAB_CACHE"] = str(folder / "cache")
  os.environ[_LOG] = str(folder / "log.txt")
  with contextlib.ExitStack() as stack:
    place = folder
    if flags.store:
      served = stack.enter_context(stores.serve(flags.store))
      os.environ |= served.environment
      stores.set_faults(served, **_FAULTS)
      place = remote.Address(f"{flags.store}://bucket")
    runs = _Runs(flags.processes, folder, place)
    main(runs, flags.kills, began + 60 * flags.minutes)
  print(f"{time.monotonic() - began:.0f} s")
