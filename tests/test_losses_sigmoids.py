"""Losses of overlapping classes against closed forms and binary networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax import losses
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.losses import LOSSES, MULTILABEL_LOSSES

_SETTINGS = {
  "binary_cross_entropy": {"label_smoothing": 0.1},
  "focal": {"focal_power": 1.5},
  "dice": {"smooth": 1.0},
  "tversky": {"false_positives": 0.2, "false_negatives": 0.9},
}


def _batch(classes=3, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 2, (2, 5, 6, classes)).astype(np.float32)
  labels = rng.integers(0, 2, (2, 9, 11, classes)).astype(np.uint8)
  labels[rng.random(labels.shape[:3]) < 0.2] = IGNORE
  return logits, labels


def _mean_of(name, **settings):
  def loss(logits, labels):
    return losses.mean(*MULTILABEL_LOSSES[name](logits, labels, **settings))

  return jax.value_and_grad(loss)


@pytest.mark.parametrize("name", _SETTINGS)
def test_the_loss_is_the_mean_of_those_of_binary_nets(name):
  """Of a net a class, each alone with its labels: values and gradients."""
  logits, labels = _batch()
  loss = _mean_of(name, **_SETTINGS[name])
  found, gradient = loss(logits, labels)
  alone = [
    loss(logits[..., c : c + 1], labels[..., c : c + 1]) for c in range(3)
  ]
  np.testing.assert_allclose(found, np.mean([v for v, _ in alone]), rtol=1e-6)
  expected = np.concatenate([g for _, g in alone], -1) / 3
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "tversky"])
def test_a_sigmoid_is_a_softmax_beside_a_logit_of_nothing(name):
  """A binary net may as well have two logits, the first of which is 0."""
  logits, labels = _batch(1, seed=1)
  both = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
  found, gradient = _mean_of(name)(logits, labels)

  def of_softmax(both):
    one = labels[..., 0]
    if name in ("dice", "tversky"):
      shares = jax.nn.softmax(losses.pixels.resize_bilinear(both, (9, 11)))
      counts = one != IGNORE
      there = (one == 1) & counts
      p = shares[..., 1] * counts
      common = (p * there).sum((1, 2))
      weights = (0.5, 0.5) if name == "dice" else (0.3, 0.7)
      wrong, missed = p.sum((1, 2)) - common, there.sum((1, 2)) - common
      errors = weights[0] * wrong + weights[1] * missed
      return (1 - common / (common + errors)).mean()
    return losses.mean(*LOSSES[name](both, one))

  expected, gradients = jax.value_and_grad(of_softmax)(both)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, gradients[..., 1:], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "focal"])
def test_weights_are_of_yes_and_of_classes(name):
  logits, labels = _batch()
  labels = labels[:, ::2, ::2]  # no resize: a closed form
  positive, per_class = (1.0, 4.0, 0.0), (2.0, 0.5, 1.0)
  total, count = MULTILABEL_LOSSES[name](
    logits, labels, positive_weights=positive, class_weights=per_class
  )
  z = logits.astype(np.float64)
  p = 1 / (1 + np.exp(-z))
  power = 2.0 if name == "focal" else 0.0
  yes = -np.log(p) * (1 - p) ** power * np.array(positive)
  no = -np.log(1 - p) * p**power
  each = np.where(labels == 1, yes, no) * np.array(per_class)
  counts = labels != IGNORE
  np.testing.assert_allclose(total, each[counts].sum(), rtol=1e-5)
  assert count == counts.sum()
  with pytest.raises(ValueError, match="positive_weights must be empty or "):
    MULTILABEL_LOSSES[name](logits, labels, positive_weights=(1.0,))


@pytest.mark.parametrize("name", MULTILABEL_LOSSES)
def test_nothing_labelled_is_zero_and_no_label_stops_a_run(name):
  logits, labels = _batch()
  found, gradient = _mean_of(name)(logits, np.full_like(labels, IGNORE))
  assert found == 0 and not np.any(gradient)
  labels[0, 0, 0] = 3
  assert np.isnan(_mean_of(name)(logits, labels)[0])


_SUMS = {
  "cross_entropy+dice": LOSSES,
  "focal+tversky+lovasz_softmax": LOSSES,
  "binary_cross_entropy+dice": MULTILABEL_LOSSES,
}


@pytest.mark.parametrize("name", _SUMS)
def test_parts_of_a_batch_add_up_to_a_sum_of_losses(name):
  """Though the parts have unlike shares of labels, and of images with any."""
  rng = np.random.default_rng(4)
  logits, labels = (np.concatenate([x, x[::-1]]) for x in _batch())
  logits = logits + rng.normal(0, 1, logits.shape).astype(np.float32)
  labels[0] = IGNORE
  labels[2, 3:] = IGNORE
  if _SUMS[name] is LOSSES:
    labels = labels[..., 0]
  weights = (0.7, 2.0, 0.3)[: name.count("+") + 1]
  made = losses.make(name, weights, {}, _SUMS[name])

  def of_whole(logits):
    return losses.mean(*made.sums(logits, labels))

  def of_parts(logits):
    whole = losses.whole_batch(made, labels, logits.shape[-1])
    total = count = 0
    for part in (slice(0, 2), slice(2, 4)):
      given = logits[part], labels[part]
      found = {n: f(*given) for n, f in made.terms.items()}
      one, number = losses.join(made, found, given[1], whole)
      total, count = total + one, count + number
    return losses.mean(total, count)

  wanted, slope = jax.jit(jax.value_and_grad(of_whole))(logits)
  found, gradient = jax.jit(jax.value_and_grad(of_parts))(logits)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-8)
