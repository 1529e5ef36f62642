"""Metrics against brute force and the official implementation's figures."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from deeplab_jax import metrics

IGNORE = 255
NUM_CLASSES = 5


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
  """Blobs of three of five classes with a void band, and a noisy prediction."""
  random = np.random.default_rng(3)
  smooth = ndimage.gaussian_filter(random.normal(size=(3, 41, 58)), (0, 5, 5))
  truth = smooth.argmax(0).astype(np.uint8)
  edge = ndimage.generic_filter(truth, np.ptp, 3) > 0
  labels = np.where(edge, IGNORE, truth).astype(np.uint8)
  guess = np.roll(truth, (2, 3), (0, 1))
  noise = random.random(guess.shape) < 0.05
  return labels, np.where(noise, 4, guess).astype(np.uint8)


def brute_confusion(labels, predictions, num_classes):
  """The definition, pixel by pixel."""
  counts = np.zeros((num_classes, num_classes), int)
  for truth, guess in zip(labels.ravel(), predictions.ravel()):
    if truth < num_classes:
      counts[truth, guess] += 1
  return counts


def brute_mean_iou(labels, predictions, where):
  """Mean IoU over the classes seen in `where`, from sets of pixels."""
  values = []
  for c in range(NUM_CLASSES):
    truth, guess = where & (labels == c), where & (predictions == c)
    if (truth | guess).any():
      values.append((truth & guess).sum() / (truth | guess).sum())
  return np.mean(values)


def test_confusion_matrix_equals_official(shared, exactness):
  golden = np.load(shared / "reference/golden/miou.npz")
  labels, predictions = golden["labels"], golden["predictions"]
  expected = golden["confusion_label_by_prediction"]
  device = jax.jit(metrics.confusion_matrix, static_argnums=2)
  np.testing.assert_array_equal(device(labels, predictions, 8), expected)
  host = metrics.confusion_matrix_numpy(labels, predictions, 8)
  np.testing.assert_array_equal(host, expected)
  error = abs(metrics.mean_iou(host) - golden["mean_iou"])
  exactness.check("miou.npz", "mean IoU", error, 1e-7)


def test_confusion_matrix_counts_each_pixel(scene):
  labels, predictions = scene
  expected = brute_confusion(labels, predictions, NUM_CLASSES)
  for count in (metrics.confusion_matrix, metrics.confusion_matrix_numpy):
    np.testing.assert_array_equal(
      count(labels, predictions, NUM_CLASSES), expected
    )


def test_confusion_matrix_refuses_other_shape():
  with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(2, 3\)"):
    metrics.confusion_matrix_numpy(np.zeros((2, 2)), np.zeros((2, 3)), 2)


def test_ratios_by_hand():
  # Class 0: 3 right of 4. Class 1: 2 of 2. Class 2: predicted once, never true.
  # Class 3: absent.
  confusion = np.array([[3, 0, 1, 0], [0, 2, 0, 0], [0] * 4, [0] * 4])
  np.testing.assert_array_equal(
    metrics.iou_per_class(confusion), [0.75, 1, 0, np.nan]
  )
  assert metrics.mean_iou(confusion) == pytest.approx((0.75 + 1 + 0) / 3)
  assert metrics.mean_iou_labelled(confusion) == pytest.approx(1.75 / 2)
  assert metrics.pixel_accuracy(confusion) == pytest.approx(5 / 6)
  assert metrics.mean_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)
  weighted = (4 * 0.75 + 2 * 1) / 6
  assert metrics.frequency_weighted_accuracy(confusion) == pytest.approx(
    weighted
  )


def test_ratios_are_nan_without_labels():
  nothing = np.zeros((3, 3), int)
  for ratio in (
    metrics.mean_iou,
    metrics.mean_iou_labelled,
    metrics.pixel_accuracy,
    metrics.mean_accuracy,
    metrics.frequency_weighted_accuracy,
  ):
    assert np.isnan(ratio(nothing))


def test_trimap_bands_equal_euclidean_distance(scene):
  labels, _ = scene
  distance = ndimage.distance_transform_edt(labels != IGNORE)
  bands = metrics.trimap_bands(labels, width=6)
  for width in range(1, 7):
    expected = (distance > 0) & (distance <= width)
    np.testing.assert_array_equal((bands > 0) & (bands <= width), expected)
  assert not metrics.trimap_bands(np.zeros((4, 5), np.uint8)).any()


def test_trimap_curve_equals_brute_force(scene):
  labels, predictions = scene
  counts = metrics.trimap_counts(labels, predictions, NUM_CLASSES, width=8)
  distance = ndimage.distance_transform_edt(labels != IGNORE)
  expected = [
    brute_mean_iou(labels, predictions, (distance > 0) & (distance <= width))
    for width in range(1, 9)
  ]
  np.testing.assert_allclose(metrics.trimap_curve(counts), expected, rtol=1e-12)


def test_border_bands_equal_euclidean_distance(scene):
  labels, predictions = scene
  distance = np.zeros(labels.shape)
  for label in np.unique(labels[labels != IGNORE]):
    region = labels == label
    distance[region] = ndimage.distance_transform_edt(region)[region]
  expected = np.where(distance <= 6, np.ceil(distance), 0)
  bands = metrics.border_bands(labels, width=6)
  np.testing.assert_array_equal(bands, expected)
  assert set(np.unique(bands)) == set(range(7))
  assert not metrics.border_bands(np.zeros((4, 5), np.uint8)).any()
  counts = metrics.trimap_counts(
    labels, predictions, NUM_CLASSES, width=6, bands=metrics.border_bands
  )
  near = brute_mean_iou(labels, predictions, bands > 0)
  assert metrics.trimap_curve(counts)[-1] == pytest.approx(near)


def brute_boundary_iou(labels, predictions, distance):
  """Mask by mask: boundary = mask minus its `distance`-fold erosion."""
  values = []
  for c in range(NUM_CLASSES):
    strips = []
    for regions in (labels, predictions):
      mask = (regions == c) & (labels != IGNORE)
      inner = ndimage.binary_erosion(mask, np.ones((3, 3)), distance)
      strips.append(mask & ~inner)
    union = (strips[0] | strips[1]).sum()
    both = (strips[0] & strips[1]).sum()
    values.append(both / union if union else np.nan)
  return values


@pytest.mark.parametrize("distance", [1, 3])
def test_boundary_iou_equals_brute_force(scene, distance):
  labels, predictions = scene
  counts = metrics.boundary_counts(labels, predictions, NUM_CLASSES, distance)
  expected = brute_boundary_iou(labels, predictions, distance)
  np.testing.assert_allclose(metrics.boundary_iou(counts), expected)
  assert np.isnan(expected[3]) and 0 < expected[0] < 1


def test_boundary_distance_is_share_of_diagonal():
  assert metrics.boundary_distance((300, 400)) == 10
  assert metrics.boundary_distance((1, 1)) == 1


def test_counts_add_up_over_images(scene):
  labels, predictions = scene
  for count in (metrics.trimap_counts, metrics.boundary_counts):
    one = count(labels, predictions, NUM_CLASSES)
    empty = count(np.full_like(labels, IGNORE), predictions, NUM_CLASSES)
    assert one.any() and not empty.any()
    assert empty.shape == one.shape


def brute_calibration_error(confidences, right, bins):
  """Guo et al. 2017, equation 3."""
  index = np.minimum((confidences * bins).astype(int), bins - 1)
  gaps = [
    abs(right[index == i].mean() - confidences[index == i].mean())
    * (index == i).mean()
    for i in np.unique(index)
  ]
  return sum(gaps)


def test_calibration_error_equals_definition():
  random = np.random.default_rng(0)
  confidences = random.uniform(0.2, 1, (60, 70)).astype(np.float32)
  labels = random.integers(0, 3, confidences.shape)
  # Right less often than the confidence says.
  right = random.random(confidences.shape) < confidences**2
  predictions = np.where(right, labels, (labels + 1) % 3)
  labels[:5] = IGNORE
  counts = metrics.calibration_counts(confidences, predictions, labels, 3)
  expected = brute_calibration_error(confidences[5:], right[5:], bins=15)
  assert metrics.calibration_error(counts) == pytest.approx(expected, abs=4e-4)
  assert expected > 0.05
  assert metrics.reliability(np.asarray(counts))["pixels"].sum() == 55 * 70


def test_calibration_error_edge_cases():
  labels = np.zeros((2, 2), int)
  sure = metrics.calibration_counts(np.ones((2, 2)), labels, labels, 2)
  assert metrics.calibration_error(sure) == pytest.approx(0, abs=4e-4)
  assert np.isnan(metrics.calibration_error(np.zeros((2, 1500), int)))
  with pytest.raises(ValueError, match="bins must divide 1500, got 7"):
    metrics.reliability(sure, bins=7)
