"""Encoders against timm's and Hugging Face's own, with random weights.

Needs `requirements-reference.txt`. Every stage's features, at every output
stride, of sizes that patches and strides divide and others.
"""

import re

import jax
import numpy as np
import pytest

from deeplab_jax.import_weights import from_torch
from deeplab_jax.models import DeepLab, convnext, efficient
from deeplab_jax.models.backbones import build_backbone

_REASON = "SKIPPED FOR LACK OF {0}: pip install -r requirements-reference.txt"
torch, timm = (
  pytest.importorskip(name, reason=_REASON.format(name))
  for name in ("torch", "timm")
)
pytestmark = pytest.mark.slow
_SIZES = ((64, 96), (71, 45), (97, 65))
_TIMM = [*convnext.VARIANTS, *efficient.VARIANTS]


def _randomise(network):
  """`network` with random weights, the same at every call."""
  from benchmarks.encoders import randomise

  randomise(network.state_dict())
  return network.eval()


def _in_torch(network, images):
  with torch.no_grad():
    maps = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  return [x.numpy().transpose(0, 2, 3, 1) for x in maps]


def _ours(backbone, state, output_stride):
  """A function of images to the features of all stages."""
  model = DeepLab(3, backbone, atrous_rates=(), decoder=())
  variables = from_torch(state, model, parts="backbone")
  variables = {
    n: x["backbone"] for n, x in variables.items() if "backbone" in x
  }
  settings = {"whole_patches": True} if backbone in convnext.VARIANTS else {}
  module = build_backbone(backbone, output_stride=output_stride, **settings)
  forward = jax.jit(lambda images: module.apply(variables, images, False))

  def features(images):
    x, low_levels = forward(images)
    return [*low_levels.values(), x]

  return features


def _check(exactness, source, output_stride, found, wanted):
  for size, (ours, theirs) in zip(_SIZES, zip(found, wanted)):
    error = 0.0
    for x, want in zip(ours, theirs):
      assert x.shape == want.shape, (source, size)
      error = max(error, np.abs(x - want).max() / np.abs(want).max())
    exactness.check(source, f"features, output stride {output_stride}", error,
                    1e-5)  # fmt: skip


def _pictures():
  generator = np.random.default_rng(0)
  for size in _SIZES:
    yield generator.standard_normal((1, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("name", _TIMM)
def test_features_are_timms(exactness, name):
  whole = _randomise(timm.create_model(name))
  for output_stride in (8, 16, 32):
    network = timm.create_model(
      name, features_only=True, output_stride=output_stride
    )
    ours = _ours(name, whole.state_dict(), output_stride)
    renamed = {
      re.sub(r"^(stem|stages)\.(\d)", r"\1_\2", n): x
      for n, x in whole.state_dict().items()
    }
    state = renamed if name in convnext.VARIANTS else whole.state_dict()
    network.load_state_dict({n: state[n] for n in network.state_dict()})
    network.eval()
    pictures = list(_pictures())
    found = map(ours, pictures)
    # Without the stem's, at stride 2, that some hand out.
    wanted = (_in_torch(network, images)[-4:] for images in pictures)
    _check(exactness, f"timm {name}", output_stride, found, wanted)


def test_features_are_those_of_dinov3s_convnext(exactness):
  transformers = pytest.importorskip(
    "transformers", reason=_REASON.format("transformers")
  )
  variant = convnext.VARIANTS["convnext_tiny"]
  config = transformers.DINOv3ConvNextConfig(
    hidden_sizes=list(variant.features), depths=list(variant.depths)
  )
  network = _randomise(transformers.DINOv3ConvNextModel(config))

  def stages(images):
    states = network.model(images, output_hidden_states=True).hidden_states
    return states[-4:]

  pictures = list(_pictures())
  found = map(_ours("convnext_tiny", network.state_dict(), 32), pictures)
  wanted = (_in_torch(stages, images) for images in pictures)
  source = "transformers DINOv3ConvNextModel, tiny"
  _check(exactness, source, 32, found, wanted)
