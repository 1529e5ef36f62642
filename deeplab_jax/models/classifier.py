"""ImageNet classification heads, for pretraining a backbone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.backbones import build_backbone, find_backbone
from deeplab_jax.models.blocks import LayerNorm
from deeplab_jax.models.layers import (
  Conv,
  ConvNorm,
  SpatialMean,
  truncated_normal,
)
from deeplab_jax.models.mobilenet import KERNEL_INIT
from deeplab_jax.models.ops.precision import wide_dtype
from deeplab_jax.models.positions import PositionsOf


class Classifier(nn.Module):
  """A backbone, global average pooling and a linear layer.

  The parameters below `backbone` are those of `DeepLab` with that backbone.

  Attributes:
    num_classes: 1000, or 1001 as in the official checkpoints (0: background).
    backbone: a key of `BACKBONES`.
    width_multiplier: factor of all channels of a MobileNet backbone.
    output_stride: image pixels per feature before pooling.
    whole_patches: as in `DeepLab`.
    positions_of: as in `DeepLab`.
    drop_path_rate: as in `DeepLab`.
    batch_norm_momentum: share of the old moving statistics kept at each step;
      None takes the published one.
    dtype: of the computation; logits are float32.
  """

  num_classes: int = 1001
  backbone: str = "xception_65"
  width_multiplier: float = 1.0
  output_stride: int = 32
  whole_patches: bool = False
  positions_of: PositionsOf = "timm"
  drop_path_rate: float = 0.0
  batch_norm_momentum: float | None = None
  dtype: jnp.dtype = jnp.float32
  # Of the images, as `DeepLab` has them; these are all that there is.
  channels = 3
  image_dtype = "uint8"
  value_range = ()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    frozen_batch_norm: bool = False,
  ) -> jax.Array:
    """Maps `(b, h, w, 3)`, as `preprocess` gives them, to float32 logits.

    Args:
      images: any size from `output_stride` upwards.
      train: whether to drop out and to use (and update) batch statistics.
      frozen_batch_norm: in training, use the stored statistics.

    Returns:
      `(b, num_classes)`.
    """
    use_batch_stats = train and not frozen_batch_norm
    entry = find_backbone(self.backbone)
    # Multi-grid is for segmentation: the released classifiers have none.
    multi_grid = None if entry.multi_grid is None else (1, 1, 1)
    backbone = build_backbone(
      self.backbone,
      output_stride=self.output_stride,
      multi_grid=multi_grid,
      width_multiplier=self.width_multiplier,
      whole_patches=self.whole_patches,
      drop_path_rate=self.drop_path_rate if train else 0.0,
      batch_norm_momentum=self.batch_norm_momentum,
      dtype=self.dtype,
      positions_of=self.positions_of,
    )
    x, _ = backbone(images.astype(self.dtype), use_batch_stats)
    if entry.classifier_features:
      x = ConvNorm(
        int(entry.classifier_features * max(1, self.width_multiplier)),
        entry.norm.with_momentum(self.batch_norm_momentum),
        activation=nn.relu6,
        kernel_init=KERNEL_INIT,
        dtype=self.dtype,
        name="conv_1",
      )(x, use_batch_stats)
    wide = wide_dtype(self.dtype)
    x = SpatialMean(name="pooled")(x)
    if entry.classifier_norm:
      x = LayerNorm(name="pooled_norm")(x)
    dropout = nn.Dropout(entry.classifier_dropout, deterministic=not train)
    x = dropout(x)
    logits = Conv(self.num_classes, truncated_normal(0.01), wide, name="logits")
    return logits(x)[:, 0, 0]
