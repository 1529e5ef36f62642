"""The machine: how a process is set up on it before it measures, and facts."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SETTINGS = ("CUDA_", "GLIBC_", "GOMP_", "JAX_", "OMP_", "TORCH", "XLA_")
_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "torch",
  "segmentation-models-pytorch",
  "onnxruntime",
  "openvino",
)


def use_huge_pages() -> None:
  """Starts the program again where its arrays can lie on huge pages.

  Both frameworks get them; the environment counts when a process starts.
  """
  if "GLIBC_TUNABLES" not in os.environ:
    from deeplab_jax import runtime

    os.environ["GLIBC_TUNABLES"] = runtime.HUGE_PAGES
    os.execv(sys.executable, sys.orig_argv)


def restrict(device: str, threads: int | None, shared: bool) -> None:
  """Gives both frameworks the same means. Call it before they are imported.

  Args:
    device: "cpu" or "gpu".
    threads: cores that the process may use; jax starts a thread on each core
      it sees, torch's number of threads is set to the same. Not 1: torch then
      gives single images to MKL, at half the speed of oneDNN on AMD. None is
      all cores.
    shared: whether torch shares the device with jax: each then has half of a
      GPU's memory, and neither the other's.
  """
  cores = sorted(os.sched_getaffinity(0))[:threads]
  os.sched_setaffinity(0, cores)
  environment = {
    "JAX_PLATFORMS": "cuda" if device == "gpu" else "cpu",
    "CUDA_VISIBLE_DEVICES": "0",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45" if shared else "0.90",
    "OMP_NUM_THREADS": str(len(cores)),
    # libgomp's threads, which are torch's, spin while they wait for each other.
    # Where anything else runs, they take the time slice of the one that all
    # wait for: 102 to 273 ms, not 51, for MobileNetV2 at 513 x 513 in eager
    # torch on 3 of 4 cores with a load of 5. Binding the threads to cores
    # (OMP_PROC_BIND) made it 131 ms.
    "OMP_WAIT_POLICY": "passive",
  }
  for name, value in environment.items():
    os.environ.setdefault(name, value)


def start_frameworks(options: Any) -> None:
  """Starts jax's threads, then imports torch if it is wanted.

  In this order libgomp, which torch brings, cannot bind jax's threads.
  """
  import jax

  jax.block_until_ready(jax.numpy.ones((512, 512)) @ jax.numpy.ones(512))
  if "torch" not in options.against:
    return
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  if options.device == "gpu":
    torch.cuda.set_per_process_memory_fraction(0.45)
    # The default of jax on the same card.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def facts(device: str) -> dict[str, Any]:
  """What a reader must know to judge the figures."""
  import jax

  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "commit": _git("rev-parse", "--short", "HEAD"),
    "uncommitted changes": bool(
      _git("status", "--porcelain", "--", "deeplab_jax", "benchmarks")
    ),
    "versions": {"python": platform.python_version()} | _versions(),
    "cpu": _cpu_name(),
    "cores": os.cpu_count(),
    "threads": len(os.sched_getaffinity(0)),
    "device": device,
    "accelerator": None if device == "cpu" else jax.devices()[0].device_kind,
    "environment": {
      name: value
      for name, value in sorted(os.environ.items())
      if name.startswith(_SETTINGS)
    },
  }


def load_average() -> float:
  """Processes that ran or wanted to, over the last minute."""
  return round(os.getloadavg()[0], 2)


def _versions() -> dict[str, str]:
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _cpu_name() -> str:
  text = pathlib.Path("/proc/cpuinfo").read_text()
  match = re.search(r"model name\s*: (.*)", text)
  return match[1] if match else platform.processor()


def _git(*arguments: str) -> str:
  command = ["git", "-C", str(_ROOT), *arguments]
  result = subprocess.run(command, capture_output=True, text=True)
  return result.stdout.strip()
