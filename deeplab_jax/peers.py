"""The processes of a run watch each other.

A process that dies or hangs leaves the others in a sum that never comes. jax
ends them after some 100 seconds, in a stack trace of C++ that names nobody. So
each process leaves a sign of life every few seconds with jax's coordination
service, and looks at those of the others. The sign tells which step it has
come to, of those that all of them compute together, so that one that waits for
ever, say for a disk, is named, too; but it is left alive, as what it waits for
may come.
"""

import atexit
import contextlib
import os
import re
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
_LATE = 120.0  # seconds that others wait for a process before they say so
_NEVER = "deeplab_jax/never"  # a key that nobody sets
_PATIENCE = 20_000  # milliseconds to wait for it
_METHODS = (*("blocking_key_value_get", "key_value_set", "key_value_dir_get"),)
_SUMS = re.compile(r"Gloo|NCCL|[Cc]oordination service")
_FAILED, _DONE = "failed", "done"
_watches: list["_Watch"] = []  # one within `watched`
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
  _watches.append(watch)
  try:
    yield
  except Exception as error:
    watch.fail(error)
    raise
  finally:
    _watches.remove(watch)
  # Until all processes have come here: jax waits for that when Python ends.
  atexit.register(watch.done)


@contextlib.contextmanager
def telling() -> Iterator[None]:
  """Tells the other processes of an error at once, before this one cleans up.

  That may take long, or for ever, where a disk or a store takes nothing more:
  this process ends in any case when others would think it lost. Alone, or not
  within `watched`, it does nothing.
  """
  try:
    yield
  except Exception as error:
    for watch in _watches:
      watch.tell(error)
    raise


def meets(where: str) -> None:
  """Notes that this process now computes something together with the others.

  Args:
    where: such as "step 3"; all processes come to the same in the same order.
  """
  for watch in _watches:
    watch.meets(where)


