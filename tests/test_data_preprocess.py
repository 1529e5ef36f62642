"""Scaling, padding, cropping and flipping against the official graph's output.

The reference below is written with plain indexing, as TensorFlow's legacy
kernels describe themselves, and is itself held against the golden arrays.
"""

import numpy as np
import pytest

from deeplab_jax.data import preprocess
from deeplab_jax.data.preprocess import Crop

_SCALES = ("0.50", "0.75", "1.00", "1.25", "1.50", "2.00")
_RANGES = (
  (20, 20, None),
  (20, 20, 4),
  (17, 33, 16),
  (9, None, None),
  (33, 33, 16),
)
_GREY = (127.5, 127.5, 127.5)


@pytest.fixture(scope="module")
def golden(shared):
  return np.load(shared / "reference/golden/preprocess.npz")


def _bilinear(image, size):
  """Corner-aligned bilinear resize in float64."""
  for axis, out in enumerate(size):
    n = image.shape[axis]
    position = np.arange(out) * ((n - 1) / max(out - 1, 1))
    low = np.minimum(position.astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    part = np.expand_dims(position - low, tuple({0, 1, 2} - {axis}))
    low, high = (np.take(image, i, axis).astype(float) for i in (low, high))
    image = low + (high - low) * part
  return image


def _nearest(label, size):
  """Corner-aligned nearest resize, halves away from zero."""
  index = [
    [
      min(int(np.floor(np.float32(i) * np.float32(step) + 0.5)), n - 1)
      for i in range(out)
    ]
    for n, out, step in (
      (n, out, (n - 1) / max(out - 1, 1)) for n, out in zip(label.shape, size)
    )
  ]
  return label[np.ix_(*index)]


def _reference_crop(image, label, crop, crop_size, padding_value):
  """Resize all of it, pad, cut, mirror: one step after the other."""
  image, label = _bilinear(image, crop.scaled), _nearest(label, crop.scaled)
  missing = [max(c - n, 0) for c, n in zip(crop_size, label.shape)]
  bottom_right = [(0, n) for n in missing]
  label = np.pad(label, bottom_right, constant_values=255)
  image = np.stack(
    [
      np.pad(image[..., c], bottom_right, constant_values=padding_value[c])
      for c in range(3)
    ],
    axis=-1,
  )
  window = tuple(slice(o, o + c) for o, c in zip(crop.offset, crop_size))
  image, label = image[window], label[window]
  return (image[:, ::-1], label[:, ::-1]) if crop.flip else (image, label)


def _random_pair(rng, height, width):
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  return image, rng.integers(0, 20, (height, width), np.uint8)


@pytest.mark.parametrize("scale", _SCALES)
def test_resize_to_a_scale_equals_golden(golden, exactness, scale):
  image, label = golden["image"], golden["label"][..., 0]
  expected = golden[f"scaled_image_{scale}"]
  size = preprocess.scaled_size(label.shape, float(scale))
  assert size == expected.shape[:2]
  got = preprocess.resize_bilinear(image.astype(np.float32), size)
  error = np.abs(got - expected).max() / 255
  exactness.check("preprocess.npz", "images, float32", error, 1e-6)
  np.testing.assert_array_equal(
    preprocess.resize_nearest(label, size),
    golden[f"scaled_label_{scale}"][..., 0],
  )
  # TensorFlow's float32 positions move a value by up to 1.7e-4 of 255.
  np.testing.assert_allclose(_bilinear(image, size), expected, atol=3e-4)
  np.testing.assert_array_equal(
    _nearest(label, size), golden[f"scaled_label_{scale}"][..., 0]
  )


def test_nearest_resize_equals_golden(shared, exactness):
  golden = np.load(shared / "reference/golden/resize.npz")
  names = [name for name in golden.files if name.startswith("nearest_")]
  assert len(names) == 6
  for name in names:
    expected = golden[name][0, ..., 0]
    label = golden["label"][0, ..., 0]
    got = preprocess.resize_nearest(label, expected.shape)
    exactness.check("resize.npz", "nearest", (got != expected).mean(), 0)


@pytest.mark.parametrize("scale", _SCALES)
def test_uint8_resize_is_the_rounded_golden(golden, exactness, scale):
  expected = golden[f"scaled_image_{scale}"]
  got = preprocess.resize_bilinear(golden["image"], expected.shape[:2])
  assert got.dtype == np.uint8
  levels = np.abs(got - expected).max()
  exactness.check("preprocess.npz", "images, uint8, in levels", levels, 0.501)


@pytest.mark.parametrize("bounds", _RANGES)
def test_resize_to_range_equals_golden(golden, bounds):
  name = "range_" + "_".join(map(str, bounds))
  minimum, maximum, factor = (bound or 0 for bound in bounds)
  image, label = preprocess.resize_to_range(
    golden["image"].astype(np.float32),
    golden["label"][..., 0],
    minimum,
    maximum,
    factor,
  )
  np.testing.assert_allclose(image, golden[f"{name}_image"], atol=1e-4)
  np.testing.assert_array_equal(label, golden[f"{name}_label"][..., 0])


def test_resize_to_range_without_minimum_changes_nothing():
  image, label = _random_pair(np.random.default_rng(0), 5, 7)
  assert preprocess.resize_to_range(image, label, 0, 9, 4) == (image, label)


@pytest.mark.parametrize(
  "model, padding_value",
  [("xception_65", _GREY), ("resnet_v1_50", (123.15, 115.90, 103.06))],
)
def test_evaluation_padding_equals_golden(golden, model, padding_value):
  expected = golden[f"eval_padded_image_{model}"]
  image, label = preprocess.pad(
    golden["image"], golden["label"][..., 0], (17, 25), padding_value
  )
  assert np.abs(image - expected).max() <= 0.5  # uint8 holds no 127.5
  np.testing.assert_array_equal(
    label, golden[f"eval_padded_label_{model}"][..., 0]
  )


@pytest.mark.parametrize("seed", range(40))
def test_one_pass_crop_equals_resize_pad_cut_mirror(seed):
  rng = np.random.default_rng(seed)
  height, width, *crop_size = (int(n) for n in rng.integers(1, 70, 4))
  image, label = _random_pair(rng, height, width)
  crop = preprocess.draw_crop(
    rng,
    label.shape,
    crop_size,
    min_scale=0.5,
    max_scale=2.0,
    scale_step=0.25 if seed % 2 else 0.0,
    flip=True,
  )
  got = preprocess.take_crop(image, label, crop, tuple(crop_size), _GREY)
  expected = _reference_crop(image, label, crop, crop_size, _GREY)
  assert np.abs(got[0] - expected[0]).max() <= 0.5 + 1e-3
  np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scaled", [(30, 60), (60, 120), (91, 177)])
def test_image_and_label_stay_aligned(scaled, flip):
  ramp = np.tile(np.arange(120, dtype=np.uint8), (60, 1))
  image = np.repeat(ramp[..., None], 3, axis=-1)
  crop = Crop(scaled, (3, 7), flip)
  image, label = preprocess.take_crop(image, ramp, crop, (25, 49), _GREY)
  assert np.abs(image[..., 0].astype(int) - label).max() <= 1


def test_scales_are_uniform_over_the_steps():
  rng = np.random.default_rng(0)
  draws = [preprocess.draw_scale(rng, 0.5, 2.0, 0.25) for _ in range(7000)]
  scales, counts = np.unique(draws, return_counts=True)
  np.testing.assert_array_equal(scales, np.arange(2, 9) / 4)
  assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize(
  ("maximum", "step", "scales"),
  [
    (2.0, 0.4, [0.5, 1.0, 1.5, 2.0]),  # tf.lin_space(0.5, 2.0, 4)
    (2.0, 0.9, [0.5, 2.0]),
    (2.0, 1.6, [0.5]),
    (0.5, 0.25, [0.5]),
    (1.2, 0.1, np.linspace(0.5, 1.2, 8)),  # 0.7 / 0.1 is a little below 7
  ],
)
def test_scales_are_the_official_ones_of_any_step(maximum, step, scales):
  rng = np.random.default_rng(0)
  draws = {preprocess.draw_scale(rng, 0.5, maximum, step) for _ in range(500)}
  np.testing.assert_allclose(sorted(draws), scales, rtol=1e-15)


def test_scales_without_step_fill_the_interval():
  rng = np.random.default_rng(0)
  draws = [preprocess.draw_scale(rng, 0.5, 2.0, 0.0) for _ in range(2000)]
  assert 0.5 <= min(draws) < 0.51 and 1.99 < max(draws) <= 2.0
  assert abs(np.mean(draws) - 1.25) < 0.05


def test_crops_reach_every_position_that_fits():
  rng = np.random.default_rng(0)
  crops = [
    preprocess.draw_crop(
      rng,
      (6, 9),
      (4, 12),
      min_scale=1.0,
      max_scale=1.0,
      scale_step=0.0,
      flip=True,
    )
    for _ in range(300)
  ]
  assert {crop.offset for crop in crops} == {(0, 0), (1, 0), (2, 0)}
  assert 100 < sum(crop.flip for crop in crops) < 200


def test_float32_truncation_of_scaled_sizes():
  # 0.7 * 10 is 7.000000 in float32 but 6.999... in exact arithmetic on the
  # float32 factor: the product is rounded before it is truncated.
  assert preprocess.scaled_size((10, 100), 0.7) == (7, 70)
  assert preprocess.scaled_size((1, 3), 0.5) == (1, 1)


def test_jitter_equals_its_three_steps():
  rng = np.random.default_rng(0)
  image = rng.integers(60, 180, (9, 11, 3), np.uint8)
  strengths = (0.2, 0.4, 0.5)
  for seed in range(20):
    got = preprocess.jitter_colors(
      np.random.default_rng(seed), image, strengths
    )
    draws = np.random.default_rng(seed).random(3)
    brightness, contrast, saturation = 1 + (2 * draws - 1) * strengths
    expected = image * brightness
    luma = np.array([0.299, 0.587, 0.114])
    grey = (expected @ luma)[..., None]
    expected = grey + saturation * (expected - grey)
    mean = (expected @ luma).mean()
    expected = mean + contrast * (expected - mean)
    # OpenCV multiplies in 10-bit fixed point: measured 0.7 beyond no rounding.
    assert np.abs(got - np.clip(expected, 0, 255)).max() <= 0.75


def test_no_jitter_draws_nothing_and_changes_nothing():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (5, 6, 3), np.uint8)
  state = rng.bit_generator.state
  assert preprocess.jitter_colors(rng, image, (0, 0, 0)) is image
  assert rng.bit_generator.state == state
