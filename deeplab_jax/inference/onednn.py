"""Convolutions of oneDNN, the library inside of jaxlib's CPU backend.

They add bias, shortcut and activation before they store a result, and take
atrous depthwise convolutions without a padded copy; XLA's own do neither. XLA
has custom calls for them, and inserts none; here they are written down. Their
form is nobody's promise, and a wrong one ends the process, so they are tried in
a child process first, see `verdict`; where they fail, the network is computed
as ever.

A program with such calls cannot be differentiated, divided over devices, or
stored: see `compiled`.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.inference import verdict
from deeplab_jax.models.blocks import gelu
from deeplab_jax.models.ops.depthwise import Padding

_SWITCH = "DEEPLAB_ONEDNN"
_TARGET = "__onednn$convolution"
ACTIVATIONS = {
  None: [],
  nn.relu: ["RELU"],
  nn.relu6: ["RELU6"],
  nn.silu: ["SWISH"],
  gelu: ["GELU_ERF"],
}
"""Those that a call can apply to its result."""

# Beyond, oneDNN may compute depthwise convolutions by its `gemm` form, which is
# slow and waits for ever for threads of XLA's that wait for it.
_DEPTHWISE_PADDING = 4


# What a CPU must have, by the type that is convolved. In bfloat16 oneDNN would
# do without, many times slower than in float32.
_INSTRUCTIONS = {"float32": "avx2", "bfloat16": "avx512_bf16"}


@functools.cache
def is_available(dtype: jax.typing.DTypeLike = "float32") -> bool:
  """Whether programs compiled now can hold these calls for networks of `dtype`.

  Under Linux where they passed a trial, which takes some seconds, once: float32
  on CPUs with AVX2, bfloat16, whose networks may have layers in float32, on
  those with AVX512_BF16, as all with AMX have it. `DEEPLAB_ONEDNN=0` says no,
  `=1` yes without a trial. That a CPU is slow in bfloat16 is said in a line of
  log.
  """
  wanted = os.environ.get(_SWITCH)
  if wanted not in ("0", "1", None):
    raise ValueError(f"{_SWITCH} must be 0 or 1, got {wanted!r}")
  name = jnp.dtype(dtype).name
  if wanted == "0" or jax.default_backend() != "cpu":
    return False
  if not _has_unit(name):
    if name == "bfloat16":
      logging.getLogger(__name__).warning(
        "this CPU has no instructions for bfloat16 (AVX512_BF16), in which the "
        "network takes about three times as long as with dtype float32"
      )
    return False
  if name != "float32" and not is_available():
    return False
  return wanted == "1" or verdict.passes(name)


def _has_unit(dtype: str) -> bool:
  facts = pathlib.Path("/proc/cpuinfo")
  return (
    facts.exists() and _INSTRUCTIONS.get(dtype) in facts.read_text().split()
  )


def takes(x: jax.Array, kernel: jax.Array, padding: Padding) -> bool:
  """Whether `convolution` may be given these arguments."""
  sides, reach = x.shape[1:3], max(map(max, padding))
  if kernel.shape[2] < x.shape[3]:
    is_safe = reach <= _DEPTHWISE_PADDING and 4 * reach <= min(sides)
  else:  # tokens are a map of one row
    is_safe = (max if kernel.shape[:2] == (1, 1) else min)(sides) > 1
  is_known = x.dtype == kernel.dtype and x.dtype.name in _INSTRUCTIONS
  return is_safe and is_known and x.shape[0] > 0


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  bias: jax.Array,
  *,
  padding: Padding,
  stride: int = 1,
  rate: int | tuple[int, int] = 1,
  shortcut: jax.Array | None = None,
  activation: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Convolves, adds bias and shortcut, activates.

  Args:
    x: `(b, h, w, c)`, float32 or bfloat16.
    kernel: `(kh, kw, c, d)`, or `(kh, kw, 1, c)` for a depthwise convolution;
      of the dtype of `x`.
    bias: float32 `(d,)`.
    padding: zeros before and after, of rows and of columns.
    stride: of the output positions.
    rate: atrous rate; of rows and of columns where they differ.
    shortcut: of the result's shape and dtype.
    activation: a key of `ACTIVATIONS`.

  Returns:
    `(b, h', w', d)` of the dtype of `x`; sums are in float32.
  """
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  sides = [
    (size + sum(pads) - (taps - 1) * step - 1) // stride + 1
    for size, pads, taps, step in zip(
      x.shape[1:3], padding, kernel.shape, rates
    )
  ]
  shape = (x.shape[0], *sides, kernel.shape[3])
  added = [] if shortcut is None else [shortcut]
  config = {
    "dims": 4,
    "input": {"data": _FEATURES},
    "kernel": {"filter": _KERNEL},
    "output": {"data": _FEATURES},
    "window": {
      "size": kernel.shape[:2],
      "pad_left": [before for before, _ in padding],
      "pad_right": [after for _, after in padding],
      "strides": [stride, stride],
      "window_dilations": rates,
    },
    "feature_groups": x.shape[3] // kernel.shape[2],
    "fusions": {
      "ops": [
        "BIAS",
        *(["BINARY_ADD"] if added else []),
        *ACTIVATIONS[activation],
      ]
    },
  }
  call = jax.ffi.ffi_call(
    _TARGET,
    jax.ShapeDtypeStruct(shape, x.dtype),
    custom_call_api_version=1,
    legacy_backend_config=json.dumps({"onednn_conv_config": config}),
  )
  return call(x, kernel, bias, *added)


_FEATURES = {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
_KERNEL = {
  "input_feature_dim": 2,
  "output_feature_dim": 3,
  "spatial_dims": [0, 1],
}


def compiled(lowered: jax.stages.Lowered) -> Any:
  """Compiles, and past jax's persistent cache if there are such calls."""
  if _TARGET not in lowered.as_text():
    return lowered.compile()
  with _uncached():
    return lowered.compile()


_lock = threading.Lock()
_compiling = 0
_shortest = 0.0


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
  """Nothing compiles for so long within it that jax would store it."""
  global _compiling, _shortest
  name = "jax_persistent_cache_min_compile_time_secs"
  with _lock:
    if not _compiling:
      _shortest = getattr(jax.config, name)
      jax.config.update(name, float("inf"))
    _compiling += 1
  try:
    yield
  finally:
    with _lock:
      _compiling -= 1
      if not _compiling:
        jax.config.update(name, _shortest)
