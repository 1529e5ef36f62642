"""Vision transformers against timm's and Hugging Face's, with random weights.

Needs `requirements-reference.txt`. Tokens behind a quarter, a half, three
quarters and all of the blocks, resized by torch, at sizes that patches divide
and others, smaller and larger than the learned grid of positions.
"""

import jax
import numpy as np
import pytest

from deeplab_jax.import_weights import from_torch
from deeplab_jax.import_weights.pytorch import usual_arguments
from deeplab_jax.models import DeepLab, vit
from deeplab_jax.models.backbones import build_backbone
from tests.test_encoders_reference import _in_torch, _randomise

_REASON = "SKIPPED FOR LACK OF {0}: pip install -r requirements-reference.txt"
torch, timm, transformers = (
  pytest.importorskip(name, reason=_REASON.format(name))
  for name in ("torch", "timm", "transformers")
)
pytestmark = pytest.mark.slow
_SIZES = ((56, 112), (71, 45), (97, 65), (528, 30))
_DEPTHS = (2, 5, 8, 11)


def _pictures():
  generator = np.random.default_rng(0)
  for size in _SIZES:
    yield generator.standard_normal((1, *size, 3)).astype(np.float32)


def _ours(backbone, state, images, output_stride, **settings):
  """The four features of `images`."""
  model = DeepLab(3, backbone, atrous_rates=(), decoder=())
  variables = from_torch(state, model, parts="backbone")
  settings = {"whole_patches": True} | settings
  module = build_backbone(backbone, output_stride=output_stride, **settings)
  params = {"params": variables["params"]["backbone"]}
  x, low_levels = jax.jit(lambda images: module.apply(params, images, False))(
    images
  )
  return [*low_levels.values(), x]


def _check(exactness, source, backbone, state, network, **settings):
  """Holds our features against those of `network`, maps of tokens."""
  error = 0.0
  for output_stride, images in zip((8, 16, 32, 16), _pictures()):
    found = _ours(backbone, state, images, output_stride, **settings)

    def maps(x, found=found):
      return [
        torch.nn.functional.interpolate(
          y, x.shape[1:3], mode="bilinear", align_corners=True
        )
        for x, y in zip(found, network(x))
      ]

    for ours, theirs in zip(found, _in_torch(maps, images)):
      error = max(error, np.abs(ours - theirs).max() / np.abs(theirs).max())
  exactness.check(source, "tokens, resized", error, 1e-5)


@pytest.mark.parametrize("name", vit.VARIANTS)
def test_tokens_are_timms(exactness, name):
  # It fills patches up, too; without, it refuses sides that they do not divide.
  network = timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True)
  network = _randomise(network)

  def maps(x):
    _, found = network.forward_intermediates(x, indices=_DEPTHS, norm=True)
    return found

  state = network.state_dict()
  assert usual_arguments(state) == {"positions_of": "timm"}
  _check(exactness, f"timm {name}", name, state, maps, whole_patches=False)


def _hugging_face(kind, backbone):
  """The network and a function to maps of its tokens."""
  variant = vit.VARIANTS[backbone]
  settings = {
    "hidden_size": variant.features,
    "num_attention_heads": variant.features // vit.HEAD_FEATURES,
    "intermediate_size": 4 * variant.features,
    "patch_size": variant.patch,
    "num_register_tokens": variant.registers,
    "image_size": variant.patch * variant.grid or 224,
  }
  if kind == "Dinov2":
    del settings["num_register_tokens"]
  if variant.grid:
    del settings["intermediate_size"]
  config = getattr(transformers, f"{kind}Config")(**settings)
  network = _randomise(getattr(transformers, f"{kind}Model")(config))
  norm = network.layernorm if variant.grid else network.norm

  def maps(x):
    states = network(x, output_hidden_states=True).hidden_states
    rows, columns = (n // variant.patch for n in x.shape[2:])
    found = [norm(states[i + 1])[:, 1 + variant.registers :] for i in _DEPTHS]
    return [y.mT.reshape(1, -1, rows, columns) for y in found]

  return network, maps


@pytest.mark.parametrize(
  ("kind", "backbone"),
  [
    ("Dinov2", "vit_small_patch14_dinov2"),
    ("Dinov2WithRegisters", "vit_small_patch14_reg4_dinov2"),
    ("DINOv3ViT", "vit_small_patch16_dinov3"),
    ("DINOv3ViT", "vit_base_patch16_dinov3"),
  ],
)
def test_tokens_are_those_of_transformers(exactness, tmp_path, kind, backbone):
  network, maps = _hugging_face(kind, backbone)
  state = network.state_dict()
  usual = usual_arguments(state)
  assert usual == {"positions_of": "transformers"}
  source = f"transformers {kind}Model, {backbone.split('_')[1]}"
  _check(exactness, source, backbone, state, maps, **usual)
  # Files have the names that the Hub has.
  from deeplab_jax.import_weights import read

  network.save_pretrained(tmp_path)
  arrays = read(tmp_path / "model.safetensors")
  wanted = read(_saved(tmp_path / "state.pth", state))
  assert arrays.keys() == wanted.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, wanted[name])


def _saved(path, state):
  torch.save(state, path)
  return path


def test_tokens_are_those_of_the_authors(exactness, monkeypatch):
  """Of transformers' network with positions resized as the authors do."""
  backbone = "vit_small_patch14_dinov2"
  network, maps = _hugging_face("Dinov2", backbone)

  def resized(tokens, height, width):
    places = network.embeddings.position_embeddings
    if tokens.shape[1] == places.shape[1] and height == width:
      return places
    grid = places[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scales = [(n // 14 + 0.1) / 37 for n in (height, width)]
    grid = torch.nn.functional.interpolate(
      grid, scale_factor=scales, mode="bicubic"
    )
    return torch.cat([places[:, :1], grid.flatten(2).mT], 1)

  monkeypatch.setattr(network.embeddings, "interpolate_pos_encoding", resized)
  settings = {"positions_of": "authors"}
  state = network.state_dict()
  _check(exactness, "the authors' DINOv2, small", backbone, state, maps,
         **settings)  # fmt: skip
