"""`--mode eval`: a stored model on a split, and a folder that tells of it."""

import os
import pathlib
import resource

import jax
import rich
from ml_collections import ConfigDict

from deeplab_jax import sharding
from deeplab_jax.checkpoints import load_variables, write_json
from deeplab_jax.evaluate.loop import evaluate
from deeplab_jax.evaluate.results import Evaluation


def report(
  checkpoint: str | os.PathLike,
  config: ConfigDict,
  workdir: str | os.PathLike,
) -> Evaluation:
  """Evaluates in detail and writes WORKDIR/evaluation.

  Args:
    checkpoint: a workdir, a step in it, its `best`, or an imported model
      directory; the model is the one stored there.
    config: `data` and `eval` say on what and how.
    workdir: where the folder `evaluation` goes: `results.json` and
      `examples.png`.

  Returns:
    what was found.
  """
  model, variables, _ = load_variables(checkpoint)
  mesh = sharding.make_mesh()
  variables = jax.device_put(variables, sharding.replicated(mesh))
  first = jax.process_index() == 0
  evaluation = evaluate(
    model, variables, config, mesh=mesh, detailed=True, show_progress=first
  )
  if first:
    write(evaluation, pathlib.Path(workdir) / "evaluation")
    rich.print(evaluation.table())
  return evaluation


def write(evaluation: Evaluation, folder: pathlib.Path) -> None:
  """Writes the figures and pictures of a detailed evaluation."""
  content = evaluation.to_dict() | {"peak_memory_bytes": _peak_memory()}
  write_json(folder / "results.json", content)
  evaluation.write_picture(folder / "examples.png")


def _peak_memory() -> int:
  """Of the first device, or of this process where devices do not tell."""
  stats = jax.local_devices()[0].memory_stats() or {}
  kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return stats.get("peak_bytes_in_use", kilobytes * 1024)
