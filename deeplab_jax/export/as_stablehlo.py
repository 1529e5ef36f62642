"""The format stablehlo: programs of `jax.export` for CPU, CUDA and TPU."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from deeplab_jax.export import loading, operations, program
from deeplab_jax.export.job import Job, Opened
from deeplab_jax.inference.folding import fold
from deeplab_jax.models.ops.whole import replaced

PACKAGES = ("jax", "jaxlib")
RUNTIME = "jax"
PLATFORMS = ("cpu", "cuda", "tpu")


def check(sizes: tuple) -> None:
  """Nothing stands against this format: any sizes, and no more packages."""
  del sizes


def make(job: Job) -> bytes:
  """The content of the file, see `loading`."""
  folded = jax.tree.map(np.asarray, fold(job.model, job.variables))
  leaves, tree = jax.tree.flatten(folded)
  with _without_source_files():
    programs = {
      size: _exported(job, (job.output,), tree, leaves, size).serialize()
      for size in job.sizes or (None,)
    }
  return loading.pack(job.metadata(), programs, leaves)


def open_file(content: bytes, job: Job) -> Opened:
  """The file whose content is `content`, in jax on the default device."""
  exported = loading.Exported(content)
  tree = jax.tree.structure(fold(job.model, job.variables))
  found = {}

  def behind(images):
    size = images.shape[1:3] if job.sizes else None
    if size not in found:
      wider = _exported(job, (job.behind,), tree, exported.weights, size)
      found[size] = jax.jit(wider.call)
    return np.asarray(found[size](exported.weights, images))

  return Opened(
    run=lambda images: np.asarray(exported(images)),
    behind=behind,
    parts=f"{len(job.sizes) or 1} programs for {', '.join(PLATFORMS)}",
  )


@contextlib.contextmanager
def _without_source_files() -> Iterator[None]:
  """Within it, programs do not note which files of this machine they are of."""
  name = "jax_traceback_in_locations_limit"
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def _exported(job, outputs, tree, leaves, size) -> jax.export.Exported:
  run = program.program_fn(job.model, job.protocol, outputs, job.thresholds)

  def function(weights, images):
    return run(jax.tree.unflatten(tree, weights), images)[0]

  weights = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
  images = program.abstract_images(
    size, None, job.model.channels, job.model.image_dtype
  )
  replacements = operations.ANY_SIZE if size is None else {}
  # Which GPUs and TPUs would multiply in fewer bits.
  exact = jax.default_matmul_precision("float32")
  tracing = program.tracing(job.model, job.protocol, size)
  with exact, tracing, replaced(replacements):
    export = jax.export.export(jax.jit(function), platforms=PLATFORMS)
    return export(weights, images)
