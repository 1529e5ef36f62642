"""The networks compute what the official implementation computed."""

import pytest

from deeplab_jax.models.ops import depthwise
from tests.golden import network
from tests.needs import needs_onednn, needs_onednn_bfloat16

# Section 14 of official-deeplab.md; float32 noise reaches 3e-6.
TOLERANCE = 1e-4
_IN_BFLOAT16 = 4e-2  # seen: up to 2.5e-2

# Of each family and stem these are in `make test`, with even sizes; released
# weights of half the width are in tests/test_official_weights.py.
_QUICK = {
  "mobilenet_v2_os16_decoder",
  "resnet_v1_50_os16_even",
  "xception_65_os16_even",
}
# Folded as these are: with a decoder, and of separable and dense convolutions.
_QUICK_FOLDED = {"mobilenet_v2_os16_decoder", "resnet_v1_50_os16_even"}
_QUICK_BFLOAT16 = {"mobilenet_v2_os16_decoder"}


def _cases(names, quick=_QUICK):
  return [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in quick))
    for name in names
  ]


@pytest.mark.parametrize("name", _cases(network.CASES))
def test_logits_features_and_labels_equal_the_official(shared, exactness, name):
  errors = network.network_errors(shared, name)
  for quantity, error in errors.items():
    kind = "logits" if quantity in ("logits", "upsampled") else "features"
    exactness.check(f"{name}.npz", kind, error, TOLERANCE)
  labels = network.label_errors(shared, name)
  exactness.check(f"{name}.npz", "labels", labels["clear"], 0)
  assert labels["share clear"] > 0.99


@needs_onednn
@pytest.mark.parametrize("name", _cases(network.CASES, _QUICK_FOLDED))
def test_folded_into_onednn_gives_the_same(shared, exactness, name):
  error = network.folded_error(shared, name)
  exactness.check(f"{name}.npz", "logits, oneDNN", error, TOLERANCE)


@pytest.mark.parametrize("name", _cases(network.CASES, _QUICK_BFLOAT16))
@pytest.mark.parametrize(
  "way", ["XLA", pytest.param("oneDNN", marks=needs_onednn_bfloat16)]
)
def test_bfloat16_keeps_two_digits(shared, exactness, way, name):
  error = network.folded_error(shared, name, "bfloat16", way == "oneDNN")
  exactness.check(
    f"{name}.npz", f"logits, bfloat16, {way}", error, _IN_BFLOAT16
  )


@pytest.mark.slow  # XLA's CPU backend takes long for grouped convolutions
@pytest.mark.parametrize("name", network.CASES)
def test_the_other_lowering_gives_the_same(shared, monkeypatch, name):
  monkeypatch.setitem(depthwise.LOWERING, "cpu", "lax")
  network.recorded.cache_clear()
  errors = network.network_errors(shared, name)
  network.recorded.cache_clear()
  assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize(
  "name", _cases(network.ENDPOINT_CASES, {"resnet_v1_101_beta_os16"})
)
def test_every_layer_equals_the_official(shared, exactness, name):
  errors = network.endpoint_errors(shared, name)
  worst = max(errors.values())
  file, quantity = f"{name}_endpoints.json", f"{len(errors)} layers"
  exactness.check(file, quantity, worst, TOLERANCE)


def test_all_network_files_are_used(shared):
  folder = shared / "reference" / "golden"
  stems = {p.stem for p in folder.glob("*_os*.npz")} - {
    p.stem for p in folder.glob("multiscale_*")
  }
  assert stems == set(network.CASES)
  endpoints = {p.stem for p in folder.glob("*_endpoints.json")}
  assert endpoints == {f"{name}_endpoints" for name in network.ENDPOINT_CASES}
