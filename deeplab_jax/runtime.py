"""The process: how it starts, what it keeps between runs, how it is stopped.

Huge pages: XLA asks for its temporary memory anew at every call, and the kernel
hands it out in pages of 4 KiB. glibc's allocator asks for pages of 2 MiB
instead if the environment says so when the process starts: training steps take
13 to 16 % less time, inference 5 to 10 %. See docs/performance/notes.md.
"""

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import pathlib
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from deeplab_jax import messages
from deeplab_jax.cache import cache_folder

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""The value of `GLIBC_TUNABLES`; glibc 2.35 and newer know it."""

_PATIENCE = 5  # seconds
_OTHERS_FIRST = 2  # seconds; longer than it takes them to notice
_POLL_MILLISECONDS = 200
_STOP = "deeplab_jax/stop"  # a key that all processes of a run see
_WORDS = ("blocking_key_value_get", "key_value_set")
_SIZE_OF_ACTION = 1024  # bytes, more than a `struct sigaction` has anywhere
_HUGE_PAGES_MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_runtime() -> None:
  """Joins the other processes, if any, and turns the compilation cache on.

  Call it before anything touches a device.
  """
  # Orbax tells of every file, and of every array that it could not write, in
  # its threads, before the error comes to us, and asyncio again of each but the
  # first; jax tells of accelerators not there, matplotlib of its list of fonts.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  logging.getLogger("jax").setLevel(logging.WARNING)
  logging.getLogger("matplotlib").setLevel(logging.WARNING)
  threading.excepthook = _except_in_thread
  sys.unraisablehook = _except_in_callback
  _start_processes()
  _start_compilation_cache()
  # Tracing makes objects in such numbers that the collector runs again and
  # again, a fifth of the time; it need not walk through what is imported.
  gc.freeze()


def _except_in_thread(error: threading.ExceptHookArgs) -> None:
  """Leaves out what Orbax's threads hand on and the door will tell."""
  if error.exc_value is None or not messages.explain(error.exc_value):
    threading.__excepthook__(error)


