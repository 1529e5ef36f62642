"""State dicts of torchvision and timm, against the networks written plainly."""

import functools
import json
import sys

import jax
import numpy as np
import pytest

from deeplab_jax.import_weights import from_torch, read
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.fit import _leaves
from deeplab_jax.models import Classifier, DeepLab, preprocess
from deeplab_jax.models.backbones import build_backbone
from tests import torch_networks

NETWORKS = {
  "torchvision resnet50": (
    "resnet_50_torch",
    functools.partial(torch_networks.resnet, units=(3, 4, 6, 3)),
  ),
  "torchvision mobilenet_v2": (
    "mobilenet_v2_torch",
    torch_networks.torchvision_mobilenet,
  ),
  "timm mobilenetv2_100": ("mobilenet_v2_torch", torch_networks.timm_mobilenet),
  "timm xception41": (
    "xception_41",
    functools.partial(torch_networks.timm_xception, middle_units=8),
  ),
}


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _network(backbone):
  return torch_networks.Network(1e-3 if "xception" in backbone else 1e-5)


@functools.cache
def torch_state(name):
  """The state dict alone; nothing is computed."""
  backbone, compute = NETWORKS[name]
  network = _network(backbone)
  images = jax.ShapeDtypeStruct((1, 3, 33, 33), np.float32)
  jax.eval_shape(functools.partial(compute, network), images)
  return network.state


# Of few units of every kind: see the fixture `shallow_backbones`.
_SHALLOW = NETWORKS | {
  "torchvision resnet50": (
    "resnet_50_torch",
    functools.partial(torch_networks.resnet, units=(2, 2, 2, 3)),
  ),
  "timm xception41": (
    "xception_41",
    functools.partial(torch_networks.timm_xception, middle_units=2),
  ),
}


@pytest.fixture
def shallow(shallow_backbones):
  """Shapes are known by a backbone's name."""
  _leaves.cache_clear()
  yield
  _leaves.cache_clear()


@pytest.mark.parametrize("name", NETWORKS)
def test_backbone_computes_the_features_of_torch(shallow, name):
  backbone, compute = _SHALLOW[name]
  network = _network(backbone)

  def forward(state, images):
    network.state = state
    return compute(network, images)[0]

  # Even sizes tell padding rules apart.
  shape = (1, 64, 48, 3)
  images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  channels_first = images.transpose(0, 3, 1, 2)
  jax.eval_shape(functools.partial(compute, network), channels_first)
  state = network.state
  wanted = jax.jit(forward)(state, channels_first)
  model = DeepLab(3, backbone, 32, atrous_rates=(), decoder=())
  variables = from_torch(state, model, parts="backbone")
  variables = {name: tree["backbone"] for name, tree in variables.items()}
  features, _ = _forward(backbone)(variables, images)
  wanted = np.transpose(wanted, (0, 2, 3, 1))
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-5 * scale)


@functools.cache
def _forward(backbone):
  module = build_backbone(backbone, output_stride=32)
  return jax.jit(lambda variables, x: module.apply(variables, x, False))


@pytest.mark.parametrize("name", NETWORKS)
def test_classifier_takes_the_last_layer_too(name):
  state, model = torch_state(name), Classifier(1000, NETWORKS[name][0])
  logits = from_torch(state, model)["params"]["logits"]
  last = next(n for n, array in state.items() if array.shape[:1] == (1000,))
  np.testing.assert_array_equal(logits["kernel"][0, 0].T, state[last])
  bias = last.replace("weight", "bias")
  np.testing.assert_array_equal(logits["bias"], state[bias])


def test_images_are_normalised_as_torchvision_does():
  images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
  wanted = (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
  found = preprocess(images, "resnet_101_torch")
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_official_network_refuses_torch_weights_of_its_shape():
  state = torch_state("torchvision resnet50")
  with pytest.raises(ValueError, match=r"missing \(265\):\n  resnet_v1_50/"):
    from_torch(state, DeepLab(3, "resnet_50"), parts="backbone")


@pytest.mark.parametrize(
  ("renamed", "message"),
  [
    ({"layer2.1.conv1.weight": "layer2.1.se.weight"}, "layer2.1.se.weight"),
    ({"layer1.0.conv3.weight": "layer1.0.conv.weight"}, "of no known network"),
  ],
)
def test_other_torch_networks_are_refused(renamed, message):
  state = torch_state("torchvision resnet50")
  state = {renamed.get(name, name): array for name, array in state.items()}
  with pytest.raises(ValueError, match=message):
    from_torch(state, DeepLab(3, "resnet_50_torch"), parts="backbone")


def test_command_carries_torchvisions_normalisation(tmp_path):
  source = tmp_path / "resnet50.npz"
  np.savez(source, **torch_state("torchvision resnet50"))
  arguments = [str(source), "--dataset=shapes", "--decoder=", "--atrous_rates="]
  assert main([*arguments, "--out", str(tmp_path / "m")]) == 0
  facts = json.loads((tmp_path / "m" / "model.json").read_text())
  assert facts["model"]["backbone"] == "resnet_50_torch"
  preprocessing = facts["preprocessing"]
  np.testing.assert_allclose(preprocessing["mean"], 255 * np.array(MEAN))
  np.testing.assert_allclose(
    preprocessing["scale"], 1 / (255 * np.array(STD)), rtol=1e-6
  )


def test_pickle_without_torch_says_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "resnet50.pth").touch()
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(
    ImportError, match=r"needs torch: pip install 'torch>=2.6'"
  ):
    read(tmp_path / "resnet50.pth")


def test_pickle_is_read_as_the_arrays_it_holds(tmp_path):
  torch = pytest.importorskip("torch")
  state = torch_state("torchvision mobilenet_v2")
  tensors = {name: torch.tensor(array) for name, array in state.items()}
  torch.save(tensors, tmp_path / "mobilenet.pth")
  np.savez(tmp_path / "mobilenet.npz", **state)
  wanted = read(tmp_path / "mobilenet.npz")
  found = read(tmp_path / "mobilenet.pth")
  assert set(found) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
