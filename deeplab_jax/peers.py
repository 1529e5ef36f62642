"""The processes of a run watch each other.

A process that dies or hangs leaves the others in a sum that never comes. jax
ends them after some 100 seconds, in a stack trace of C++ that names nobody. So
each process leaves a sign of life every few seconds with jax's coordination
service, and looks at those of the others.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from deeplab_jax import messages, runtime

SILENCE = 40.0
"""Seconds without a sign of life after which a process counts as lost; jax ends
the others some seconds later."""

_KEY = "deeplab_jax/alive"
_EVERY = 2.0  # seconds
_GRACE = 5.0  # seconds for a process to tell of the same fault by itself
_NEVER = "deeplab_jax/never"  # a key that nobody sets
_PATIENCE = 20_000  # milliseconds to wait for it
_METHODS = (*("blocking_key_value_get", "key_value_set", "key_value_dir_get"),)
_FAILED, _DONE = "failed", "done"
_REMEDY = (
  "this process ends with it; the same command, in all processes, continues "
  "from the last checkpoint"
)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Ends this process soon after another one of its run has died or hung.

  It prints a line that names the other one, and exits with status 1. A mistake
  within the block ends this process at once, and so the others, instead of
  waiting for them as jax does when Python ends. Alone, it does nothing.
  """
  client = runtime.coordination(_METHODS) if jax.process_count() > 1 else None
  if client is None:
    yield
    return
  watch = _Watch(client)
  try:
    yield
  except Exception as error:
    watch.fail(error)
    raise
  # Until all processes have come here: jax waits for that when Python ends.
  atexit.register(watch.done)


class _Watch:
  """Signs of life: {process: "COUNT HOST PID", or "failed ...", or "done"}."""

  def __init__(self, client: Any):
    self._client, self._index = client, jax.process_index()
    self._name = f"on {socket.gethostname()}, pid {os.getpid()}"
    self._ended = threading.Event()
    self._ending = threading.Lock()
    self._seen: dict[int, tuple[str, float]] = {}
    self._names: dict[int, str] = {}  # of the others, as they signed
    self._heard = time.monotonic()  # of the service, which process 0 keeps
    for work in (self._run, self._listen, self._hold):
      threading.Thread(target=work, daemon=True).start()

  def _sign(self, text: str) -> None:
    key = f"{_KEY}/{self._index}"
    self._client.key_value_set(key, text, allow_overwrite=True)

  def _run(self) -> None:
    count = 0
    while not self._ended.is_set():
      count += 1
      try:
        self._sign(f"{count} {self._name}")
        signs = self._client.key_value_dir_get(_KEY)
      except Exception:  # the service is that of the first process
        if not self._ended.is_set():
          self._lost(0, "is gone")
        return
      self._heard = time.monotonic()
      self._look(dict(signs), self._heard)
      self._ended.wait(_EVERY)

  def _listen(self) -> None:
    """Ends this process if the service answers no more."""
    before = time.monotonic()
    while not self._ended.wait(_EVERY):
      now = time.monotonic()
      if now - before > SILENCE / 4:  # this process was held up, not the others
        self._seen.clear()
        self._heard = now
      before = now
      if now - self._heard > SILENCE:
        self._lost(0, f"was not heard of for {now - self._heard:.0f} s")

  def _hold(self) -> None:
    """Ends this process as soon as the service is gone.

    jax does so, too, in its own words: who waits for an answer is quicker.
    """
    while not self._ended.is_set():
      try:
        self._client.blocking_key_value_get(_NEVER, _PATIENCE)
      except Exception as error:
        if "DEADLINE_EXCEEDED" not in str(error) and not self._ended.is_set():
          self._lost(0, "is gone")

  def _look(self, signs: dict[str, str], now: float) -> None:
    for index in range(jax.process_count()):
      sign = signs.get(f"{_KEY}/{index}", "")
      if index == self._index or sign == _DONE:
        continue
      if sign.startswith(_FAILED):
        self._ended.wait(_GRACE)
        self._lost(index, f"has {sign}")
      if sign:
        self._names[index] = sign.partition(" ")[2]
      old, since = self._seen.get(index, (None, now))
      self._seen[index] = sign, (since if sign == old else now)
      if sign == old and now - since > SILENCE:
        self._lost(index, f"was not heard of for {now - since:.0f} s")

  def _lost(self, index: int, what: str) -> None:
    """Ends this process as another one did."""
    name = self._names.get(index)
    where = f" ({name})" if name else ""
    count = jax.process_count()
    self._end(f"error: process {index} of {count}{where} {what}: {_REMEDY}")

  def fail(self, error: Exception) -> None:
    """Tells of an error of this process, here and to the others, and ends it.

    An error of a sum over processes may come of the end of another: that one
    will be named before long.
    """
    message = messages.explain(error)
    if message is None and isinstance(error, jax.errors.JaxRuntimeError):
      self._ended.wait(SILENCE + 2 * _GRACE)
    with contextlib.suppress(Exception):
      first = (message or repr(error)).splitlines()[0]
      self._sign(f"{_FAILED}: {messages.printable(first)[:500]}")
    text = f"error: {message}"
    if message is None:
      text = "".join(traceback.format_exception(error))
    self._end(text)

  def _end(self, text: str) -> NoReturn:
    self._ending.acquire()  # for good: the process ends once
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
    runtime.leave(1)

  def done(self) -> None:
    """Says that this process has ended as it should."""
    self._ended.set()
    with contextlib.suppress(Exception):
      self._sign(_DONE)
