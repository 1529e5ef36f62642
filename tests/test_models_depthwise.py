"""Every lowering equals the definition, forward and in both gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models.ops.convolution import same_padding
from deeplab_jax.models.ops.depthwise import depthwise_conv

SIZES = ((9, 8), (5, 7))
RATES = (1, (1, 3), 6)


def padding(size, taps, stride, rate, rule):
  rates = rate if isinstance(rate, tuple) else (rate, rate)
  return tuple(
    same_padding(n, taps, stride, r, rule) for n, r in zip(size, rates)
  )


def forward_and_gradients(lowering, x, kernel, geometries):
  """The map and both gradients of every geometry, as one program."""

  @jax.jit
  def run(x, kernel):
    results = []
    for geometry in geometries:
      convolve = functools.partial(
        depthwise_conv, lowering=lowering, **geometry
      )
      y, pullback = jax.vjp(convolve, x, kernel)
      dy = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
      results += [a.astype(jnp.float32) for a in (y, *pullback(dy))]
    return results

  return run(x, kernel)


@pytest.mark.parametrize(
  "taps,stride,rule",
  [
    (3, 1, "explicit"),
    (3, 2, "explicit"),
    (3, 2, "tensorflow"),
    (5, 2, "tensorflow"),
  ],
)
def test_shift_equals_lax(taps, stride, rule):
  check_shift_equals_lax(taps, stride, rule, SIZES, RATES)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["explicit", "tensorflow"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_shift_equals_lax_in_a_wide_sweep(taps, stride, rule):
  sizes = ((1, 1), (2, 9), (16, 20), (33, 33))
  check_shift_equals_lax(
    taps, stride, rule, sizes, (1, 2, 3, (1, 6), 18, (18, 15))
  )


def check_shift_equals_lax(taps, stride, rule, sizes, rates):
  random = np.random.default_rng(0)
  kernel = random.standard_normal((taps, taps, 1, 3)).astype(np.float32)
  for size in sizes:
    x = random.standard_normal((2, *size, 3)).astype(np.float32)
    geometries = [
      {
        "stride": stride,
        "rate": rate,
        "padding": padding(size, taps, stride, rate, rule),
      }
      for rate in rates
    ]
    ours = forward_and_gradients("shift", x, kernel, geometries)
    definition = forward_and_gradients("lax", x, kernel, geometries)
    assert len(ours) == 3 * len(rates)
    for a, b in zip(ours, definition, strict=True):
      # A kernel's gradient sums thousands of products; found 2e-5 of 60.
      atol = 1e-6 * max(10, np.abs(b).max())
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def test_bfloat16_sums_in_float32():
  random = np.random.default_rng(1)
  x = jnp.asarray(random.standard_normal((2, 9, 9, 4)), jnp.bfloat16)
  kernel = jnp.asarray(random.standard_normal((3, 3, 1, 4)), jnp.bfloat16)
  geometries = [
    {"rate": rate, "padding": ((rate, rate), (rate, rate))} for rate in (1, 6)
  ]
  in_float32 = x.astype(jnp.float32), kernel.astype(jnp.float32)
  wide = forward_and_gradients("lax", *in_float32, geometries)
  ours = forward_and_gradients("shift", x, kernel, geometries)
  # One rounding of the sum to 8 bits; 9 roundings would reach 3e-2.
  for i in (0, 3):
    np.testing.assert_allclose(ours[i], wide[i], rtol=2**-8, atol=1e-6)


def test_platform_choice_is_the_shift_on_cpu():
  x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 1, 2))

  def convolve(x):
    return depthwise_conv(x, kernel, padding=((1, 1), (1, 1)))

  compiled = jax.jit(convolve).lower(x).compile().as_text()
  assert "convolution(" not in compiled
  np.testing.assert_array_equal(convolve(x)[0, :, :, 0][0], [4, 6, 6, 6, 4])