def _except_in_callback(error: "sys.UnraisableHookArgs") -> None:
  """Leaves out that a write of several had nobody to tell of its failure.

  tensorstore calls, from threads of its own, a loop of Orbax that has ended at
  the first of these failures, which the door will tell.
  """
  if str(error.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(error)


def _start_processes() -> None:
  """Joins the other processes of a run where the environment asks for it.

  `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name a
  process by hand; with `DEEPLAB_DISTRIBUTED=1` jax finds them out itself, on
  TPU pods, under SLURM and Open MPI.
  """
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
      if name not in os.environ:
        raise ValueError(f"{name} must be set beside JAX_COORDINATOR_ADDRESS")
    jax.distributed.initialize(
      num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
      process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
  elif os.environ.get("DEEPLAB_DISTRIBUTED") == "1":
    jax.distributed.initialize()
  if jax.distributed.is_initialized():
    # On CPUs processes wait 30 s for each other where they first meet, and as
    # long as it takes later: let it be before one compiles longer than others.
    multihost_utils.sync_global_devices("start")


def _start_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless jax is set up to already."""
  if jax.config.jax_compilation_cache_dir is None:
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))


class StopRequest:
  """Whether SIGTERM or Ctrl-C asked this run, all its processes, to stop.

  One process handles the signals itself. Of several, jax's preemption service
  catches SIGTERM and has all of them agree on the step at which to stop.

  Until training has begun there is nothing to save, and the program ends at
  once: Python would handle a signal only after a compilation, minutes later. Of
  several processes the one that is told tells the others, and the first, where
  they meet, ends last.
  """

  def __init__(self, saves: bool = True):
    """Begins to listen.

    Args:
      saves: False of work that has nothing to save at any time, such as an
        evaluation: to be told to stop then is a failure.
    """
    self._saves = saves
    self._alone = jax.process_count() == 1
    self._first = jax.process_index() == 0
    self._received = False
    self._training = False
    self._ended = threading.Event()  # listening to the other processes
    self._ending = threading.Lock()  # of the program, once
    # Ignored, as in jobs that a script runs in the background, it stays so.
    numbers = (signal.SIGINT, signal.SIGTERM)
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    client = None if self._alone else coordination(_WORDS)
    if not self._alone and client is None:
      numbers = []  # no way to tell the others: jax's service alone listens
    self._before = {n: signal.getsignal(n) for n in numbers}
    self._of_service = None if self._alone else _action(signal.SIGTERM)
    reader, self._writer = os.pipe()
    os.set_blocking(self._writer, False)
    self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    self._watcher = threading.Thread(
      target=self._watch, args=(reader,), daemon=True
    )
    self._watcher.start()
    if client is not None:
      listener = threading.Thread(
        target=self._listen, args=(client,), daemon=True
      )
      listener.start()
    for number in numbers:
      signal.signal(number, self._receive)

  def _receive(self, number: int, _) -> None:
    if number == signal.SIGINT:
      signal.signal(number, signal.default_int_handler)  # if pressed again
    if not self._training:
      if not _in_a_notebook(number):
        self._watcher.join(_PATIENCE)  # which ends the program
      raise KeyboardInterrupt
    if not self._alone:
      os.kill(os.getpid(), signal.SIGTERM)  # which the service waits for
    self._received = True

  def _watch(self, reader: int) -> None:
    """Ends the program at a signal as long as there is nothing to save."""
    while number := os.read(reader, 1):
      goes_on = self._training or _in_a_notebook(number[0])
      if number[0] in self._before and not goes_on:
        if not self._alone:
          _tell_the_others()
        self._end(number[0])
    os.close(reader)

  def _listen(self, client: Any) -> None:
    """Ends the program if another process was told to stop.

    One may be told when this one has already made its first step: so for some
    time after that as well.
    """
    until = None
    while not self._ended.is_set():
      if self._training:
        until = until or time.monotonic() + _PATIENCE
        if time.monotonic() > until:
          return
      try:
        client.blocking_key_value_get(_STOP, _POLL_MILLISECONDS)
      except Exception:  # nobody has told so far, or the first one is gone
        self._ended.wait(_POLL_MILLISECONDS / 1000)
      else:
        self._end(signal.SIGTERM)

  def _end(self, number: int) -> None:
    self._ending.acquire()
    if self._first:
      before = "before the first step; nothing was to be saved"
      print(f"stopped {before if self._saves else 'before the end'}")
      sys.stdout.flush()
    if self._first and not self._alone:
      time.sleep(_OTHERS_FIRST)
    leave(0 if self._saves else 128 + number)

  def training_began(self) -> None:
    """From now on a signal makes the run save before it ends."""
    self._training = True
    self._give_back()

  def _give_back(self) -> None:
    """Lets jax's service handle SIGTERM again."""
    if self._of_service is not None:
      _set_action(signal.SIGTERM, self._of_service)

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
    """Restores the signals' former handling."""
    self._ended.set()
    signal.set_wakeup_fd(self._wakeup)
    os.close(self._writer)  # which ends the thread
    for number, before in self._before.items():
      signal.signal(number, before)
    self._give_back()


def leave(status: int) -> NoReturn:
  """Ends this process at once, and those it started, such as readers of data.

  They would live on without it, and hold what it prints to open.
  """
  for child in multiprocessing.active_children():
    child.terminate()
  os._exit(status)


def _tell_the_others() -> None:
  """Has the processes of this run that listen end."""
  with contextlib.suppress(Exception):  # told already, or the first is gone
    coordination(_WORDS).key_value_set(_STOP, "1")


def coordination(methods: Sequence[str]) -> Any | None:
  """What carries words between processes; None where jax hides it elsewhere.

  Args:
    methods: that it must have.
  """
  try:
    from jax._src import distributed

    client = distributed.global_state.client
  except (ImportError, AttributeError):
    return None
  return client if all(hasattr(client, name) for name in methods) else None


def _action(number: int) -> ctypes.Array:
  """How a signal is handled, by code that is not Python's as well."""
  action = ctypes.create_string_buffer(_SIZE_OF_ACTION)
  ctypes.CDLL(None).sigaction(int(number), None, action)
  return action


def _set_action(number: int, action: ctypes.Array) -> None:
  ctypes.CDLL(None).sigaction(int(number), action, None)


def _in_a_notebook(number: int) -> bool:
  """Whether a signal interrupts the work, not the program."""
  return number == signal.SIGINT and hasattr(sys, "ps1")


def huge_pages_advice() -> str | None:
  """A line to show where huge pages would help and are not asked for."""
  if jax.default_backend() != "cpu" or not _huge_pages_are_missed():
    return None
  return (
    f"on this CPU faster with GLIBC_TUNABLES={HUGE_PAGES} in the environment"
  )


def _huge_pages_are_missed() -> bool:
  library, version = platform.libc_ver()
  return (
    library == "glibc"
    and tuple(map(int, version.split("."))) >= (2, 35)
    and "hugetlb" not in os.environ.get("GLIBC_TUNABLES", "")
    and _HUGE_PAGES_MODE.exists()
    and "[madvise]" in _HUGE_PAGES_MODE.read_text()
  )
