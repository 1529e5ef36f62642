"""Dense prediction cell (Chen et al., NeurIPS 2018) in place of ASPP.

The cell that architecture search found for Cityscapes, as released with
Xception-71: five separable convolutions, most of them fed by another's output.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.aspp import HEAD_NORM
from deeplab_jax.models.layers import ConvNorm, Norm, SeparableConv
from deeplab_jax.models.ops.loops import concatenated

# (rates of rows and columns at output stride 16, branch that feeds it); -1 is
# the backbone's feature.
_BRANCHES = (
  ((1, 6), -1),
  ((18, 15), 0),
  ((6, 3), 1),
  ((1, 1), 0),
  ((6, 21), 0),
)


class DPC(nn.Module):
  """The cell.

  Attributes:
    output_stride: of the features; at 8 the rates double.
    features: channels of every branch and of the result.
    dropout_rate: of the concatenated branches, in training.
    norm: batch-norm settings.
    dtype: of the computation.
  """

  output_stride: int = 16
  features: int = 256
  dropout_rate: float = 0.1
  norm: Norm = HEAD_NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool, train: bool
  ) -> jax.Array:
    """Maps `(b, h, w, c)` to `(b, h, w, features)`."""
    outputs = []
    for i, (rates, source) in enumerate(_BRANCHES):
      branch = SeparableConv(
        self.features,
        self.norm,
        rate=tuple(max(1, rate * 16 // self.output_stride) for rate in rates),
        dtype=self.dtype,
        name=f"branch{i}",
      )
      inputs = x if source < 0 else outputs[source]
      outputs.append(branch(inputs, use_batch_stats))
    x = concatenated(tuple(outputs))
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    projection = ConvNorm(
      self.features, self.norm, dtype=self.dtype, name="concat_projection"
    )
    return projection(x, use_batch_stats)
