"""The part "first_call": from an empty process to the first label map.

A process of its own, timed from its start until it says that it has labels,
imports and random weights included, and its call alone: folding or fusing batch
norm, compiling and running. With empty and with filled compilation caches. The
module run as a command is such a process.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.timing import Case, Comparison, Result

_READY = "labels are there after"
_ROUNDS = 2
# Whether a program is compiled, by its name.
_JAX = {"jax": True}
_TORCH = {"torch.compile": True, "torch eager": False}


def run_first_call(options: argparse.Namespace) -> Iterator[Comparison]:
  """Cold, then warm, in turn; rounds are few, for torch takes a minute."""
  for model, dtype in itertools.product(options.models, options.dtypes):
    process, call = (
      Case("first_call", model, what, options.size, 1, dtype)
      for what in ("process to labels", "call alone")
    )
    print(f"first_call: {process}", file=sys.stderr)
    programs = _JAX | (_TORCH if "torch" in options.against else {})
    results = {}
    for _ in range(min(options.rounds, _ROUNDS)):
      for name, compiled in programs.items():
        with tempfile.TemporaryDirectory() as cache:
          for state in ("cold", "warm") if compiled else ("cold",):
            label = f"{name}, {state}" if compiled else name
            pair = results.setdefault(label, (Result(label), Result(label)))
            _add(pair, process, name, options.device, cache)
    for case, column in zip((process, call), zip(*results.values())):
      yield case, list(column)


def _add(pair: tuple[Result, Result], case, program, device, cache) -> None:
  """Adds the seconds of one more process and of its call to two results."""
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": cache,
    "TORCHINDUCTOR_CACHE_DIR": cache,
    # The process that measures may hold its share of the GPU's memory already.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
  }
  command = [sys.executable, "-m", "benchmarks.first_call", program]
  command += [case.model, str(case.size), case.dtype, device]
  begin = time.perf_counter()
  with subprocess.Popen(
    command,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    _, errors = process.communicate()
  if line.startswith(_READY):
    pair[0].seconds.append(seconds)
    pair[1].seconds.append(float(line.removeprefix(_READY)))
    print(f"  {pair[0].contender}: {seconds:.1f} s", file=sys.stderr)
  else:
    message = (errors.strip().splitlines() or ["no output"])[-1][:200]
    pair[0].error = pair[1].error = message


def main() -> None:
  """Makes the first label map of a process and says so."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("program", choices=[*_JAX, *_TORCH])
  parser.add_argument("model")
  parser.add_argument("size", type=int)
  parser.add_argument("dtype")
  parser.add_argument("device", choices=["cpu", "gpu"])
  options = parser.parse_args()
  case = Case(
    "first_call", options.model, "labels", options.size, 1, options.dtype
  )
  images = np.zeros((1, case.size, case.size, 3), np.uint8)
  begin = _begin_jax if options.program in _JAX else _begin_torch
  seconds = begin(case, images, options.program, options.device)
  print(_READY, seconds, flush=True)


def _begin_jax(case, images, program, device) -> float:
  del program, device
  from benchmarks import networks
  from deeplab_jax import runtime
  from deeplab_jax.config import make_model

  runtime.start_runtime()
  model = make_model(networks.make_config(case), networks.NUM_CLASSES)
  variables = networks.random_variables(model)
  begin = time.perf_counter()
  networks.start_inference(case, variables, images)
  return time.perf_counter() - begin


def _begin_torch(case, images, program, device) -> float:
  import torch

  from benchmarks.torch_deeplab import DeepLab, Labels

  place = "cuda" if device == "gpu" else "cpu"
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  network = DeepLab(case.model)
  begin = time.perf_counter()
  network.prepare(getattr(torch, case.dtype)).to(place)
  module = Labels(network).eval()
  if program == "torch.compile":
    module = torch.compile(module, dynamic=False)
  with torch.no_grad():
    module(torch.from_numpy(images).to(place)).cpu()
  return time.perf_counter() - begin


if __name__ == "__main__":
  main()
