"""Dense features, subsampled, are the coarse ones: what atrous is for."""

import jax
import numpy as np
import pytest

from deeplab_jax.models.atrous import atrous_plan
from deeplab_jax.models.backbones import build_backbone
from tests.random_variables import random_variables

# One of every family and stem; depth adds nothing but time. MobileNetV3 is not
# here: its squeeze and excitation takes means, which differ between strides.
BACKBONES = {
  "xception_41": [(65, 33)],
  "xception_71": [(64, 48)],
  "resnet_50": [(65, 33), (64, 48)],
  "resnet_50_beta": [(33, 49)],
  "resnet_50_torch": [(64, 48)],
  "mobilenet_v2": [(65, 33), (64, 48)],
  "mobilenet_v2_torch": [(64, 48)],
}
CASES = [(name, size) for name, sizes in BACKBONES.items() for size in sizes]


def test_plan_delays_the_rate_by_one_unit():
  assert atrous_plan([2, 2, 2, 1], 4, 1) == [(2, 1), (2, 1), (1, 1), (1, 2)]
  assert atrous_plan([2, 2, 2, 2], 4, 2) == [(2, 1), (1, 1), (1, 2), (1, 4)]


def first_kept(size, dense, coarse, tensorflow_padding):
  """Index of the dense feature that is the first coarse one.

  TensorFlow's SAME centres a strided convolution on pixel 1 of even sizes.
  """
  offset, stride = 0, dense
  while tensorflow_padding and stride < coarse:
    side = -(-size // stride)
    offset += (stride // dense) * (side % 2 == 0)
    stride *= 2
  return offset


@pytest.mark.parametrize("name,size", CASES)
def test_dense_features_subsampled_equal_coarse(name, size):
  images = np.random.default_rng(0).normal(size=(1, *size, 3))
  images = images.astype(np.float32)
  variables, features = None, {}
  for stride in (8, 16, 32):
    backbone = build_backbone(name, output_stride=stride)
    variables = variables or random_variables(backbone, images, False)
    features[stride], low_levels = jax.jit(
      lambda v, x, backbone=backbone: backbone.apply(v, x, False)
    )(variables, images)
    assert features[stride].shape[1:3] == tuple(-(-n // stride) for n in size)
    assert low_levels["conv2"].shape[1:3] == tuple(-(-n // 4) for n in size)
  tensorflow_padding = name == "mobilenet_v2"
  for dense, coarse in ((8, 16), (16, 32), (8, 32)):
    rows, columns = (
      slice(
        first_kept(n, dense, coarse, tensorflow_padding), None, coarse // dense
      )
      for n in size
    )
    expected = np.asarray(features[coarse])
    np.testing.assert_allclose(
      features[dense][:, rows, columns],
      expected,
      atol=2e-5 * np.abs(expected).max(),
    )
