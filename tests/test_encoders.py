"""Encoders of PyTorch against the networks written plainly."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.import_weights import from_torch, torch_deeplab
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.fit import _leaves
from deeplab_jax.import_weights.pytorch import to_official
from deeplab_jax.models import (
  BACKBONES,
  Classifier,
  DeepLab,
  convnext,
  efficient,
  resize_bilinear,
)
from deeplab_jax.models.backbones import build_backbone
from deeplab_jax.models.trace import shapes_of
from tests import torch_deeplabs, torch_encoders, torch_networks
from tests.random_variables import random_variables

# In timm's notation, and ours: every kind of block, and of depthwise kernels.
_MOBILENET = (
  ("er_k3_s2_e4_c16", "cn_k1_c16"),
  ("uir_a3_k5_s2_e4_c24", "uir_a3_k0_e2_c24"),
  ("uir_a5_k3_s2_e3_c32", "uir_a0_k0_e2_c32"),
  ("uir_a0_k3_s2_e2_c40", "uir_a3_k3_e2_c40"),
  ("cn_k1_c48",),
)
_EFFICIENTNET = (
  ("cn_k3_c16_skip",),
  ("er_k3_s2_e4_c24", "er_k3_e4_c24"),
  ("er_k3_s2_e4_c32",),
  ("ir_k3_s2_e4_c40",),
  ("ir_k3_e6_c48", "ir_k3_e6_c48"),
  ("ir_k3_s2_e6_c56", "ir_k3_e6_c56"),
)
# At 8 all that other strides do happens, and more.
_STRIDES = (8, *(pytest.param(s, marks=pytest.mark.slow) for s in (16, 32)))
_KINDS = {"cn": "conv", "er": "fused", "uir": "inverted", "ir": "inverted"}
_SMALL = convnext.Variant((1, 1, 2, 1), (8, 16, 24, 32))
# Names of timm to those of Hugging Face's DINOv3ConvNextModel and of the
# authors' own files.
_HUGGING_FACE = (
  ("stem.", "model.stages.0.downsample_layers."),
  (".downsample.", ".downsample_layers."),
  (".blocks.", ".layers."),
  ("conv_dw", "depthwise_conv"),
  ("mlp.fc1", "pointwise_conv1"),
  ("mlp.fc2", "pointwise_conv2"),
  (".norm.", ".layer_norm."),
  ("head.layer_norm", "layer_norm"),
)


@pytest.fixture(autouse=True)
def _forget_shapes():
  """They are known by a backbone's name, which tests give to others."""
  _leaves.cache_clear()
  yield
  _leaves.cache_clear()


@pytest.fixture
def shallow(monkeypatch):
  monkeypatch.setitem(convnext.VARIANTS, "convnext_atto", _SMALL)


def _ours(stages):
  """The blocks of timm's notation."""

  def block(text):
    kind, *parts = text.removesuffix("_skip").split("_")
    sizes = {part[0]: int(part[1:]) for part in parts}
    return efficient.Block(
      _KINDS[kind],
      sizes["c"],
      sizes["k"],
      sizes.get("s", 1),
      sizes.get("e", 1),
      sizes.get("a", 0),
      squeeze=kind == "ir",
    )

  return tuple(tuple(map(block, stage)) for stage in stages)


@functools.cache
def _state():
  """The state dict alone, with timm's classifier; nothing is computed."""
  network = torch_encoders.Encoder()

  def compute(images):
    *_, x = torch_encoders.convnext(network, images, *_SMALL)
    x = network.layer_norm("head.norm", x.mean((2, 3), keepdims=True))
    return network.linear("head.fc", x[:, :, 0, 0], 10)

  jax.eval_shape(compute, jax.ShapeDtypeStruct((1, 3, 64, 64), np.float32))
  return network.state


def _as_hugging_face(state):
  renamed = {}
  for name, array in state.items():
    for ours, theirs in _HUGGING_FACE:
      name = name.replace(ours, theirs)
    if name.startswith("stages"):
      name = f"model.{name}"
    if not name.startswith("head.fc"):
      renamed[name] = array
  return renamed


def _images(*size):
  images = np.random.default_rng(0).standard_normal((1, *size, 3))
  return images.astype(np.float32)


def _relative(found, wanted):
  assert found.shape == wanted.shape
  return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("output_stride", _STRIDES)
