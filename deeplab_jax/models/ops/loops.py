"""Elementwise loops in the form that XLA's CPU backend runs fastest."""

import functools
import itertools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from deeplab_jax.models.ops.whole import whole

_MASKS = tuple(range(1, 12))


@whole
def all_threads(x: jax.Array) -> jax.Array:
  """`x` (any float dtype) to the last bit, from a loop on all threads.

  XLA's CPU backend gives a fused loop all threads if it counts more operations
  than bytes in it, and else only their square root: two of four, four of
  sixteen. Here a dozen operations more are counted for each element. They
  cancel out, which XLA does not see; the compiler behind it does.
  """
  return _all_threads(x)


@jax.jit  # traced once for each shape
def _all_threads(x):
  return lax.platform_dependent(x, cpu=_counted, default=lambda x: x)


@jax.custom_vjp
def _counted(x):
  bits = lax.bitcast_convert_type(x, jnp.dtype(f"int{8 * x.dtype.itemsize}"))
  for mask in (*_MASKS, functools.reduce(operator.xor, _MASKS)):
    bits ^= mask
  return lax.bitcast_convert_type(bits, x.dtype)


_counted.defvjp(lambda x: (_counted(x), None), lambda _, dx: (dx,))


def joined(maps: tuple[jax.Array, ...]) -> jax.Array:
  """One map of the channels of all, in their order; for inference.

  On CPU a sum of maps widened by zeros, which XLA fuses with what comes before
  and after, as it does not concatenation.
  """
  return lax.platform_dependent(*maps, cpu=_sum_widened, default=_concatenated)


def concatenated(maps: tuple[jax.Array, ...]) -> jax.Array:
  """One map of the channels of all, in their order.

  In bfloat16 on CPU by their bits: XLA would bring all to float32 and back.
  """
  if maps[0].dtype != jnp.bfloat16:
    return _concatenated(*maps)
  by_bits = functools.partial(_by_bits, tuple(x.shape[-1] for x in maps))
  return lax.platform_dependent(*maps, cpu=by_bits, default=_concatenated)


@whole
def in_turn(
  function: Callable[[jax.Array], jax.Array], *maps: jax.Array
) -> list[jax.Array]:
  """What `function` makes of each of some maps of one shape.

  One after the other, in one loop: half the memory and half the compilation of
  two.
  """
  return list(lax.map(function, jnp.stack(maps)))


def _concatenated(*maps):
  return jnp.concatenate(maps, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_bits(_, *maps):
  bits = (lax.bitcast_convert_type(x, jnp.uint16) for x in maps)
  return lax.bitcast_convert_type(_concatenated(*bits), maps[0].dtype)


_by_bits.defvjp(
  lambda widths, *maps: (_by_bits(widths, *maps), None),
  lambda widths, _, dy: jnp.split(
    dy, list(itertools.accumulate(widths))[:-1], -1
  ),
)


def _sum_widened(*maps):
  ends = tuple(itertools.accumulate(one.shape[-1] for one in maps))
  widened = []
  for end, one in zip(ends, maps):
    pads = (end - one.shape[-1], ends[-1] - end, 0)
    config = ((0, 0, 0),) * (one.ndim - 1) + (pads,)
    widened.append(lax.pad(one, jnp.zeros((), one.dtype), config))
  return functools.reduce(jnp.add, widened)
