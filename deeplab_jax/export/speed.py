"""How long a file takes in its runtime, and the network here, by one clock."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from deeplab_jax.export.job import Job, Opened
from deeplab_jax.export.machine import threads

_SIZE = (513, 513)
_ROUNDS = 5


def compare(job: Job, opened: Opened) -> dict[str, Any]:
  """Milliseconds for one picture, of a file and of `Segmenter`.

  The median of some rounds, in which the two take turns.

  Returns:
    "size", "threads", "file" and "deeplab_jax", as JSON holds it.
  """
  size = job.sizes[0] if job.sizes else _SIZE
  model = job.model
  shape = *size, model.channels
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  image = image.astype(model.image_dtype)
  wanted = "labels" if job.output == "labels" else "probabilities"
  runs = {
    "file": lambda: opened.run(image[None]),
    "deeplab_jax": lambda: job.segmenter.outputs(image, wanted),
  }
  for run in runs.values():
    run()  # compiles, and takes memory
  times = {name: [] for name in runs}
  for _ in range(_ROUNDS):
    for name, run in runs.items():
      times[name].append(_milliseconds(run))
  medians = {name: statistics.median(found) for name, found in times.items()}
  return {"size": list(size), "threads": threads(), **medians}


def _milliseconds(run: Callable[[], Any]) -> float:
  began = time.perf_counter()
  run()
  return 1000 * (time.perf_counter() - began)


def line(facts: dict[str, Any], runtime: str) -> str:
  """The same on one line."""
  height, width = facts["size"]
  return (
    f"speed: {facts['file']:.1f} ms a picture of {height} x {width} in "
    f"{runtime}, {facts['deeplab_jax']:.1f} ms in deeplab_jax, on "
    f"{facts['threads']} threads"
  )
