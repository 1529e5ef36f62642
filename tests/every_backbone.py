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
# These differ from others in depths, channels and registers alone.
_LIKE_OTHERS = {
  *convnext.VARIANTS,
  *efficient.VARIANTS,
  *vit.VARIANTS,
} - _SMALLEST
_LIKE_OTHERS |= {"resnet_101", "resnet_101_beta", "resnet_101_torch"}
_LIKE_OTHERS |= {"xception_41", "xception_71", "mobilenet_v3_large_torch"}
_LIKE_OTHERS |= {"mobilenet_v2_1280_torch", "mobilenet_v3_large_seg"}

EVERY_BACKBONE = [
  pytest.param(name, marks=[pytest.mark.slow] * (name in _LIKE_OTHERS))
  for name in BACKBONES
]

ONE_OF_EACH = (
  "convnext_atto",
  "mobilenet_v2",
  "mobilenet_v2_padded_torch",
  "mobilenet_v3_small_seg",
  "mobilenetv4_conv_small",
  "resnet_50",
  "resnet_50_torch",
  "tf_efficientnetv2_b0",
  "vit_small_patch14_dinov2",
  "vit_small_patch16_dinov3",
  "xception_71",
)
