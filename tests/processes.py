"""Processes that tests start: Python on CPUs, alone or several of one run."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def start(
  *words: object,
  devices: int = 1,
  prefix: Sequence[str] = (),
  merged: bool = False,
  **environment: str,
) -> subprocess.Popen:
  """Starts Python with `words` on its command line, in the repository.

  Args:
    *words: such as a program of `tests/programs`, and its arguments.
    devices: how many CPU devices it is to see.
    prefix: words before those, such as of a shell that limits the process.
    merged: whether errors come with the output, or apart.
    **environment: variables beside those of this process.
  """
  return subprocess.Popen(
    [*prefix, sys.executable, *map(str, words)],
    cwd=REPOSITORY,
    env={
      **os.environ,
      "JAX_NUM_CPU_DEVICES": str(devices),
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(REPOSITORY),
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT if merged else subprocess.PIPE,
    text=True,
  )


def joined(count: int = 2) -> list[dict[str, str]]:
  """For each process of a run, the variables by which they find each other."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [
    {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(index),
    }
    for index in range(count)
  ]


def finish(process: subprocess.Popen, timeout: float = 600) -> str:
  """Waits for the end, which has to be a good one; gives what was printed."""
  output, errors = process.communicate(timeout=timeout)
  assert process.returncode == 0, f"{output}\n{errors or ''}"
  return output
