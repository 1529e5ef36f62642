"""A loss is compared with how the run began."""

import types

import pytest

from deeplab_jax.train import run as run_lib


class _Checkpoints:
  """Notes what is distrusted; step 3 stays."""

  def __init__(self):
    self.distrusted = []

  def distrust(self, step, fault):
    self.distrusted.append((step, fault))
    return 3


def _window(tmp_path, losses=()):
  rows = [{"step": i, "train/loss": x} for i, x in enumerate(losses)]
  run = types.SimpleNamespace(
    records=types.SimpleNamespace(rows=[{"step": 0, "eval/miou": 0.1}, *rows]),
    checkpoints=_Checkpoints(),
    workdir=tmp_path,
  )
  return run_lib._Window(run, 0), run.checkpoints


def _check(window, step, loss, gradient_norm=1.0):
  metrics = {"loss": loss, "gradient_norm": gradient_norm, "learning_rate": 0.1}
  window.add(step, [f"image {step}"], metrics)
  return window.check()


@pytest.mark.parametrize("value", [1.9e17, 400.0, float("inf"), float("nan")])
@pytest.mark.parametrize("in_records", [True, False])
def test_an_exploded_loss_stops_the_run(tmp_path, value, in_records):
  losses = [3.0, 2.0, 2.5, 0.3]
  window, checkpoints = _window(tmp_path, losses if in_records else ())
  for step, loss in enumerate([] if in_records else losses):
    _check(window, step, loss)
  with pytest.raises(FloatingPointError) as caught:
    _check(window, 9, value)
  message = str(caught.value)
  assert f"loss {value:g}" in message and "images image 9" in message
  assert "the loss was 2.25 when the run began" in message
  assert f"the checkpoint before it is of step 3, in {tmp_path}" in message
  ((step, fault),) = checkpoints.distrusted
  assert step == 8 and "no good" in fault


@pytest.mark.parametrize("gradient_norm", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, gradient_norm):
  window, _ = _window(tmp_path)
  with pytest.raises(FloatingPointError, match="gradient norm"):
    _check(window, 1, 2.0, gradient_norm)


@pytest.mark.parametrize(
  "losses", [[2.0, 150.0, 1.0], [0.01, 0.02, 12.0, 0.01], [500.0, 9e3, 400.0]]
)
def test_spikes_that_mislabelled_images_make_are_no_explosion(tmp_path, losses):
  window, checkpoints = _window(tmp_path)
  for step, loss in enumerate(losses):
    assert _check(window, step, loss)[1]["loss"] == loss
  assert checkpoints.distrusted == []


def test_a_loss_that_grows_bit_by_bit_is_found(tmp_path):
  window, _ = _window(tmp_path, [2.0] * 200)
  with pytest.raises(FloatingPointError, match="loss 256"):
    for step in range(30):
      _check(window, step, 2.0**step)
