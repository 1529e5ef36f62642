"""The machine that a certificate is made on."""

import os
import pathlib
import platform
from importlib import metadata


def threads() -> int:
  """How many the runtimes are given: XLA takes as many by itself."""
  return len(os.sched_getaffinity(0))


def cpu() -> str:
  """The name of the CPU, or of its architecture."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  names = (
    line.partition(":")[2].strip() for line in lines if "model name" in line
  )
  return next(names, platform.machine())


def versions(*packages: str) -> dict[str, str]:
  """Those of packages that are installed."""
  found = {"python": platform.python_version()}
  for name in packages:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:  # may be in another's, tensorflow-cpu
      others = metadata.packages_distributions().get(name)
      found[name] = metadata.version(others[0]) if others else "unknown"
  return found
