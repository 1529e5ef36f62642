"""Attention without its parameters."""

import jax

from deeplab_jax.models.ops.whole import whole


@whole
def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """For every query the mean of the values, weighed by how well keys fit.

  Args:
    query: `(b, n, heads, c)`.
    key: of the same shape.
    value: of the same shape.

  Returns:
    The same shape. Weights are the softmax of the products of queries and keys
    over the root of c, computed in float32 or wider.
  """
  return jax.nn.dot_product_attention(query, key, value)
