"""Dense features, subsampled, are the coarse ones: what atrous is for."""

import itertools

import jax
import numpy as np
import pytest

from deeplab_jax.models import BACKBONES, convnext, efficient, vit
from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.backbones import build_backbone
from tests.random_variables import random_variables

# One of every family; depth would add nothing but time, nor would other stems.
FAST = {
  "xception_71": (65, 33),
  "resnet_50": (64, 48),
  "mobilenet_v2": (64, 48),
  "convnext_atto": (64, 48),
  "tf_efficientnetv2_b0": (64, 48),
  "vit_small_patch14_dinov2": (65, 33),
}
# The official code adds a skip connection wherever a unit runs with stride 1
# and keeps its depth. Small MobileNetV3 has a strided unit that keeps it, which
# so gains a connection at a denser output stride.
CONSISTENT = set(BACKBONES) - {"mobilenet_v3_small_seg"}
# At output stride 8 features of ConvNeXt come out one pixel down and right, as
# timm's do; the last one of a side that strides do not divide is then cut off.
SHIFTED = set(convnext.VARIANTS)
# Maps of tokens are resized, corners to corners, which are pixels apart that
# strides divide in crops alone.
OF_CROPS = set(vit.VARIANTS)
# Strided convolutions of these pad as TensorFlow's SAME does.
TENSORFLOW_PADDING = {
  "mobilenet_v2",
  "mobilenet_v3_large_seg",
  "mobilenet_v3_small_seg",
  *efficient.EFFICIENTNET_V2_BASE,
  *efficient.EFFICIENTNET_V2,
}


def test_plan_delays_the_rate_by_one_unit():
  assert atrous_plan([2, 2, 2, 1], 4, 1) == [(2, 1), (2, 1), (1, 1), (1, 2)]
  assert atrous_plan([2, 2, 2, 2], 4, 2) == [(2, 1), (1, 1), (1, 2), (1, 4)]


def first_kept(size, dense, coarse, name):
  """Index of the dense feature that is the first coarse one.

  TensorFlow's SAME centres a strided convolution on pixel 1 of even sizes.
  """
  if name in SHIFTED:
    return int(dense == 8)
  offset, stride = 0, dense
  tensorflow_padding = name in TENSORFLOW_PADDING
  while tensorflow_padding and stride < coarse:
    side = -(-size // stride)
    offset += (stride // dense) * (side % 2 == 0)
    stride *= 2
  return offset


def constant_gates(variables):
  """Makes squeeze and excitation a constant factor.

  Its means are taken over the map, and those of a dense map differ.
  """

  def change(path, leaf):
    kept = "squeeze_excite" not in str(path) or path[-1].key == "bias"
    return leaf if kept else np.zeros(leaf.shape, leaf.dtype)

  return jax.tree_util.tree_map_with_path(change, variables)


def _sizes(name):
  if name in OF_CROPS:
    return [(65, 33), (97, 161)]
  return [(64, 48)] + [(65, 33), (48, 65)] * (name not in SHIFTED)


@pytest.mark.parametrize("name,size", FAST.items())
@pytest.mark.usefixtures("shallow_backbones")
def test_dense_features_subsampled_equal_coarse(name, size):
  check_consistency(name, size, (8, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name,size",
  [(name, size) for name in sorted(CONSISTENT) for size in _sizes(name)],
)
def test_every_backbone_is_consistent(name, size):
  check_consistency(name, size)


def check_consistency(name, size, strides=(8, 16, 32)):
  images = np.random.default_rng(0).normal(size=(1, *size, 3))
  images = images.astype(np.float32)
  variables, features = None, {}
  for stride in strides:
    backbone = build_backbone(name, output_stride=stride)
    if variables is None:
      variables = constant_gates(random_variables(backbone, images, False))
    features[stride], low_levels = jax.jit(
      lambda v, x, backbone=backbone: backbone.apply(v, x, False)
    )(variables, images)
    assert features[stride].shape[1:3] == tuple(-(-n // stride) for n in size)
    assert low_levels["conv2"].shape[1:3] == tuple(-(-n // 4) for n in size)
  for dense, coarse in itertools.combinations(strides, 2):
    rows, columns = (
      slice(
        first_kept(n, dense, coarse, name),
        None,
        coarse // dense,
      )
      for n in size
    )
    expected = np.asarray(features[coarse])
    np.testing.assert_allclose(
      features[dense][:, rows, columns],
      expected,
      atol=2e-5 * np.abs(expected).max(),
    )
