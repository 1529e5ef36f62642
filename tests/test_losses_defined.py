"""Every loss against its definition, pixel by pixel in NumPy and float64.

Where segmentation_models_pytorch has the loss, against that, too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax import losses
from deeplab_jax.data.classes import IGNORE

_CLASSES = 4


def _example(images: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Logits and labels; class 3 is in no image, class 2 in the first alone."""
  rng = np.random.default_rng(0)
  logits = 2 * rng.normal(size=(images, 4, 5, _CLASSES))
  labels = rng.integers(0, 2, (images, 4, 5)).astype(np.uint8)
  labels[0, 2:, 1:3] = 2
  labels[0, 0, :3] = labels[-1, 1] = IGNORE
  return logits, labels


def _shares(logits: np.ndarray) -> np.ndarray:
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def _of_pixels(logits, labels, value):
  """The mean of `value(probability, image, row, column)` of labelled pixels."""
  shares, found = _shares(logits), []
  for at in np.ndindex(labels.shape):
    if labels[at] != IGNORE:
      found.append(value(shares[*at, labels[at]], at))
  return np.mean(found)


def _of_classes(logits, labels, value):
  """The mean of `value(shares, hits)` of classes there, and of images."""
  means = []
  for image, label in zip(_shares(logits), labels):
    kept = label != IGNORE
    found = [
      value(image[kept][:, c], label[kept] == c) for c in np.unique(label[kept])
    ]
    if found:
      means.append(np.mean(found))
  return np.mean(means) if means else 0.0


def _focal(logits, labels, power):
  return _of_pixels(
    logits, labels, lambda p, at: -((1 - p) ** power) * np.log(p)
  )


def _boundary(logits, labels, width, weight):
  def value(p, at):
    image, row, column = at
    rows = slice(max(row - width, 0), row + width + 1)
    columns = slice(max(column - width, 0), column + width + 1)
    around = set(labels[image, rows, columns].ravel()) - {IGNORE}
    return -np.log(p) * (weight if len(around) > 1 else 1)

  return _of_pixels(logits, labels, value)


def _dice(logits, labels, smooth=0):
  return _of_classes(
    logits,
    labels,
    lambda p, hit: (
      1 - (2 * p[hit].sum() + 2 * smooth) / (p.sum() + hit.sum() + 2 * smooth)
    ),
  )


def _tversky(logits, labels, alpha, beta):
  def value(p, hit):
    false_positives, false_negatives = p[~hit].sum(), (1 - p[hit]).sum()
    errors = alpha * false_positives + beta * false_negatives
    return 1 - p[hit].sum() / (p[hit].sum() + errors)

  return _of_classes(logits, labels, value)


def _generalised(logits, labels):
  found = []
  for image, label in zip(_shares(logits), labels):
    above = below = 0
    for c in set(label.ravel()) - {IGNORE}:
      area = (label == c).sum()
      above += image[label == c][:, c].sum() / area**2
      predicted = image[label != IGNORE][:, c].sum()
      below += (predicted + area) / area**2
    found.append(1 - 2 * above / below)
  return np.mean(found)


def _lovasz(logits, labels):
  """Berman et al., algorithm 1: differences of one less the IoU."""

  def value(p, hit):
    errors = abs(hit - p)
    total, before, wrong = 0.0, 0.0, np.zeros(len(p), bool)
    for i in np.argsort(-errors):
      wrong[i] = True
      union = hit.sum() + (wrong & ~hit).sum()
      loss = 1 - (hit & ~wrong).sum() / union
      total += errors[i] * (loss - before)
      before = loss
    return total

  return _of_classes(logits, labels, value)


_DEFINITIONS = {
  "focal": ({"focal_power": 2.0}, lambda x, y: _focal(x, y, 2.0)),
  "focal ": ({"focal_power": 0.5}, lambda x, y: _focal(x, y, 0.5)),
  "boundary_cross_entropy": (
    {"boundary_width": 1, "boundary_weight": 3.0},
    lambda x, y: _boundary(x, y, 1, 3.0),
  ),
  "dice": ({}, _dice),
  "dice ": ({"smooth": 2.0}, lambda x, y: _dice(x, y, 2.0)),
  "tversky": (
    {"false_positives": 0.3, "false_negatives": 0.9},
    lambda x, y: _tversky(x, y, 0.3, 0.9),
  ),
  "generalised_dice": ({}, _generalised),
  "lovasz_softmax": ({}, _lovasz),
  "dice+cross_entropy": (
    {"weights": (0.5, 2.0)},
    lambda x, y: 0.5 * _dice(x, y) + 2 * _focal(x, y, 0.0),
  ),
}


def _found(name, logits, labels, **settings):
  """Value and gradient by the logits."""
  return _compiled(name.strip(), tuple(settings.items()))(logits, labels)


@functools.cache
def _compiled(name, settings):
  settings = dict(settings)
  sums = losses.make(name, settings.pop("weights", ()), settings).sums
  return jax.jit(
    jax.value_and_grad(lambda x, labels: losses.mean(*sums(x, labels)))
  )


def _slopes(function, x: np.ndarray) -> np.ndarray:
  """The gradient of `function`, by central differences."""
  slopes = np.zeros_like(x)
  for at in np.ndindex(x.shape):
    sides = []
    for step in (1e-6, -1e-6):
      moved = x.copy()
      moved[at] += step
      sides.append(function(moved))
    slopes[at] = (sides[0] - sides[1]) / 2e-6
  return slopes


