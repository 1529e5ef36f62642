"""What a device does at best: products of large matrices, reading, writing."""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Contender, Program, measure

_ARRAYS = tuple(2**i for i in range(19, 29))  # bytes: 0.5 to 256 MiB
_TURNS = 20
_SIDE = {"cpu": 2048, "gpu": 8192}


@dataclasses.dataclass(frozen=True)
class Rates:
  """What the device does at best.

  Attributes:
    flops: a second, of a large matrix product.
    bandwidths: bytes read and written a second, by bytes copied.
  """

  flops: float
  bandwidths: dict[int, float]

  def floor(self, flops: float, nbytes: float) -> float:
    """Seconds that so many operations and bytes take at least."""
    sizes, rates = zip(*sorted(self.bandwidths.items()))
    rate = np.interp(np.log(nbytes), np.log(sizes), rates)
    return max(flops / self.flops, nbytes / rate)

  def __str__(self) -> str:
    slow, fast = (
      round(pick(self.bandwidths.values()) / 1e9) for pick in (min, max)
    )
    return f"{self.flops / 1e9:.0f} GFLOP/s, {slow} to {fast} GB/s"


def measure_rates(options: argparse.Namespace, dtype: str) -> Rates:
  """Times a large matrix product, and arrays negated over and over."""
  side = _SIDE[options.device]
  contenders = [_product(side, dtype)]
  if "torch" in options.against:
    from benchmarks import torch_layers

    start = functools.partial(
      torch_layers.start_product, options.device, side, dtype
    )
    contenders.append(Contender("torch", start))
  products = measure(contenders, rounds=10, quiet=True)
  bandwidths = {}
  for nbytes in _ARRAYS:
    (result,) = measure([_stream(nbytes // 4)], rounds=10, quiet=True)
    bandwidths[2 * nbytes] = 2 * nbytes * _TURNS / min(result.seconds)
  best = min(min(result.seconds, default=np.inf) for result in products)
  return Rates(2 * side**3 / best, bandwidths)


def _product(side: int, dtype: str) -> Contender:
  a = jnp.ones((side, side), dtype)
  product = jax.jit(jnp.matmul)
  return Contender(
    "jax", lambda: Program(lambda: product(a, a), jax.block_until_ready)
  )


def _stream(size: int) -> Contender:
  """Reads and writes an array `_TURNS` times in a call."""
  x = jnp.ones(size, jnp.float32)

  @jax.jit
  def run(x):
    return jax.lax.fori_loop(0, _TURNS, lambda _, x: -x, x)

  return Contender(
    "jax", lambda: Program(lambda: run(x), jax.block_until_ready)
  )
