"""What is computed with more digits than maps are stored with."""

import jax
import jax.numpy as jnp


def wide_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
  """float32, or `dtype` if it is wider."""
  return jnp.promote_types(dtype, jnp.float32)


def wide(x: jax.Array) -> jax.Array:
  """`x` in float32 or wider."""
  return x.astype(wide_dtype(x.dtype))