@pytest.mark.parametrize(
  ("name", "stages", "settings"),
  [
    ("mobilenetv4_conv_small", _MOBILENET, (torch_networks.relu, False)),
    ("tf_efficientnetv2_b0", _EFFICIENTNET, (torch_encoders.silu, True)),
  ],
)
def test_others_compute_the_features_of_torch(
  monkeypatch, name, stages, settings, output_stride
):
  variant = efficient.VARIANTS[name]._replace(stem=16, stages=_ours(stages))
  monkeypatch.setitem(efficient.VARIANTS, name, variant)
  module = build_backbone(name, output_stride=output_stride)
  forward = jax.jit(lambda v, x: module.apply(v, x, False))
  images = _images(64, 45)  # even sizes tell padding rules apart
  network = torch_encoders.Encoder(module.norm.epsilon)
  wanted = jax.jit(
    lambda x: torch_encoders.efficient(
      network, x, 16, stages, output_stride, *settings
    )
  )(images.transpose(0, 3, 1, 2))
  model = DeepLab(3, name, atrous_rates=(), decoder=())
  variables = from_torch(network.state, model, parts="backbone")
  variables = {n: tree["backbone"] for n, tree in variables.items()}
  x, low_levels = forward(variables, images)
  taken = [wanted[i] for i in variant.low_level.values()]
  for found, want in zip((*low_levels.values(), x), (*taken, wanted[-1])):
    assert _relative(found, want.transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize("output_stride", _STRIDES)
def test_convnext_computes_the_features_of_torch(shallow, output_stride):
  network = torch_encoders.Encoder()
  model = DeepLab(3, "convnext_atto", atrous_rates=(), decoder=())
  variables = from_torch(_state(), model, parts="backbone")
  variables = {"params": variables["params"]["backbone"]}
  reference = jax.jit(
    lambda x: torch_encoders.convnext(network, x, *_SMALL, output_stride)
  )
  # Of a side that patches do not divide, torch leaves the rest out.
  for size, whole in (((64, 96), False), ((71, 45), True)):
    images = _images(*size)
    wanted = reference(images.transpose(0, 3, 1, 2))
    module = build_backbone(
      "convnext_atto", output_stride=output_stride, whole_patches=whole
    )
    x, low_levels = jax.jit(lambda v, x, m=module: m.apply(v, x, False))(
      variables, images
    )
    assert list(low_levels) == ["conv2", "conv3", "conv4"]
    for found, want in zip((*low_levels.values(), x), wanted):
      assert _relative(found, want.transpose(0, 2, 3, 1)) < 1e-5


def test_a_deeplab_of_smp_comes_along(shallow):
  """Its `tu-` encoders are timm's, here for images of four channels."""
  whole, encoder = torch_networks.Network(), torch_encoders.Encoder()
  images = np.random.default_rng(0).standard_normal((1, 64, 32, 4))
  images = images.astype(np.float32)

  def compute(x):
    low, *_, y = torch_encoders.convnext(encoder, x, *_SMALL, 16)
    return torch_deeplabs.smp_decoder(whole, low, y)

  wanted = jax.jit(compute)(images.transpose(0, 3, 1, 2))
  named = {re.sub(r"^(stem|stages)\.(\d)", r"\1_\2", n): a
           for n, a in encoder.state.items()}  # fmt: skip
  state = whole.state | {f"encoder.model.{n}": a for n, a in named.items()}
  # As Lightning saves it, in the order of safetensors.
  state = {f"net.{n}": state[n] for n in sorted(state)}
  model = torch_deeplab({"weights": state})
  assert (model.backbone, model.channels) == ("convnext_atto", 4)
  assert (model.decoder, model.output_stride) == (("conv2",), 16)
  variables = from_torch(state, model)
  logits = jax.jit(model.apply)(variables, images)
  found = resize_bilinear(logits, images.shape[1:3], model.half_pixel)
  assert _relative(found, wanted.transpose(0, 2, 3, 1)) < 2e-5


def test_rest_of_a_side_counts_unless_patches_are_whole(shallow):
  shapes = {}
  for whole in (False, True):
    module = build_backbone(
      "convnext_atto", output_stride=32, whole_patches=whole
    )
    (x, low), _ = shapes_of(
      functools.partial(module.init_with_output, use_batch_stats=False),
      jax.random.key(0),
      jnp.zeros((1, 65, 97, 3)),
    )
    shapes[whole] = [y.shape[1:3] for y in (*low.values(), x)]
  assert shapes[False] == [(17, 25), (9, 13), (5, 7), (3, 4)]
  assert shapes[True] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_hugging_face_names_the_same_arrays(shallow):
  wanted = to_official(_state())
  found = to_official(_as_hugging_face(_state()))
  missing = {"convnext_atto/logits/weights", "convnext_atto/logits/biases"}
  assert set(wanted) - set(found) == missing
  for name, array in found.items():
    np.testing.assert_array_equal(array, wanted[name], err_msg=name)


def test_classifier_takes_norm_and_last_layer(shallow):
  state, model = _state(), Classifier(10, "convnext_atto")
  params = from_torch(state, model)["params"]
  kernel = params["logits"]["kernel"][0, 0]
  np.testing.assert_array_equal(kernel.T, state["head.fc.weight"])
  scale = params["pooled_norm"]["scale"]
  np.testing.assert_array_equal(scale, state["head.norm.weight"])


def test_command_refuses_another_width_and_names_both(
  shallow, tmp_path, capsys
):
  source = tmp_path / "atto.npz"
  np.savez(source, **_state())
  arguments = [str(source), "--out", str(tmp_path / "m")]
  assert main([*arguments, "--model", "convnext_tiny"]) != 0
  message = capsys.readouterr().err
  assert "'convnext_tiny', but the variables have 'convnext_atto'" in message


@pytest.mark.parametrize(
  ("renamed", "message"),
  [
    (("stages.0.blocks.0.norm.bias", "stages.0.blocks.0.mlp.grn.bias"),
     r"of a ConvNeXt V2, .* \(stages.0.blocks.0.mlp.grn.bias\); known are"),
    (("stages.0.blocks.0.norm.bias", "stages.0.blocks.0.mlp.fc3.bias"),
     "looks like ConvNeXt, but has unexpected names: .*mlp.fc3.bias"),
    (("stages.2.blocks.1.norm.bias", "stages.2.blocks.2.norm.bias"),
     r"ConvNeXt of \(1, 1, 3, 1\) blocks with \(8, 16, 24, 32\) channels"),
  ],
)  # fmt: skip
def test_other_convnexts_are_refused(shallow, renamed, message):
  old, new = renamed
  state = {new if n == old else n: a for n, a in _state().items()}
  with pytest.raises(ValueError, match=message):
    to_official(state)


def test_a_classifier_with_another_convolution_is_refused(monkeypatch):
  name = "mobilenetv4_conv_small"
  variant = efficient.VARIANTS[name]._replace(stem=16, stages=_ours(_MOBILENET))
  monkeypatch.setitem(efficient.VARIANTS, name, variant)
  network = torch_encoders.Encoder()

  def compute(x):
    settings = 16, _MOBILENET, 32, torch_networks.relu, False
    *_, x = torch_encoders.efficient(network, x, *settings)
    return network.conv_norm("conv_head", "norm_head", x, 64)

  jax.eval_shape(compute, jax.ShapeDtypeStruct((1, 3, 32, 32), np.float32))
  with pytest.raises(
    ValueError, match=r"\(conv_head\), Classifier with .* none"
  ):
    from_torch(network.state, Classifier(10, name))


def test_pictures_below_a_patch_are_refused_with_whole_patches(shallow):
  module = build_backbone("convnext_atto", output_stride=16, whole_patches=True)
  with pytest.raises(ValueError, match=r"16 pixels or more .* got 15 x 40"):
    module.init(jax.random.key(0), jnp.zeros((1, 15, 40, 3)), False)


def test_paths_are_dropped_in_training_alone(shallow):
  model = DeepLab(
    3,
    "convnext_atto",
    atrous_rates=(),
    decoder=(),
    dropout_rate=0.0,
    drop_path_rate=0.5,
  )
  images = jnp.asarray(_images(33, 33)).repeat(2, 0)
  # With initial values nothing would show of branches.
  variables = random_variables(model, images)

  @functools.partial(jax.jit, static_argnums=1)
  def logits(seed, train):
    y = model.apply(
      variables, images, train=train, frozen_batch_norm=True,
      rngs={"dropout": jax.random.key(seed)},
    )  # fmt: skip
    return y

  first, again, other = (logits(seed, True) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  np.testing.assert_array_equal(logits(0, False), logits(1, False))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"whole_patches": True}, "whole_patches must be False: mobilenet_v2 has"),
    ({"drop_path_rate": 0.1}, "drop_path_rate must be 0: mobilenet_v2 has no"),
    ({"backbone": "convnext_tiny", "drop_path_rate": 1}, r"in \[0, 1\); got 1"),
    ({"backbone": "convnext_tiny", "output_stride": 4}, "8, 16 or 32; got 4"),
    ({"backbone": "convnext_tiny", "width_multiplier": 2}, "has one width"),
  ],
)
def test_what_a_backbone_does_not_take_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    DeepLab(**{"num_classes": 3, "backbone": "mobilenet_v2"} | arguments)


def test_parameters_are_as_many_as_published():
  """timm's count less its classifier, a norm and a layer for 1000 classes."""
  published = {"convnext_atto": 3.70, "convnext_tiny": 28.59}
  for name, millions in published.items():
    model = Classifier(1000, name)
    tree = shapes_of(model.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert round(count / 1e6, 2) == millions
  assert set(convnext.VARIANTS) <= set(BACKBONES)
