"""Events of runs, added up: every second goes to one part."""

import dataclasses
import itertools
from collections.abc import Sequence

from deeplab_jax.train.timeline import Event

PARTS = (
  *("useful steps", "start-up", "compile", "restore", "waiting for data"),
  *("blocking saves", "evaluation", "steps done again", "down time"),
)
"""What wall time is divided into. Down time is that between the last event of a
start and the next start: also what a run did after its last event before it was
cut off, of which there is no trace."""

_USEFUL, _AGAIN, _DOWN = PARTS[0], PARTS[7], PARTS[8]
# What the time before each event was for. Restoring is also making a new state;
# the first step is compiling; in the end a run waits for its saves.
_FOR = {
  "imports": "start-up",
  "data": "start-up",
  "restored": "restore",
  "compiled": "compile",
  "waited": "waiting for data",
  "steps": _USEFUL,
  "save": "blocking saves",
  "evaluation": "evaluation",
  "stop": "blocking saves",
}


@dataclasses.dataclass(frozen=True)
class Account:
  """Where the time went.

  Attributes:
    parts: seconds by `PARTS`, which add up to `wall`.
    wall: seconds from the first start to the last event.
    starts: how often a run was started.
    cut_off: how many starts before the last did not end by themselves.
    step: the last step done.
    again: steps that were done more than once.
  """

  parts: dict[str, float]
  wall: float
  starts: int
  cut_off: int
  step: int
  again: int


def account(events: Sequence[Event]) -> Account:
  """Adds up the events of a workdir, as `timeline.read` gives them."""
  runs = _runs(events)
  parts = dict.fromkeys(PARTS, 0.0)
  again = 0
  for index, run in enumerate(runs):
    kept = min(
      (_first_step(later) for later in runs[index + 1 :]), default=None
    )
    for before, event in itertools.pairwise(run):
      seconds = event.at - before.at
      lost = _lost(before, event, kept)
      part = _FOR[event.event]
      if part == _USEFUL and event.step > before.step:
        share = lost / (event.step - before.step)
        parts[_AGAIN] += share * seconds
        seconds -= share * seconds
      again += lost
      parts[part] += seconds
    if index + 1 < len(runs):
      # Clocks of two machines may differ: time never runs backwards.
      parts[_DOWN] += max(0.0, runs[index + 1][0].at - run[-1].at)
  return Account(
    parts=parts,
    wall=sum(parts.values()),
    starts=len(runs),
    cut_off=sum(run[-1].event != "stop" for run in runs[:-1]),
    step=runs[-1][-1].step,
    again=again,
  )


def _runs(events: Sequence[Event]) -> list[list[Event]]:
  """The events by start, the starts in order."""
  runs: dict[str, list[Event]] = {}
  for event in events:
    runs.setdefault(event.run, []).append(event)
  for run in runs.values():
    run.sort(key=lambda event: event.at)
  return sorted(runs.values(), key=lambda run: run[0].at)


def _first_step(run: list[Event]) -> int:
  """The step that a start went on from; a huge one if it did not get there."""
  steps = [event.step for event in run if event.event == "restored"]
  return steps[0] if steps else 2**62


def _lost(before: Event, event: Event, kept: int | None) -> int:
  """How many of the steps between two events a later start did again."""
  if kept is None or event.event not in ("steps", "compiled"):
    return 0
  return max(0, event.step - max(before.step, kept))
