"""The format tflite: files for LiteRT (TensorFlow Lite), of one size.

The traced program becomes TensorFlow's operations (`tf_graph`), which
TensorFlow's converter writes. Weights are float32, float16, or of 8 bits, where
activations are, too.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from deeplab_jax.export import operations, program, rounding, tf_graph
from deeplab_jax.export.extras import needs
from deeplab_jax.export.job import PRECISIONS, Job, Opened
from deeplab_jax.export.machine import threads
from deeplab_jax.export.onnx_values import Unsupported
from deeplab_jax.inference.folding import fold
from deeplab_jax.models.ops.whole import replaced

PACKAGES = ("tensorflow", "ai-edge-litert")
RUNTIME = "ai-edge-litert"
__all__ = ["PACKAGES", "PRECISIONS", "RUNTIME"]
IMAGE = "image"
_METADATA = "deeplab_jax"
_IDENTIFIER = b"TFL3"
_IS_LARGEST_OF = ("ARG_MAX", "SOFTMAX")
_IS_LOGITS_OF, _IS_ABOVE = ("LOGISTIC",), ("GREATER_EQUAL",)


def check(sizes: tuple) -> None:
  """Raises what stands against this format before any work.

  Raises:
    ImportError: a package is missing.
    ValueError: not one size is asked for.
  """
  if len(sizes) != 1:
    raise ValueError(
      f"a file of format tflite has one size: give --size HxW, got {len(sizes)}"
    )
  # Its remarks on this machine would stand among ours.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  needs("tensorflow", "tensorflow-cpu")
  _litert("interpreter")


def _litert(module: str) -> Any:
  return needs(f"ai_edge_litert.{module}", "ai-edge-litert")


def make(job: Job) -> bytes:
  """The content of the file."""
  if job.model.image_dtype != "uint8":
    raise ValueError(
      "a file of format tflite takes pictures of 8 bits, got a network for "
      f"{job.model.image_dtype}; --format onnx and stablehlo take these"
    )
  tf = needs("tensorflow", "tensorflow-cpu")
  is_integer = job.precision == "int8"
  dtype = tf.float32 if is_integer else tf.uint8
  images = tf.TensorSpec(
    (1, *job.sizes[0], job.model.channels), dtype, name=IMAGE
  )
  run = _function(tf, job)
  module = tf.Module()
  module.run = tf.function(
    lambda image: {job.output: run(image)},
    input_signature=[images],
    autograph=False,
  )
  with _quiet(), tempfile.TemporaryDirectory() as folder:
    try:
      signatures = {"serving_default": module.run}
      tf.saved_model.save(module, folder, signatures=signatures)
    except Unsupported as error:
      raise ValueError(
        f"the network does what format tflite cannot express here: {error}; "
        "nearest is --format onnx, --format stablehlo"
      ) from None
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    _set_precision(tf, converter, job)
    content = converter.convert()
  return _with_metadata(bytes(content), job.metadata())


def _function(tf: Any, job: Job) -> Callable:
  """From images to what is asked for, in TensorFlow."""
  folded = jax.tree.map(np.asarray, fold(job.model, job.variables))
  if job.precision == "int8":
    folded = rounding.correct_biases(job, folded)
  run = program.program_fn(
    job.model, job.protocol, (job.output,), job.thresholds
  )
  size = job.sizes[0]
  images = program.abstract_images(size, 1, job.model.channels)
  tracing = program.tracing(job.model, job.protocol, size)
  with tracing, replaced(operations.MARKED):
    traced = jax.make_jaxpr(run)(folded, images)
  arrays = tf_graph.arrays_of(folded)
  return lambda image: tf_graph.follow(tf, traced, [*arrays, image])[0]


def _set_precision(tf: Any, converter: Any, job: Job) -> None:
  if job.precision == "float32":
    return
  converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if job.precision == "float16":
    converter.target_spec.supported_types = [tf.float16]
    return
  converter.representative_dataset = lambda: map(
    _representative, job.pictures.images
  )
  integers = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
  converter.target_spec.supported_ops = [integers]
  converter.inference_input_type = tf.uint8


def _representative(image: np.ndarray) -> list[np.ndarray]:
  """A picture to calibrate with, float32 (1, h, w, 3).

  It holds 0 and 255, so that the file's input is what is decoded, by 1.
  """
  found = image.astype(np.float32)[None]
  found[0, 0, 0], found[0, -1, -1] = 0, 255
  return [found]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without what C++ reports of its work; errors come as exceptions."""
  sys.stdout.flush()
  sys.stderr.flush()
  kept = os.dup(1), os.dup(2)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    for place in (1, 2):
      os.dup2(nowhere, place)
    yield
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    for place, file in enumerate(kept, 1):
      os.dup2(file, place)
      os.close(file)
    os.close(nowhere)


def open_file(content: bytes, job: Job) -> Opened:
  """The file whose content is `content`, in LiteRT on CPU."""
  run, interpreter = _runner(content)
  wider = []

  def behind(images):
    if job.behind == job.output:
      return run(images)
    if not wider:
      wider.append(_runner(_with_behind(content, interpreter, job))[0])
    height, width = images.shape[1:3]
    return wider[0](images)[:, :height, :width]

  count = len(interpreter._get_ops_details())
  return Opened(run=run, behind=behind, parts=f"{count} operations")


def _runner(content: bytes) -> tuple[Callable, Any]:
  """A function of pictures to the last output of a file."""
  with _quiet():
    interpreter = _litert("interpreter").Interpreter(
      model_content=content, num_threads=threads()
    )
    interpreter.allocate_tensors()
  (given,) = interpreter.get_input_details()

  def one(image):
    interpreter.set_tensor(given["index"], image)
    interpreter.invoke()
    wanted = interpreter.get_output_details()[-1]
    return interpreter.get_tensor(wanted["index"])

  def run(images):
    return np.concatenate([one(image[None]) for image in images])

  return run, interpreter


def _with_behind(content: bytes, interpreter: Any, job: Job) -> bytes:
  """The file with one more output: what its labels are made of."""
  steps = interpreter._get_ops_details()
  names = _IS_LARGEST_OF
  if job.thresholds is not None:
    names = _IS_LOGITS_OF if job.behind == "logits" else _IS_ABOVE
  found = [s["inputs"][0] for s in steps if s["op_name"] in names]
  model = read(content)
  (graph,) = model.subgraphs
  graph.outputs = [*graph.outputs, *found[-1:]]
  model.signatureDefs = None
  return _written(model)


def _with_metadata(content: bytes, facts: dict[str, Any]) -> bytes:
  """The file with a description of its network, JSON in UTF-8."""
  schema, model = _litert("schema_py_generated"), read(content)
  buffer, entry = schema.BufferT(), schema.MetadataT()
  buffer.data = np.frombuffer(json.dumps(facts).encode(), np.uint8)
  entry.name, entry.buffer = _METADATA, len(model.buffers)
  model.buffers.append(buffer)
  model.metadata = [*(model.metadata or ()), entry]
  return _written(model)


def read(content: bytes) -> Any:
  """A file as objects of its schema."""
  schema = _litert("schema_py_generated")
  return schema.ModelT.InitFromPackedBuf(content, 0)


def _written(model: Any) -> bytes:
  builder = needs("flatbuffers", "ai-edge-litert").Builder(1 << 20)
  builder.Finish(model.Pack(builder), _IDENTIFIER)
  return bytes(builder.Output())
