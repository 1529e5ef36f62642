"""Notices that the machine is about to be taken away."""

import signal

import jax
from jax.experimental import multihost_utils


class StopRequest:
  """Whether SIGTERM asked this run, all its processes together, to stop.

  One process handles the signal itself. Of several, jax's preemption service
  catches it and has all of them agree on the step at which to stop.
  """

  def __init__(self):
    self._alone = jax.process_count() == 1
    self._received = False
    if self._alone:
      self._before = signal.signal(signal.SIGTERM, self._receive)

  def _receive(self, *_):
    self._received = True

  def at(self, step: int) -> bool:
    """Whether to stop after `step`; every process must ask at every step."""
    if self._alone:
      return self._received
    return multihost_utils.reached_preemption_sync_point(step)

  @property
  def received(self) -> bool:
    """Whether this process, if it is alone, has been told to stop."""
    return self._received

  def close(self) -> None:
    """Restores the signal's former handling."""
    if self._alone:
      signal.signal(signal.SIGTERM, self._before)
