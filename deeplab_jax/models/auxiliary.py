"""A second head, which helps to train the features that it is put on.

Zhao et al., "Pyramid scene parsing network", section 3.3. It gives logits of
its own in training alone; a network that labels pictures does not have it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.aspp import HEAD_NORM
from deeplab_jax.models.layers import Conv, ConvNorm, Norm, truncated_normal
from deeplab_jax.models.ops.precision import wide_dtype

NAME = "auxiliary"
"""Of the module."""


class AuxiliaryHead(nn.Module):
  """A 3x3 convolution to a quarter of the channels, dropout, the logits.

  Attributes:
    num_classes: channels of the logits.
    dropout_rate: before the logits, in training.
    norm: batch-norm settings.
    dtype: of the computation; logits are float32.
  """

  num_classes: int
  dropout_rate: float = 0.1
  norm: Norm = HEAD_NORM
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, use_batch_stats: bool, train: bool
  ) -> jax.Array:
    """Maps features `(b, h, w, c)` to logits `(b, h, w, num_classes)`."""
    x = ConvNorm(
      max(x.shape[-1] // 4, 1),
      self.norm,
      kernel_size=3,
      dtype=self.dtype,
      name="conv",
    )(x, use_batch_stats)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    wide = wide_dtype(self.dtype)
    logits = Conv(self.num_classes, truncated_normal(0.01), wide, name="logits")
    return logits(x)


def without_auxiliary(
  model: nn.Module, variables: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
  """`model` and its variables as they label pictures: without such a head."""
  if not getattr(model, NAME, ""):
    return model, variables
  return model.clone(auxiliary=""), {
    kind: {name: tree for name, tree in trees.items() if name != NAME}
    for kind, trees in variables.items()
  }