class _Watch:
  """Signs of life: {process: "COUNT MET NAME", or "failed ...", or "done"}.

  MET is how often the process has called `meets`.
  """

  def __init__(self, client: Any):
    # Asked once: a thread that asks jax when it has ended would start it anew.
    self._client, self._index = client, jax.process_index()
    self._count = jax.process_count()
    self._name = f"on {socket.gethostname()}, pid {os.getpid()}"
    self._meeting = 0, ""  # how many, and where the last one is
    self._last_word: str | None = None  # that this process signs
    self._signing = threading.Lock()
    self._ended = threading.Event()
    self._ending = threading.Lock()
    self._seen: dict[int, tuple[str, float]] = {}
    self._names: dict[int, str] = {}  # of the others, as they signed
    self._late: dict[int, tuple[int, float]] = {}  # meeting that waits, since
    self._heard = time.monotonic()  # of the service, which process 0 keeps
    for work in (self._run, self._listen, self._hold):
      threading.Thread(target=work, daemon=True).start()

  def meets(self, where: str) -> None:
    """See the function of this name."""
    self._meeting = self._meeting[0] + 1, where

  def _sign(self, text: str) -> None:
    key = f"{_KEY}/{self._index}"
    with self._signing:
      text = self._last_word or text
      self._client.key_value_set(key, text, allow_overwrite=True)

  def _run(self) -> None:
    count = 0
    while True:
      count += 1
      try:
        self._sign(f"{count} {self._meeting[0]} {self._name}")
        signs = self._client.key_value_dir_get(_KEY)
      except Exception:  # the service is that of the first process
        if not self._ended.is_set():
          self._lost(0, "is gone")
        return
      self._heard = time.monotonic()
      self._look(dict(signs), self._heard)
      time.sleep(_EVERY)

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
    for index in range(self._count):
      sign = signs.get(f"{_KEY}/{index}", "")
      if index == self._index or sign == _DONE:
        continue
      if sign.startswith(_FAILED):
        self._ended.set()  # what becomes of the service is no news
        time.sleep(_GRACE)
        self._lost(index, f"has {sign}")
      if sign:
        _, meetings, self._names[index] = sign.split(" ", 2)
        self._wait_for(index, int(meetings), now)
      old, since = self._seen.get(index, (None, now))
      self._seen[index] = sign, (since if sign == old else now)
      if sign == old and now - since > SILENCE:
        self._lost(index, f"was not heard of for {now - since:.0f} s")

  def _wait_for(self, index: int, meetings: int, now: float) -> None:
    """Says, once, if another one has long not come to where this one waits.

    That may be no fault: its data may be on the way, or a save.
    """
    own, where = self._meeting
    waiting, since = self._late.get(index, (0, now))
    if meetings >= own or waiting != own:
      self._late[index] = own, now
    elif now - since > _LATE:
      self._late[index] = waiting, float("inf")
      print(
        f"warning: {self._called(index)} has not come to {where}, where this "
        f"process has waited for it for {now - since:.0f} s",
        file=sys.stderr,
        flush=True,
      )

  def _called(self, index: int) -> str:
    name = self._names.get(index)
    where = f" ({name})" if name else ""
    return f"process {index} of {self._count}{where}"

  def _lost(self, index: int, what: str) -> None:
    """Ends this process as another one did."""
    self._say(f"error: {self._called(index)} {what}: {_REMEDY}")
    runtime.leave(1)

  def _say(self, text: str) -> None:
    """Says why this process ends, which it does once; others wait for ever."""
    self._ending.acquire()
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)

  def tell(self, error: Exception) -> None:
    """Tells of an error, unless that may come of the end of another process.

    Such is one of a sum over processes: the other will be named before long.
    """
    if not _of_a_sum(error):
      self._tell(error)

  def _tell(self, error: Exception) -> None:
    """Tells of an error, here and to the others; ends this process later."""
    message = messages.explain(error)
    text = f"error: {message}"
    if message is None:
      text = "".join(traceback.format_exception(error))
    first = (message or repr(error)).splitlines()[0]
    self._say(text)
    self._last_word = f"{_FAILED}: {messages.printable(first)[:500]}"
    with contextlib.suppress(Exception):
      self._sign(self._last_word)
    timer = threading.Timer(SILENCE - 2 * _GRACE, runtime.leave, (1,))
    timer.daemon = True
    timer.start()

  def fail(self, error: Exception) -> NoReturn:
    """Ends this process for an error, of which it tells unless it has."""
    if self._last_word is None:
      if _of_a_sum(error):
        time.sleep(SILENCE + 2 * _GRACE)
      self._tell(error)
    until = time.monotonic() + 2 * _EVERY + _GRACE
    # The first process keeps the service, of which the others learn it.
    while self._index == 0 and time.monotonic() < until and self._any_goes_on():
      time.sleep(_EVERY / 8)
    runtime.leave(1)

  def _any_goes_on(self) -> bool:
    """Whether another process has not failed by itself, as far as known.

    One that is done, too, waits for the others until Python ends.
    """
    with contextlib.suppress(Exception):
      signs = dict(self._client.key_value_dir_get(_KEY))
      return sum(x.startswith(_FAILED) for x in signs.values()) < self._count
    return True

  def done(self) -> None:
    """Says that this process has ended as it should.

    It looks at the others until all have: one may fail at the end.
    """
    self._ended.set()
    self._last_word = _DONE
    with contextlib.suppress(Exception):
      self._sign(_DONE)


def _of_a_sum(error: Exception) -> bool:
  """Whether an error may come of the end of another process."""
  if isinstance(error, OSError):
    return False
  ours = messages.explain(error) is not None
  unknown = not ours and isinstance(error, jax.errors.JaxRuntimeError)
  # Some of jax's are ValueErrors, as if they were a user's mistakes.
  return unknown or bool(_SUMS.search(str(error)))
