"""Other runtimes, with the network as a file of `deeplab_jax.export`.

What they compute is float32 but for OpenVINO, which is told to multiply in
bfloat16 where the case does; on CPUs without such instructions it refuses.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.timing import Case, Contender, Program
from deeplab_jax.config import make_model
from deeplab_jax.export import onnx_file
from deeplab_jax.inference.protocol import Protocol


def inference(
  case: Case, runtimes: tuple[str, ...], variables: Any, images: np.ndarray
) -> list[Contender]:
  """Images to labels in each of `runtimes` that computes in the case's dtype.

  Logits at stride 4, which no file gives, are left to the frameworks.
  """
  if case.what != "labels":
    return []
  chosen = [name for name in runtimes if case.dtype in _DTYPES.get(name, ())]
  content = functools.cache(functools.partial(_file, case, variables))
  return [
    Contender(name, functools.partial(_start, name, case, content, images))
    for name in chosen
  ]


def _file(case: Case, variables: Any) -> bytes:
  config = networks.make_config(case)
  config.model.dtype = "float32"
  model = make_model(config, networks.NUM_CLASSES)
  size, outputs = (case.size, case.size), ("labels",)
  graph = onnx_file.graph_of(model, variables, Protocol(), outputs, size)
  found = onnx_file.model_of(graph, model, outputs, {}, size)
  return found.SerializeToString()


def _start(name, case, content, images) -> Program:
  call = _RUNTIMES[name](content(), case.dtype, images)
  return Program(call, lambda value: value, call())


def _onnxruntime(content: bytes, dtype: str, images: np.ndarray) -> Callable:
  import onnxruntime

  del dtype
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = _threads()
  # Threads that spin between two calls would take cores from the others.
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  session = onnxruntime.InferenceSession(
    content, options, providers=["CPUExecutionProvider"]
  )
  return lambda: session.run(None, {"image": images})[0]


def _openvino(content: bytes, dtype: str, images: np.ndarray) -> Callable:
  import openvino

  core = openvino.Core()
  model = core.read_model(content)
  model.reshape({"image": images.shape})
  types = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
  if dtype == "bfloat16" and "BF16" not in types:
    raise ValueError("OpenVINO: this CPU has no instructions for bfloat16")
  compiled = core.compile_model(
    model,
    "CPU",
    {
      "INFERENCE_NUM_THREADS": _threads(),
      "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
      "PERFORMANCE_HINT": "LATENCY",
    },
  )
  request = compiled.create_infer_request()
  return lambda: next(iter(request.infer({"image": images}).values())).copy()


def _threads() -> int:
  return len(os.sched_getaffinity(0))


_RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}
_DTYPES = {
  "onnxruntime": ("float32",),
  "openvino": ("float32", "bfloat16"),
}
