"""Padding, batch normalisation and resizing against NumPy, attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models.layers import BatchNorm
from deeplab_jax.models.ops.attention import attention
from deeplab_jax.models.ops.convolution import conv, max_pool, same_padding
from deeplab_jax.models.ops.resize import resize_bilinear, resized_argmax
from tests.golden.network import relative_error


def _normal(*shapes) -> list[np.ndarray]:
  """Random float32 arrays of these shapes."""
  random = np.random.default_rng(0)
  return [random.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.mark.parametrize("size", [7, 8])
def test_explicit_stride_two_is_stride_one_subsampled(size):
  x, kernel = _normal((1, size, size, 3), (3, 3, 3, 4))
  np.testing.assert_allclose(
    conv(x, kernel, stride=2), conv(x, kernel)[:, ::2, ::2], atol=1e-5
  )


@pytest.mark.parametrize(
  "size,taps,pads", [(7, 3, (1, 1)), (8, 3, (0, 1)), (8, 7, (2, 3))]
)
def test_tensorflow_padding_of_stride_two(size, taps, pads):
  assert same_padding(size, taps, 2, 1, "tensorflow") == pads


def test_max_pool_of_even_size_starts_at_pixel_zero():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[10, 11], [14, 15]])


def test_one_by_one_with_stride_subsamples_from_zero():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  y = conv(x, jnp.ones((1, 1, 1, 1)), stride=2)
  np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [6, 8]])


@pytest.mark.parametrize("rule", ["explicit", "tensorflow"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
  "taps,channels,features", [(1, 5, 7), (3, 3, 7), (3, 5, 7), (3, 128, 130)]
)
def test_conv_and_its_gradients_equal_lax(
  taps, channels, features, stride, rule
):
  """1x1 kernels, those of images and wide 3x3 ones have forms of their own."""
  x, kernel = _normal((2, 9, 8, channels), (taps, taps, channels, features))
  pads = [same_padding(n, taps, stride, 1, rule) for n in x.shape[1:3]]

  def by_lax(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      pads,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  def ours(x, kernel):
    return conv(x, kernel, stride=stride, padding=rule)

  (dy,) = _normal(jax.eval_shape(by_lax, x, kernel).shape)

  @functools.partial(jax.jit, static_argnums=0)
  def with_gradients(convolve, x, kernel):
    y, pullback = jax.vjp(convolve, x, kernel)
    return y, *pullback(dy)

  expected = with_gradients(by_lax, x, kernel)
  without_residuals = jax.jit(ours)(x, kernel)
  np.testing.assert_allclose(
    without_residuals, expected[0], rtol=1e-5, atol=1e-4
  )
  for a, b in zip(with_gradients(ours, x, kernel), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rule", ["explicit", "tensorflow"])
@pytest.mark.parametrize("size", [(9, 8), (5, 12), (2, 3)])
def test_max_pool_gradient_goes_to_the_first_maximum(size, rule):
  # Few values, so that many windows hold their maximum more than once.
  x = np.random.default_rng(0).integers(0, 3, (2, *size, 3)).astype(np.float32)
  pads = [same_padding(n, 3, 2, 1, rule) for n in size]

  @jax.jit
  def pooled(x):
    y, pullback = jax.vjp(lambda x: max_pool(x, rule), x)
    dy = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
    return y, dy, pullback(dy)[0]

  y, dy, dx = pooled(x)
  expected = np.zeros((2, size[0] + 3, size[1] + 3, 3))
  padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
  for b, i, j, c in np.ndindex(y.shape):
    window = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
    row, column = divmod(int(window.argmax()), window.shape[1])
    expected[b, 2 * i + row, 2 * j + column, c] += dy[b, i, j, c]
  top, left = pads[0][0], pads[1][0]
  expected = expected[:, top : top + size[0], left : left + size[1]]
  np.testing.assert_allclose(dx, expected, atol=1e-6)


def batch_norm_numpy(x, epsilon):
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(var + epsilon), mean, var


@pytest.mark.parametrize("shift", [0, 300])
def test_batch_norm_trains_with_unbiased_moving_variance(shift):
  x = np.random.default_rng(0).normal(shift, 2, (3, 4, 5, 6))
  x = x.astype(np.float32)
  norm = BatchNorm(momentum=0.9, epsilon=1e-3)
  variables = norm.init(jax.random.key(0), x, use_batch_stats=False)
  stats = {"mean": jnp.full(6, float(shift)), "var": jnp.ones(6)}
  y, updated = norm.apply(
    variables | {"batch_stats": stats},
    x,
    use_batch_stats=True,
    mutable=["batch_stats"],
  )
  expected, mean, var = batch_norm_numpy(x.astype(np.float64), 1e-3)
  np.testing.assert_allclose(y, expected, atol=3e-4)
  moved = updated["batch_stats"]
  np.testing.assert_allclose(
    moved["mean"], 0.9 * shift + 0.1 * mean, rtol=1e-5, atol=1e-5
  )
  unbiased = var * 60 / 59
  np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * unbiased, rtol=1e-4)


def test_batch_norm_of_a_single_value_is_finite():
  norm = BatchNorm(momentum=0.9, epsilon=1e-3)
  x = jnp.ones((1, 1, 1, 2))
  variables = norm.init(jax.random.key(0), x, use_batch_stats=False)
  y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
  assert np.isfinite(y).all()
  np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9, rtol=1e-6)


def resize_numpy(x, size):
  """Corner-aligned, one pixel at a time, in float64."""
  out = np.zeros((x.shape[0], *size, x.shape[3]))
  scales = [
    (n - 1) / (m - 1) if m > 1 else 0 for n, m in zip(x.shape[1:3], size)
  ]
  for i in range(size[0]):
    for j in range(size[1]):
      positions = (i * scales[0], j * scales[1])
      low = [int(np.floor(p + 1e-9)) for p in positions]
      high = [min(a + 1, n - 1) for a, n in zip(low, x.shape[1:3])]
      u, v = (p - a for p, a in zip(positions, low))
      top = (1 - v) * x[:, low[0], low[1]] + v * x[:, low[0], high[1]]
      bottom = (1 - v) * x[:, high[0], low[1]] + v * x[:, high[0], high[1]]
      out[:, i, j] = (1 - u) * top + u * bottom
  return out


@pytest.mark.parametrize("size", [(9, 13), (3, 4), (1, 1), (5, 7), (2, 30)])
def test_resize_bilinear_aligns_corners(size):
  x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
  np.testing.assert_allclose(
    resize_bilinear(x, size), resize_numpy(x, size), atol=2e-5
  )


def test_resize_bilinear_equals_the_official(shared, exactness):
  golden = np.load(shared / "reference" / "golden" / "resize.npz")
  image = jnp.asarray(golden["image"], jnp.float32)
  image = image if image.ndim == 4 else image[None]
  names = [n for n in golden.files if n.startswith("bilinear_")]
  assert len(names) > 3
  for name in names:
    size = tuple(int(n) for n in name.split("_")[-1].split("x"))
    x = image[:, :1, :1] if "from1x1" in name else image
    ours = np.asarray(jax.jit(resize_bilinear, static_argnums=1)(x, size))
    error = relative_error(ours.reshape(golden[name].shape), golden[name])
    exactness.check("resize.npz", "bilinear", error, 1e-6)


def test_resize_bilinear_gradient_is_the_transpose():
  x, dy = _normal((2, 5, 7, 3), (2, 9, 4, 3))
  resized = functools.partial(resize_bilinear, size=(9, 4))
  (dx,) = jax.jit(lambda x, dy: jax.vjp(resized, x)[1](dy))(x, dy)
  inner = (resize_numpy(x, (9, 4)) * dy).sum()
  np.testing.assert_allclose((x * dx).sum(), inner, rtol=1e-4)


def test_resize_bilinear_names_what_is_wrong():
  with pytest.raises(ValueError, match=r"\(b, h, w, c\).*got shape \(3, 3\)"):
    resize_bilinear(jnp.ones((3, 3)), (5, 5))
  with pytest.raises(ValueError, match=r"size \(0, 5\)"):
    resize_bilinear(jnp.ones((1, 3, 3, 1)), (0, 5))


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ((1, 9, 9, 21), (33, 33)),
    ((3, 9, 17, 2), (65, 129)),
    ((2, 5, 8, 150), (38, 41)),
    ((2, 8, 5, 21), (50, 64)),
    ((2, 9, 9, 7), (4, 7)),
    ((2, 9, 9, 7), (9, 9)),
    ((2, 9, 6, 7), (9, 20)),
    ((2, 1, 1, 21), (6, 7)),
    ((2, 1, 4, 21), (1, 9)),
    ((1, 3, 3, 300), (9, 9)),
  ],
)
def test_resized_argmax_is_the_largest_of_the_resized(users_jit, shape, size):
  found = users_jit(functools.partial(resized_argmax, size=size))
  expected = users_jit(lambda x: resize_bilinear(x, size).argmax(-1))
  generator = np.random.default_rng(0)
  for levels in (2, 1000):  # few levels make many ties
    x = np.float32(generator.integers(levels, size=shape)) / 7 - 1
    assert found(x).dtype == jnp.int32
    np.testing.assert_array_equal(found(x), expected(x))


@pytest.mark.parametrize(
  "dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)]
)
def test_attention_is_what_jax_defines(dtype, tolerance):
  arrays = np.random.default_rng(0).standard_normal((3, 2, 21, 4, 64))
  arrays = [jnp.asarray(x, dtype) for x in arrays]

  def both(function):
    y, pullback = jax.vjp(function, *arrays)
    return [y, *pullback(y)]

  wanted = jax.jit(both, static_argnums=0)(jax.nn.dot_product_attention)
  for found, want in zip(jax.jit(both, static_argnums=0)(attention), wanted):
    assert found.dtype == want.dtype
    found, want = (np.asarray(x, np.float32) for x in (found, want))
    np.testing.assert_allclose(found, want, atol=tolerance * np.abs(want).max())