@pytest.mark.parametrize("name", _DEFINITIONS)
def test_a_loss_and_its_gradient_equal_the_definition(name):
  settings, definition = _DEFINITIONS[name]
  logits, labels = _example()
  with jax.enable_x64(True):
    value, gradient = _found(name, jnp.asarray(logits), labels, **settings)
  np.testing.assert_allclose(value, definition(logits, labels), rtol=1e-9)
  expected = _slopes(lambda x: definition(x, labels), logits)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)
  value, gradient = _found(name, jnp.float32(logits), labels, **settings)
  assert value.dtype == gradient.dtype == jnp.float32
  np.testing.assert_allclose(value, definition(logits, labels), rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*losses.LOSSES, "dice+cross_entropy"])
def test_what_is_ignored_counts_nowhere(name):
  logits, labels = jnp.float32(_example()[0]), _example()[1]
  value, gradient = _found(name, logits, labels)
  ignored = (labels == IGNORE)[..., None]
  assert not np.any(np.where(ignored, gradient, 0))
  changed = jnp.where(ignored, 50.0, logits)
  assert _found(name, changed, labels)[0] == value
  doubled = np.concatenate([labels, np.full_like(labels, IGNORE)])
  twice = jnp.concatenate([logits, logits])
  np.testing.assert_allclose(_found(name, twice, doubled)[0], value, rtol=1e-6)
  for some in (logits, jnp.full_like(logits, 1e4).at[..., 0].set(-1e4)):
    nothing = np.full_like(labels, IGNORE)
    value, gradient = _found(name, some, nothing)
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_sure_logits_and_wrong_labels(name):
  _, labels = _example()
  hits = jax.nn.one_hot(jnp.where(labels == IGNORE, 0, labels), _CLASSES)
  for logits in (1e4 * hits, -1e4 * hits):
    value, gradient = _found(name, logits, labels)
    assert np.isfinite(value) and np.isfinite(gradient).all()
  right, wrong = (_found(name, x * hits, labels)[0] for x in (1e4, -1e4))
  assert right == pytest.approx(0, abs=1e-6) and wrong > 0.5
  unknown = np.where(labels == 1, _CLASSES, labels)
  assert not np.isfinite(_found(name, 1.0 * hits, unknown)[0])


@pytest.mark.parametrize("name", [*losses.LOSSES, "focal+lovasz_softmax"])
def test_sums_of_parts_add_up_to_those_of_the_batch(name):
  logits, labels = jnp.float32(_example(4)[0]), _example(4)[1]
  sums = losses.make(name, (), {}).sums
  whole = sums(logits, labels)
  parts = [sums(logits[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
  assert sum(count for _, count in parts) == whole[1]
  if name in losses.LOSSES:  # of several, parts weigh by their pixels
    total = sum(total for total, _ in parts)
    np.testing.assert_allclose(total, whole[0], rtol=1e-6)


def test_equals_segmentation_models_pytorch():
  """Its Dice and Tversky divide by all classes, also those that are not there;
  its focal loss is of sigmoids, so that two classes are one of its."""
  torch = pytest.importorskip("torch", reason="SKIPPED FOR LACK OF TORCH")
  smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="SKIPPED FOR LACK OF SMP"
  ).losses
  ignored = {"ignore_index": IGNORE}
  cases = {
    "dice": (smp.DiceLoss("multiclass", **ignored), {}),
    "dice ": (
      smp.DiceLoss("multiclass", smooth=2.0, **ignored),
      {"smooth": 2.0},
    ),
    "tversky": (
      smp.TverskyLoss("multiclass", alpha=0.3, beta=0.9, **ignored),
      {"false_positives": 0.3, "false_negatives": 0.9},
    ),
    "lovasz_softmax": (smp.LovaszLoss("multiclass", **ignored), {}),
  }
  (logits, _), (labels, *_) = _example()[0], _example()[1]
  logits, labels = logits[None], labels[None]
  x = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
  y = torch.tensor(labels.astype(np.int64))
  for name, (module, settings) in cases.items():
    narrow = name == "lovasz_softmax"  # knows float32 alone
    there = 3 if narrow else _CLASSES  # of them 3 are there
    x.grad = None
    theirs = module(x.float() if narrow else x, y) * there / 3
    theirs.backward()
    exact = {"rtol": 1e-5 if narrow else 1e-6}
    with jax.enable_x64(True):
      ours, gradient = _found(name, jnp.asarray(logits), labels, **settings)
    np.testing.assert_allclose(ours, theirs.item(), **exact)
    slopes = np.moveaxis(x.grad.numpy(), 1, -1)
    np.testing.assert_allclose(gradient, slopes, **exact, atol=1e-8)
  of_two = logits[..., :2] - logits[..., :1]
  labels = np.where(labels == 2, 0, labels)
  x = torch.tensor(of_two[..., 1], requires_grad=True)
  module = smp.FocalLoss("binary", alpha=None, gamma=2.0, **ignored)
  theirs = module(x, torch.tensor(labels.astype(np.int64)))
  theirs.backward()
  with jax.enable_x64(True):
    ours, gradient = _found("focal", jnp.asarray(of_two), labels)
  np.testing.assert_allclose(ours, theirs.item(), rtol=1e-6)
  np.testing.assert_allclose(gradient[..., 1], x.grad.numpy(), atol=1e-9)
