"""Every backbone, as parameters of tests: one of each kind, the others slow."""

import pytest

from deeplab_jax.models import BACKBONES, convnext, efficient, vit

_SMALLEST = {
  "convnext_atto",
  "mobilenetv4_conv_small",
  "tf_efficientnetv2_b0",
  "vit_small_patch14_dinov2",
  "vit_small_patch16_dinov3",
}
# These differ from the smallest in depths, channels and registers alone.
_LIKE_OTHERS = {
  *convnext.VARIANTS,
  *efficient.VARIANTS,
  *vit.VARIANTS,
} - _SMALLEST

EVERY_BACKBONE = [
  pytest.param(name, marks=[pytest.mark.slow] * (name in _LIKE_OTHERS))
  for name in BACKBONES
]
