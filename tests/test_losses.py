"""The pixel loss against the official values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab_jax import losses
from deeplab_jax.data.classes import IGNORE
from tests.golden.network import relative_error

# Case of golden/loss.npz: (labels, arguments).
_CASES = {
  "plain": ("labels", {}),
  "class_weights": ("labels", {"class_weights": True}),
  "hard_top25": ("labels", {"hard_pixel_fraction": 0.25}),
  "hard_top90": ("labels", {"hard_pixel_fraction": 0.9}),
  "hard_top25_class_weights": (
    "labels",
    {"hard_pixel_fraction": 0.25, "class_weights": True},
  ),
  "few_plain": ("labels_few", {}),
  "few_hard_top25": ("labels_few", {"hard_pixel_fraction": 0.25}),
  **{
    f"few_hard_top25_ramp1000_step{step}": (
      "labels_few",
      {"hard_pixel_fraction": 0.25, "hard_pixel_steps": 1000, "step": step},
    )
    for step in (0, 400, 5000)
  },
}


def _mean_cross_entropy(*arguments, **settings):
  return losses.mean(*losses.cross_entropy(*arguments, **settings))


@pytest.fixture(scope="module")
def golden(shared) -> dict:
  return dict(np.load(shared / "reference/golden/loss.npz"))


@pytest.mark.parametrize("case", _CASES)
def test_cross_entropy_equals_the_official_loss(golden, exactness, case):
  labels, arguments = _CASES[case]
  if arguments.get("class_weights"):
    arguments = {**arguments, "class_weights": golden["class_weights"]}
  found, gradient = jax.value_and_grad(_mean_cross_entropy)(
    golden["logits"], golden[labels][..., 0], **arguments
  )
  error = relative_error(found, golden[f"loss_{case}"])
  exactness.check("loss.npz", "values", error, 2e-6)
  if f"grad_{case}" in golden:
    error = relative_error(gradient, golden[f"grad_{case}"])
    exactness.check("loss.npz", "gradients", error, 1e-5)


def test_cross_entropy_at_the_resolution_of_the_logits(golden):
  labels = golden["labels"][..., 0]
  rows, columns = (  # nearest, corners aligned, halves away from zero
    np.floor(np.arange(n) * (size - 1) / (n - 1) + 0.5).astype(int)
    for n, size in zip(golden["logits"].shape[1:3], labels.shape[1:])
  )
  found = _mean_cross_entropy(golden["logits"], labels[:, rows][:, :, columns])
  np.testing.assert_allclose(
    found, golden["loss_downsampled_labels"], rtol=2e-6
  )


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_cross_entropy_of_nothing_labelled_is_zero(golden, fraction):
  ignored = jnp.full((2, 33, 41), IGNORE, jnp.uint8)
  found, gradient = jax.value_and_grad(_mean_cross_entropy)(
    golden["logits"], ignored, hard_pixel_fraction=fraction
  )
  assert found == golden["loss_all_ignored"] == 0
  assert not np.any(gradient)


def test_gradients_are_those_of_optax_and_none_where_ignored():
  keys = jax.random.split(jax.random.key(0))
  logits = 30 * jax.random.normal(keys[0], (2, 5, 7, 3))
  labels = jax.random.randint(keys[1], (2, 5, 7), 0, 3)
  ignored = labels.at[0].set(IGNORE)

  def total(logits):
    return losses.cross_entropy(logits, ignored)[0]

  def optax_total(logits):
    kept = logits[1], labels[1]
    return optax.softmax_cross_entropy_with_integer_labels(*kept).sum()

  (found, gradient), (expected, expected_gradient) = (
    jax.jit(jax.value_and_grad(f))(logits) for f in (total, optax_total)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
  assert not np.any(gradient[0])


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0)])
def test_smoothed_labels_give_every_class_its_share(weights):
  keys = jax.random.split(jax.random.key(0))
  logits = 5 * jax.random.normal(keys[0], (2, 5, 7, 3))
  labels = np.array(jax.random.randint(keys[1], (2, 5, 7), 0, 3))
  labels[0, :2] = IGNORE
  found, gradient = jax.value_and_grad(_mean_cross_entropy)(
    logits, labels, label_smoothing=0.3, class_weights=weights
  )
  x, kept = np.asarray(logits, np.float64), labels != IGNORE
  log_shares = x - np.log(np.exp(x).sum(-1, keepdims=True))
  targets = 0.7 * np.eye(3)[np.where(kept, labels, 0)] + 0.1
  weighed = np.array(weights or (1, 1, 1))[np.where(kept, labels, 0)] * kept
  expected = -(weighed * (targets * log_shares).sum(-1)).sum() / kept.sum()
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  slope = weighed[..., None] * (np.exp(log_shares) - targets) / kept.sum()
  np.testing.assert_allclose(gradient, slope, atol=1e-7)
  of_images = losses.class_cross_entropy(
    logits[0, 2], labels[0, 2], label_smoothing=0.3
  )
  expected = -(targets * log_shares)[0, 2].sum()
  np.testing.assert_allclose(of_images[0], expected, rtol=1e-6)


def test_a_label_beyond_the_classes_gives_no_finite_loss():
  labels = jnp.full((1, 2, 2), 3, jnp.uint8)
  found = _mean_cross_entropy(jnp.zeros((1, 2, 2, 3)), labels)
  assert not np.isfinite(found)


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
  logits = jax.random.normal(jax.random.key(0), (1, 5, 5, 3), jnp.bfloat16)
  labels = jnp.zeros((1, 17, 17), jnp.uint8)
  found = _mean_cross_entropy(logits, labels)
  assert found.dtype == jnp.float32
  exact = _mean_cross_entropy(logits.astype(jnp.float32), labels)
  assert found == exact


def test_cross_entropy_refuses_a_wrong_number_of_class_weights():
  with pytest.raises(ValueError, match=r"class_weights .* 3 values.* got 2"):
    _mean_cross_entropy(
      jnp.zeros((1, 2, 2, 3)),
      jnp.zeros((1, 5, 5), jnp.uint8),
      class_weights=(1, 2),
    )


def test_cross_entropy_refuses_a_fraction_outside_its_range():
  with pytest.raises(ValueError, match=r"hard_pixel_fraction .*got 0"):
    _mean_cross_entropy(
      jnp.zeros((1, 2, 2, 3)),
      jnp.zeros((1, 5, 5), jnp.uint8),
      hard_pixel_fraction=0,
    )
