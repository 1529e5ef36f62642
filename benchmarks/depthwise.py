"""The part "depthwise": every lowering, lax's own, torch's; and gradients.

Shapes are those of Xception-65 at 513 x 513 and of its decoder, channels last.
"""

import argparse
import functools
import itertools
import sys
import typing
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import networks
from benchmarks.timing import Case, Comparison, Contender, Program, measure
from deeplab_jax.models.ops.depthwise import Lowering, depthwise_conv

# Height and width, channels, rate.
_SHAPES = (
  (129, 128, 1),
  (129, 304, 1),
  (65, 256, 1),
  (33, 728, 1),
  (33, 1536, 2),
  (33, 2048, 6),
  (33, 2048, 12),
  (33, 2048, 18),
)
_PASSES = ("forward", "input gradient", "kernel gradient")
_TOLERANCE = 1e-4
# Passes in a sample: alone, one would mostly wait for threads.
_CALLS = 5


def run_depthwise(options: argparse.Namespace) -> Iterator[Comparison]:
  """Each shape, forward and both gradients; the first is the default."""
  for shape, dtype, batch in itertools.product(
    _SHAPES, options.dtypes, options.batches
  ):
    size, channels, rate = shape
    arrays = _arrays(batch, size, channels)
    for what in _PASSES:
      name = f"{channels} channels, rate {rate}"
      case = Case("depthwise", name, what, size, batch, dtype)
      print(f"depthwise: {case}", file=sys.stderr)
      contenders = [
        Contender(
          f"jax {lowering or 'default'}",
          functools.partial(_start_jax, case, rate, lowering, arrays),
        )
        for lowering in (None, *typing.get_args(Lowering))
      ]
      if "torch" in options.against:
        from benchmarks import torch_layers

        contenders += torch_layers.depthwise(case, options.device, rate, arrays)
      exact = dtype == "float32" and options.device == "cpu"
      check = functools.partial(_check, _TOLERANCE if exact else np.inf)
      yield (
        case,
        measure(
          contenders,
          rounds=options.rounds,
          calls=max(options.calls, _CALLS),
          warm=options.warm,
          check=check,
        ),
      )


def _arrays(batch: int, size: int, channels: int) -> list[np.ndarray]:
  """Input, kernel and gradient of the output."""
  generator = np.random.default_rng(0)
  shapes = (batch, size, size, channels), (3, 3, 1, channels)
  x, kernel, dy = (
    generator.standard_normal(shape, np.float32)
    for shape in (*shapes, shapes[0])
  )
  return [x, kernel, dy]


def _start_jax(case: Case, rate: int, lowering: str, arrays: list) -> Program:
  convolve = functools.partial(
    depthwise_conv, padding=((rate, rate),) * 2, rate=rate, lowering=lowering
  )

  def run(x, kernel, dy):
    if case.what == "forward":
      return convolve(x, kernel)
    if case.what == "input gradient":
      return jax.vjp(lambda x: convolve(x, kernel), x)[1](dy)[0]
    return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](dy)[0]

  return networks.start_function(run, arrays, case.dtype)


def _check(
  tolerance: float, reference: np.ndarray, output: np.ndarray
) -> float:
  difference = np.abs(output - reference).max() / np.abs(reference).max()
  if not difference <= tolerance:
    raise ValueError(f"differs by {difference:.1e}, more than {tolerance}")
  return float(difference)
