"""Whether this machine gets oneDNN's calls: a trial in a process of their own.

The calls of `onednn` are nobody's promise: in another jaxlib, or on another
CPU, one may compute something else, end the process, or wait for ever. So a
child process runs `onednn_trial` first. Its verdict is kept for this jaxlib,
this CPU, and the code of the calls.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jaxlib

from deeplab_jax import atomic, runtime

EQUAL = "equal"
"""What the child prints where both ways give the same."""

TRIAL = "deeplab_jax.inference.onednn_trial"

_SECONDS = 120
"""After which a child that has not answered is taken to hang; it needs 4."""

_TRIED_AGAIN_AFTER = 24 * 3600
"""Seconds that a bad verdict stands: the cause may have been the machine's."""

_HERE = pathlib.Path(__file__).resolve().parent


@functools.cache
def passes(dtype: str) -> bool:
  """Whether the calls were seen to be right here; tries them if need be.

  A trial takes some seconds, once; a bad one says why in a line of log, and is
  repeated after a day.

  Args:
    dtype: "float32" or "bfloat16", what is convolved.
  """
  path = runtime.cache_folder() / "onednn" / f"{_fingerprint(dtype)}.json"
  verdict = _read(path)
  if verdict is None:
    verdict = {"fault": _fault(dtype), "time": time.time()}
    with contextlib.suppress(OSError):  # the next process tries again
      atomic.write_json(path, verdict)
  if verdict["fault"]:
    logging.getLogger(__name__).warning(
      "convolutions in %s are computed by XLA, up to 4 times slower: oneDNN's "
      "of jaxlib %s %s (%s)",
      dtype,
      jaxlib.__version__,
      verdict["fault"],
      path,
    )
  return not verdict["fault"]


def _fingerprint(dtype: str) -> str:
  """Of all that the verdict may depend on."""
  facts = pathlib.Path("/proc/cpuinfo").read_text()
  wanted = ("model name", "flags", "stepping", "microcode")
  lines = {x for x in facts.splitlines() if x.startswith(wanted)}
  settings = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(("ONEDNN_", "DNNL_", "XLA_FLAGS"))
  }
  sources = [
    (_HERE / name).read_text() for name in ("onednn.py", "onednn_trial.py")
  ]
  cores = len(os.sched_getaffinity(0))
  content = [dtype, jaxlib.__version__, cores, sorted(lines), settings, sources]
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """The verdict that is kept, if it still stands."""
  try:
    verdict = json.loads(path.read_text())
    recent = time.time() - verdict["time"] < _TRIED_AGAIN_AFTER
    return verdict if recent or not verdict["fault"] else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _fault(dtype: str) -> str | None:
  """What is wrong with the calls, by a child process; None if nothing is."""
  command = [sys.executable or "python3", "-m", TRIAL, dtype]
  root = _HERE.parents[1]
  paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
  settings = {
    "DEEPLAB_ONEDNN": "0",
    "JAX_PLATFORMS": "cpu",
    "ONEDNN_VERBOSE": "1",
    "PYTHONPATH": os.pathsep.join(paths),
  }
  try:
    child = subprocess.run(
      command,
      env=os.environ | settings,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      errors="replace",
      timeout=_SECONDS,
    )
  except subprocess.TimeoutExpired:
    return f"gave no answer in {_SECONDS} s"
  except OSError as error:
    return f"could not be tried: {error}"
  lines = child.stdout.splitlines()
  if child.returncode < 0:
    return f"ended the process that tried them by signal {-child.returncode}"
  if child.returncode:
    last = child.stderr.strip().splitlines()[-1:] or ["nothing said"]
    return f"could not be tried: {last[0][:200]}"
  if EQUAL not in lines:
    return f"are wrong: {lines[-1] if lines else 'no answer'}"
  if slow := {name for name in _implementations(lines) if "gemm" in name}:
    return f"take a form that may hang: {', '.join(sorted(slow))}"
  return None


def _implementations(lines: list[str]) -> Iterator[str]:
  """Names of the forms in which oneDNN convolved, from its log."""
  for line in lines:
    fields = line.split(",")
    if fields[5:6] == ["convolution"]:
      yield fields[6]
