"""Operations that are replaced as a whole while a network is traced."""

import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models.ops import convolution, resize
from deeplab_jax.models.ops.whole import replaced


def _maps(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_within_another_function_is_called_and_outside_the_operation():
  x = _maps(1, 4, 5, 2)
  before = resize.resize_bilinear(x, (7, 9))
  with replaced({"resize_bilinear": lambda x, size: size}):
    assert resize.resize_bilinear(x, (7, 9)) == (7, 9)
    with replaced({}):
      assert resize.resize_bilinear(x, (7, 9)).shape == (1, 7, 9, 2)
  with (
    pytest.raises(KeyError),
    replaced({"resize_bilinear": lambda x, size: 1}),
  ):
    raise KeyError
  np.testing.assert_array_equal(resize.resize_bilinear(x, (7, 9)), before)


def test_every_second_pixel():
  x = _maps(2, 5, 6, 3)
  np.testing.assert_array_equal(convolution.every(x, 2), x[:, ::2, ::2])


@pytest.mark.parametrize("size", [(3, 30), (7, 9), (8, 25)])
def test_windows_are_as_large_as_the_map_allows(size):
  x = np.asarray(_maps(2, *size, 3))
  found = convolution.mean_of_windows(x, 8, (2, 5))
  height, width = (min(8, side) for side in size)
  rows = range(0, size[0] - height + 1, 2)
  columns = range(0, size[1] - width + 1, 5)
  wanted = [
    [x[:, i : i + height, j : j + width].mean((1, 2)) for j in columns]
    for i in rows
  ]
  wanted = np.moveaxis(wanted, 2, 0)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
