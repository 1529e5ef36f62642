"""Huge pages are advised where they help; signals end or save a run."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.export
import pytest
from jax._src import distributed

from deeplab_jax import runtime


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """A CPU with glibc whose kernel gives huge pages to those who ask."""
  mode = tmp_path / "enabled"
  mode.write_text("always [madvise] never\n")
  monkeypatch.setattr(runtime, "_HUGE_PAGES_MODE", mode)
  monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("glibc", "2.36"))
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  return mode


def test_advice_names_the_setting(machine):
  assert f"GLIBC_TUNABLES={runtime.HUGE_PAGES}" in runtime.huge_pages_advice()


def test_no_advice_where_they_are_asked_for(machine, monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", runtime.HUGE_PAGES)
  assert runtime.huge_pages_advice() is None


@pytest.mark.parametrize("mode", ["[always] madvise never", "always [never]"])
def test_no_advice_where_the_kernel_decides(machine, mode):
  machine.write_text(mode)
  assert runtime.huge_pages_advice() is None


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_no_advice_without_a_library_that_knows_them(
  machine, monkeypatch, library
):
  monkeypatch.setattr(runtime.platform, "libc_ver", lambda: library)
  assert runtime.huge_pages_advice() is None


# XLA takes this, a constant that takes it seconds to compute, for a fault.
_SLOW = """
import deeplab_jax
import jax, numpy as np
x = np.ones((130, 130), np.float32)
add = jax.lax.add
fold = lambda: jax.lax.reduce_window(x, 0.0, add, (9, 9), (1, 1), "SAME")
jax.jit(fold).lower().compile()
"""


def test_a_slow_compilation_has_no_banner():
  assert _python(_SLOW).stderr == ""


def test_a_level_of_messages_that_is_asked_for_is_kept():
  program = "import os, deeplab_jax; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
  assert _python(program, TF_CPP_MIN_LOG_LEVEL="1").stdout == "1\n"


def _python(program, **settings):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  for name in ("TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR"):
    environment.pop(name, None)
  return subprocess.run(
    [sys.executable, "-c", program],
    cwd=pathlib.Path(__file__).parent.parent,
    env=environment | settings,
    capture_output=True,
    text=True,
    check=True,
  )


# Waits in C with the signals' handlers in Python, as during a compilation.
_COMPILING = """
import hashlib, signal, sys
from deeplab_jax.runtime import StopRequest
if "ignoring" in sys.argv:
  signal.signal(signal.SIGINT, signal.SIG_IGN)
stop = StopRequest(saves="evaluating" not in sys.argv)
if "notebook" in sys.argv:
  sys.ps1 = ">>> "
if "training" in sys.argv:
  stop.training_began()
print("begun", flush=True)
seconds = 3 if {"training", "ignoring", "notebook"} & set(sys.argv) else 600
hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds * 1e6))
print("received", stop.received, flush=True)
stop.close()
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


def _compile(*arguments) -> subprocess.Popen:
  process = subprocess.Popen(
    [sys.executable, "-c", _COMPILING, *arguments],
    cwd=pathlib.Path(__file__).parent.parent,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "begun\n"
  return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_compiling_ends_at_once(number):
  process = _compile()
  began = time.monotonic()
  process.send_signal(number)
  output, errors = process.communicate(timeout=60)
  assert time.monotonic() - began < 5
  assert (process.returncode, errors) == (0, "")
  assert output == "stopped before the first step; nothing was to be saved\n"


def test_a_signal_while_evaluating_ends_at_once_and_is_a_failure():
  process = _compile("evaluating")
  process.send_signal(signal.SIGTERM)
  output, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (143, "")
  assert output == "stopped before the end\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_training_is_noted(number):
  process = _compile("training")
  process.send_signal(number)
  output, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (0, "")
  assert output == "received True\nTrue\n"


def test_pressing_twice_interrupts():
  before = signal.getsignal(signal.SIGINT)
  stop = runtime.StopRequest()
  try:
    stop.training_began()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received and stop.at(3)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
  finally:
    stop.close()
  assert signal.getsignal(signal.SIGINT) == before


def test_an_ignored_interrupt_stays_ignored():
  process = _compile("ignoring")
  process.send_signal(signal.SIGINT)
  output, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (0, "")
  assert output == "received False\nTrue\n"


def test_a_notebook_is_interrupted_and_lives():
  process = _compile("notebook")
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == -signal.SIGINT or "KeyboardInterrupt" in errors
  assert "stopped before" not in errors


def test_several_that_cannot_tell_each_other_leave_signals_to_jax(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(runtime, "coordination", lambda _: None)
  numbers = signal.SIGINT, signal.SIGTERM
  before = [signal.getsignal(number) for number in numbers]
  with contextlib.closing(runtime.StopRequest()):
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_client_of_another_kind_is_none(monkeypatch):
  monkeypatch.setattr(distributed.global_state, "client", object())
  assert runtime.coordination(["key_value_set"]) is None


def test_programs_are_stored_by_what_the_requirements_install():
  """Without extras: `export --format stablehlo` needs none."""
  program = jax.export.export(jax.jit(lambda x: x + 1))(1.0)
  again = jax.export.deserialize(program.serialize())
  assert again.call(1.0) == 2
