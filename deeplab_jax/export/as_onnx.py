"""The format ONNX: files, and running them in ONNX Runtime."""

from typing import TYPE_CHECKING, Any

from deeplab_jax.export import onnx_file
from deeplab_jax.export.extras import needs
from deeplab_jax.export.job import Job, Opened
from deeplab_jax.export.machine import threads
from deeplab_jax.export.onnx_builder import IMAGE

if TYPE_CHECKING:
  import onnx

PACKAGES = ("onnx", "onnxruntime")
RUNTIME = "onnxruntime"


def check(sizes: tuple) -> None:
  """Raises what stands against this format before any work.

  Raises:
    ImportError: a package is missing.
    ValueError: several sizes are asked for.
  """
  for name in PACKAGES:
    needs(name)
  if len(sizes) > 1:
    raise ValueError(
      f"a file of format onnx has one size or any, got {len(sizes)} sizes; "
      "format stablehlo takes several"
    )


def make(job: Job) -> bytes:
  """The content of the file."""
  graph = _graph(job, (job.output,))
  metadata = onnx_file.metadata_of(job.metadata())
  return _model(job, graph, (job.output,), metadata).SerializeToString()


def open_file(content: bytes, job: Job) -> Opened:
  """The file whose content is `content`, in ONNX Runtime on CPU."""
  session = _session(content)
  wider = None

  def behind(images):
    nonlocal wider
    wider = wider or _session(_with_behind(content, job))
    return wider.run([job.behind], {IMAGE: images})[0]

  nodes = len(needs("onnx").load_from_string(content).graph.node)
  return Opened(
    run=lambda images: session.run(None, {IMAGE: images})[0],
    behind=behind,
    parts=f"{nodes} nodes",
  )


def _graph(job: Job, outputs: tuple[str, ...]) -> Any:
  size = job.sizes[0] if job.sizes else None
  return onnx_file.graph_of(
    job.model, job.variables, job.protocol, outputs, size, job.thresholds
  )


def _model(job, graph, outputs, metadata) -> "onnx.ModelProto":
  size = job.sizes[0] if job.sizes else None
  overlap = job.thresholds is not None
  return onnx_file.model_of(graph, job.model, outputs, metadata, size, overlap)


def _with_behind(content: bytes, job: Job) -> bytes:
  """The file with one more output, `job.behind`.

  Nodes and constants of the file stay; only those that lead from what it
  computes to that output are added.
  """
  onnx = needs("onnx")
  found = onnx.load_from_string(content)
  outputs = tuple(dict.fromkeys((job.output, job.behind)))
  wider = _model(job, _graph(job, outputs), outputs, {}).graph
  made = {name for node in found.graph.node for name in node.output}
  held = {array.name for array in found.graph.initializer}
  found.graph.node.extend(n for n in wider.node if n.output[0] not in made)
  found.graph.initializer.extend(
    array for array in wider.initializer if array.name not in held
  )
  found.graph.output.extend(o for o in wider.output if o.name not in made)
  return found.SerializeToString()


def _session(content: bytes) -> Any:
  runtime = needs("onnxruntime")
  options = runtime.SessionOptions()
  options.log_severity_level = 3
  options.intra_op_num_threads = threads()
  return runtime.InferenceSession(
    content, options, providers=["CPUExecutionProvider"]
  )
