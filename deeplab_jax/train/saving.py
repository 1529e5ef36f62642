"""How often to save, if the config leaves it to the run.

A save costs c seconds of training; a run that is cut off once in M seconds on
average loses half of the time between saves. Both together cost least where
that time is sqrt(2 c M), the first-order optimum of Young, "A first order
approximation to the optimum checkpoint interval"; Daly refined it where c is
not small beside M.
"""

import itertools
import math
import statistics
import time
from collections.abc import Iterator

from deeplab_jax import remote
from deeplab_jax.sharding import of_first_process
from deeplab_jax.train import timeline

# Failures that are counted before the first: the mean of their rate, by
# Jeffreys' prior. A run of which nothing is known saves soon, and ever less.
_UNSEEN = 0.5
_COST = 0.1  # seconds of a save before the first one, which tells
_LAST = 5  # saves of earlier starts that tell what one costs
# Seconds between saves, whatever is measured: a save goes on beside the steps
# after it, which no measured second tells.
_LEAST = 5.0


class SavingTimes:
  """The steps to save at; what is saved when changes no result."""

  def __init__(self, workdir: remote.AnyPath, step: int, log_every: int):
    """Begins after `step`, with what earlier starts in `workdir` tell.

    Args:
      workdir: of the run.
      step: the last one done.
      log_every: steps between looks at the clock.
    """
    self._log_every = log_every
    events = timeline.read(workdir)
    self._ran, self._failures = failures_before(events)
    self._cost = cost_before(events)
    self._began = time.monotonic()
    self._saved, self._next = step, None
    self._timed: tuple[int, float] | None = None

  def due(self, step: int) -> bool:
    """Whether to save after `step`; every process must ask at every step."""
    if self._timed is None:
      self._timed = step, time.monotonic()  # the step before was compiled
    elif step % self._log_every == 0 or self._next == step:
      first, began = self._timed
      seconds = (time.monotonic() - began) / (step - first)
      steps = interval(self._cost, self._between_failures) / max(seconds, 1e-9)
      steps = of_first_process(max(1, min(round(steps), 2**31 - 1)))
      self._next = self._saved + steps
    return self._next is not None and step >= self._next

  @property
  def _between_failures(self) -> float:
    ran = self._ran + time.monotonic() - self._began
    return max(ran, 1.0) / (self._failures + _UNSEEN)

  def saved(self, step: int, seconds: float) -> None:
    """Notes that `step` was saved, for which training stood still so long."""
    self._saved, self._next = step, None
    self._cost = max(seconds, (self._cost + seconds) / 2, 1e-3)


def interval(cost: float, between_failures: float) -> float:
  """Seconds between the ends of saves that cost least (Daly's equation 37).

  Args:
    cost: seconds of a save.
    between_failures: seconds, on average.
  """
  if cost >= 2 * between_failures:
    return max(_LEAST, between_failures)
  ratio = cost / (2 * between_failures)
  young = math.sqrt(2 * cost * between_failures)
  return max(_LEAST, young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost)


def failures_before(events: list[timeline.Event]) -> tuple[float, int]:
  """Seconds that earlier starts ran, and how many of these were cut off."""
  ran, failures = 0.0, 0
  for run in _starts(events):
    ran += run[-1].at - run[0].at
    failures += run[-1].event != "stop"
  return ran, failures


def cost_before(events: list[timeline.Event]) -> float:
  """Seconds for which a save held up earlier starts: a median of the last."""
  found = [
    (event.at, event.at - before.at)
    for run in _starts(events)
    for before, event in itertools.pairwise(run)
    if event.event == "save"
  ]
  costs = [seconds for _, seconds in sorted(found)[-_LAST:]]
  return max(statistics.median(costs), 1e-3) if costs else _COST


def _starts(events: list[timeline.Event]) -> Iterator[list[timeline.Event]]:
  """The events of each start, in order."""
  by_run = sorted(events, key=lambda event: event.run)
  for _, run in itertools.groupby(by_run, key=lambda event: event.run):
    yield sorted(run, key=lambda event: event.at)
