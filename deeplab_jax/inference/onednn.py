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
# Taps of a depthwise kernel on each side of its middle, from which on it pays
# to take a map apart into phases; with 3x3 kernels that costs what it gains.
_LEAST_REACH = 2


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


def takes(
  x: jax.Array,
  kernel: jax.Array,
  padding: Padding,
  stride: int = 1,
  rate: int | tuple[int, int] = 1,
) -> bool:
  """Whether `convolution` may be given these arguments."""
  is_known = x.dtype == kernel.dtype and x.dtype.name in _INSTRUCTIONS
  is_safe = _is_safe(x.shape, kernel.shape, padding)
  is_safe = is_safe or bool(_phases(x, kernel, padding, stride, rate))
  return is_safe and is_known and x.shape[0] > 0


def _is_safe(x: tuple[int, ...], kernel: tuple[int, ...], padding) -> bool:
  """Whether maps and kernels of these shapes are no matter of `gemm`."""
  sides, reach = x[1:3], max(map(max, padding))
  if kernel[2] < x[3]:
    return reach <= _DEPTHWISE_PADDING and 4 * reach <= min(sides)
  # Tokens are a map of one row.
  return (max if kernel[:2] == (1, 1) else min)(sides) > 1


def _phases(x, kernel, padding, stride, rate) -> tuple[int, int] | None:
  """In how many phases of rows and of columns a call sees a map.

  An atrous kernel with steps of `rate` looks at every so many pixels alone: the
  map falls into so many, of which each is convolved without steps, all in one
  call. None where that is not the same, or would not pay.
  """
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  reaches = [taps // 2 for taps in kernel.shape[:2]]
  centred = tuple((n * step, n * step) for n, step in zip(reaches, rates))
  odd = all(taps % 2 for taps in kernel.shape[:2])
  if stride != 1 or not odd or tuple(map(tuple, padding)) != centred:
    return None
  if kernel.shape[2] == x.shape[3] or max(reaches) < _LEAST_REACH:
    return None
  sides = [-(-side // step) for side, step in zip(x.shape[1:3], rates)]
  pads = tuple((n, n) for n in reaches)
  shape = (x.shape[0], *sides, x.shape[3])
  return rates if _is_safe(shape, kernel.shape, pads) else None


def _split(x: jax.Array, phases: tuple[int, int]) -> jax.Array:
  """The phases of `x` (b, h, w, c), filled up with zeros, as a larger batch."""
  (b, h, w, c), (rows, columns) = x.shape, phases
  fill = ((0, 0), (0, -h % rows), (0, -w % columns), (0, 0))
  x = jnp.pad(x, fill)
  x = x.reshape(b, -(-h // rows), rows, -(-w // columns), columns, c)
  x = x.transpose(0, 2, 4, 1, 3, 5)
  return x.reshape(b * rows * columns, *x.shape[3:])


def _joined(
  y: jax.Array, phases: tuple[int, int], size: tuple[int, int]
) -> jax.Array:
  """The map of `size` whose phases `y` are."""
  rows, columns = phases
  y = y.reshape(-1, rows, columns, *y.shape[1:]).transpose(0, 3, 1, 4, 2, 5)
  y = y.reshape(y.shape[0], y.shape[1] * rows, -1, y.shape[5])
  return y[:, : size[0], : size[1]]


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
  phases = None
  if not _is_safe(x.shape, kernel.shape, padding):
    phases = _phases(x, kernel, padding, stride, rates)
  if phases:
    y = convolution(
      _split(x, phases),
      kernel,
      bias,
      padding=tuple((taps // 2, taps // 2) for taps in kernel.shape[:2]),
      shortcut=None if shortcut is None else _split(shortcut, phases),
      activation=activation,
    )
    return _joined(y, phases, x.shape[1:3])
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
