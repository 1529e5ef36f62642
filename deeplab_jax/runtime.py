"""The process: how it starts, what it keeps between runs, how it is stopped.

Huge pages: XLA asks for its temporary memory anew at every call, and the kernel
hands it out in pages of 4 KiB. glibc's allocator asks for pages of 2 MiB
instead if the environment says so when the process starts: training steps take
13 to 16 % less time, inference 5 to 10 %. See docs/performance/notes.md.
"""

import gc
import logging
import multiprocessing
import os
import pathlib
import platform
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from deeplab_jax import messages

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""The value of `GLIBC_TUNABLES`; glibc 2.35 and newer know it."""

_PATIENCE = 5  # seconds
_HUGE_PAGES_MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_runtime() -> None:
  """Joins the other processes, if any, and turns the compilation cache on.

  Call it before anything touches a device.
  """
  # Orbax tells of every file, and of every array that it could not write, in
  # its threads, before the error comes to us; jax of accelerators not there.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  logging.getLogger("jax").setLevel(logging.WARNING)
  threading.excepthook = _except_in_thread
  _start_processes()
  _start_compilation_cache()
  # Tracing makes objects in such numbers that the collector runs again and
  # again, a fifth of the time; it need not walk through what is imported.
  gc.freeze()


def _except_in_thread(error: threading.ExceptHookArgs) -> None:
  """Leaves out what Orbax's threads hand on and the door will tell."""
  if error.exc_value is None or not messages.explain(error.exc_value):
    threading.__excepthook__(error)


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


def cache_folder() -> pathlib.Path:
  """`$DEEPLAB_CACHE`, or `~/.cache/deeplab_jax`."""
  default = pathlib.Path.home() / ".cache" / "deeplab_jax"
  return pathlib.Path(os.environ.get("DEEPLAB_CACHE", default))


def _start_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless jax is set up to already."""
  if jax.config.jax_compilation_cache_dir is None:
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))


class StopRequest:
  """Whether SIGTERM or Ctrl-C asked this run, all its processes, to stop.

  One process handles the signals itself. Of several, jax's preemption service
  catches SIGTERM and has all of them agree on the step at which to stop.

  Until training has begun there is nothing to save, and one process alone ends
  at once: Python would handle a signal only after a compilation, minutes later.
  """

  def __init__(self):
    self._alone = jax.process_count() == 1
    self._received = False
    self._training = False
    numbers = [signal.SIGINT, *[signal.SIGTERM] * self._alone]
    # Ignored, as in jobs that a script runs in the background, it stays so.
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    self._before = {n: signal.getsignal(n) for n in numbers}
    if self._alone:
      reader, self._writer = os.pipe()
      os.set_blocking(self._writer, False)
      self._wakeup = signal.set_wakeup_fd(
        self._writer, warn_on_full_buffer=False
      )
      self._watcher = threading.Thread(
        target=self._watch, args=(reader,), daemon=True
      )
      self._watcher.start()
    for number in numbers:
      signal.signal(number, self._receive)

  def _receive(self, number: int, _) -> None:
    if number == signal.SIGINT:
      signal.signal(number, signal.default_int_handler)  # if pressed again
    if not self._alone:
      os.kill(os.getpid(), signal.SIGTERM)  # which the service waits for
    elif not self._training:
      if not _in_a_notebook(number):
        self._watcher.join(_PATIENCE)  # which ends the program
      raise KeyboardInterrupt
    self._received = True

  def _watch(self, reader: int) -> None:
    """Ends the program at a signal as long as there is nothing to save."""
    while number := os.read(reader, 1):
      goes_on = self._training or _in_a_notebook(number[0])
      if number[0] in self._before and not goes_on:
        for child in multiprocessing.active_children():
          child.terminate()
        print("stopped before the first step; nothing was to be saved")
        sys.stdout.flush()
        os._exit(0)
    os.close(reader)

  def training_began(self) -> None:
    """From now on a signal makes the run save before it ends."""
    self._training = True

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
    if self._alone:
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._writer)  # which ends the thread
    for number, before in self._before.items():
      signal.signal(number, before)


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
