"""The network's arguments, shapes and parameter tree."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.models import (
  Classifier,
  DeepLab,
  model_from_dict,
  model_to_dict,
  padding_value,
  preprocess,
)
from deeplab_jax.models.trace import shapes_of
from tests.every_backbone import EVERY_BACKBONE
from tests.random_variables import abstract_variables, random_variables

NO_RATES = {"backbone": "mobilenet_v2", "atrous_rates": ()}
LRASPP = {
  "head": "lraspp",
  "atrous_rates": (),
  "decoder": ("conv3",),
  "output_stride": 32,
  "num_classes": 19,
}
PLAIN = {"aspp_separable": False, "decoder_separable": False}
# The file of every segmentation model, and the arguments that build it: see
# `test_every_deeplab_is_recognised_and_named_officially`.
MODELS = {
  "xception_41": {"backbone": "xception_41"},
  "xception_65": {"backbone": "xception_65"},
  "xception_71": {"backbone": "xception_71"},
  "xception_65_nodecoder": {"backbone": "xception_65", "decoder": ()},
  "xception_65_plainconv": {"backbone": "xception_65", **PLAIN},
  "xception_71_dpc_cityscapes": {
    "backbone": "xception_71", "head": "dpc", "num_classes": 19,
  },
  "resnet_v1_50": {"backbone": "resnet_50"},
  "resnet_v1_50_beta": {"backbone": "resnet_50_beta"},
  "resnet_v1_101": {"backbone": "resnet_101"},
  "resnet_v1_101_beta": {"backbone": "resnet_101_beta"},
  "resnet_v1_101_beta_plainconv": {"backbone": "resnet_101_beta", **PLAIN},
  "mobilenet_v2": {**NO_RATES, "decoder": ()},
  "mobilenet_v2_dm05": {**NO_RATES, "decoder": (), "width_multiplier": 0.5},
  "mobilenet_v2_decoder": NO_RATES,
  "mobilenet_v2_aspp_decoder": {"backbone": "mobilenet_v2"},
  "mobilenet_v3_large_seg_cityscapes": {
    "backbone": "mobilenet_v3_large_seg", **LRASPP,
  },
  "mobilenet_v3_small_seg_cityscapes": {
    "backbone": "mobilenet_v3_small_seg", **LRASPP,
  },
}  # fmt: skip


def build(arguments):
  return DeepLab(**{"num_classes": 21} | arguments)


def variables_of(model, size=(65, 65)):
  return abstract_variables(model, (1, *size, 3))


@pytest.mark.parametrize("backbone", EVERY_BACKBONE)
@pytest.mark.usefixtures("shallow_backbones")
def test_shapes_are_those_of_draws_whatever_stride_rates_and_dtype(backbone):
  init = DeepLab(21, backbone).init_with_output
  arguments = jax.random.key(0), jax.ShapeDtypeStruct((1, 65, 65, 3), "f4")
  logits, base = jax.eval_shape(init, *arguments)
  assert (logits, base) == shapes_of(init, *arguments)
  for stride in (8, 32):
    model = DeepLab(21, backbone, stride, dtype=jnp.bfloat16)
    assert variables_of(model, (64, 96)) == base


@pytest.mark.parametrize("size", [(65, 65), (64, 96), (33, 70), (1, 1)])
@pytest.mark.parametrize(
  "arguments,stride",
  [({}, 4), ({"decoder": ()}, 16), ({"decoder": (), "output_stride": 8}, 8),
   ({"decoder": ("conv3",)}, 8), ({"decoder": ("conv3", "conv2")}, 4)],
)  # fmt: skip
def test_logits_have_the_size_of_their_stride(
  tiny_backbone, arguments, stride, size
):
  model = DeepLab(5, "tiny", **arguments)
  assert model.logits_stride == stride
  images = jnp.zeros((2, *size, 3))
  logits, variables = shapes_of(
    model.init_with_output, jax.random.key(0), images
  )
  assert logits.shape == (2, *(-(-n // stride) for n in size), 5)
  assert logits.dtype == jnp.float32
  assert variables["params"]["logits"]["kernel"].shape[-1] == 5


@pytest.mark.usefixtures("tiny_backbone")
def test_bfloat16_keeps_parameters_statistics_and_logits_float32():
  model = DeepLab(5, "tiny", dtype=jnp.bfloat16)
  images = jnp.ones((1, 33, 33, 3))
  variables = random_variables(model, images)
  logits, updated = jax.jit(
    lambda variables: model.apply(
      variables,
      images,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(0)},
    )
  )(variables)
  leaves = jax.tree.leaves((variables, updated))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
  assert logits.dtype == jnp.float32
  wide = DeepLab(5, "tiny")
  exact = jax.jit(wide.apply)(variables, images)
  rounded = jax.jit(model.apply)(variables, images)
  assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(
  "arguments",
  [
    pytest.param(
      {"backbone": "mobilenet_v3_small_seg", **LRASPP}, marks=pytest.mark.slow
    ),
    {"backbone": "tiny", **LRASPP},
    {
      "backbone": "tiny",
      "decoder": ("conv3", "conv2"),
      "decoder_convs": ((3, 16), (1, 16)),
      "decoder_separable": False,
    },
    {"backbone": "tiny", "head": "dpc"},
  ],
)
def test_a_gradient_reaches_every_parameter(tiny_backbone, arguments):
  model = build(arguments)
  images = jax.random.normal(jax.random.key(1), (2, 33, 33, 3))
  variables = random_variables(model, images)

  def loss(params, target):
    logits, _ = model.apply(
      variables | {"params": params},
      images,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(0)},
    )
    return (logits * target).sum()

  shape = jax.eval_shape(model.apply, variables, images).shape
  target = jax.random.normal(jax.random.key(2), shape)
  gradients = jax.jit(jax.grad(loss))(variables["params"], target)
  flat = flax.traverse_util.flatten_dict(gradients)
  silent = ["/".join(k) for k, g in flat.items() if not np.abs(g).max() > 0]
  assert silent == []


@pytest.mark.usefixtures("tiny_backbone")
def test_frozen_batch_norm_keeps_statistics_and_uses_them():
  model = DeepLab(5, "tiny", dropout_rate=0.0)
  images = jax.random.normal(jax.random.key(1), (2, 33, 33, 3))
  variables = random_variables(model, images)
  logits, updated = jax.jit(
    lambda variables: model.apply(
      variables,
      images,
      train=True,
      frozen_batch_norm=True,
      mutable=["batch_stats"],
    )
  )(variables)
  jax.tree.map(
    np.testing.assert_array_equal,
    updated["batch_stats"],
    variables["batch_stats"],
  )
  stored = jax.jit(model.apply)(variables, images)
  np.testing.assert_allclose(logits, stored, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "arguments,message",
  [
    ({"backbone": "xception"}, r"backbone must be one of .*xception_65.*got"),
    ({"output_stride": 12}, "output_stride must be 8, 16 or 32; got 12"),
    ({"num_classes": 0}, "num_classes must be a positive integer; got 0"),
    ({"multi_grid": (1, 2)}, "multi_grid must be None or three positive"),
    ({"width_multiplier": 0.5}, "must be 1: xception_65 has one width"),
    ({"backbone": "mobilenet_v2", "multi_grid": (1, 2, 4)}, "no multi-grid"),
    ({"atrous_rates": (1,), "output_stride": 32}, "stay whole when scaled"),
    ({"decoder": "conv2"}, "from coarse to fine"),
    ({"decoder": ("conv2", "conv3")}, "from coarse to fine"),
    ({"decoder_convs": ((2, 256),)}, "odd kernel size"),
    ({"decoder_convs": ()}, "at least one"),
    ({"decoder_low_level_channels": 0}, "positive integer; got 0"),
    ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\)"),
    ({"batch_norm_momentum": 2}, "batch_norm_momentum must be None or in"),
    ({"head": "unet"}, "head must be one of"),
    ({"head": "lraspp", "decoder": ()}, "one low-level feature"),
    ({"head_convs": ((2, 256),)}, r"odd kernel size, channels\) pairs, or \("),
    ({"rates_from": "there"}, "rates_from must be one of .*next_stage"),
  ],
)
def test_wrong_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    build(arguments)


def test_images_of_wrong_shape_are_named():
  model = DeepLab(5, "mobilenet_v2")
  with pytest.raises(ValueError, match=r"must be \(b, h, w, 3\), got \(33, 3"):
    model.init(jax.random.key(0), jnp.zeros((33, 33, 3)))


@pytest.mark.parametrize("name", MODELS)
def test_model_survives_json(name):
  model = build(MODELS[name] | {"dtype": jnp.bfloat16})
  assert model_from_dict(json.loads(json.dumps(model_to_dict(model)))) == model


def test_model_from_dict_names_unknown_arguments():
  with pytest.raises(ValueError, match="unknown arguments of DeepLab: stride"):
    model_from_dict({"num_classes": 2, "stride": 8})


@pytest.mark.parametrize(
  "backbone,black,white",
  [
    ("xception_65", [-1, -1, -1], [1, 1, 1]),
    ("resnet_50_beta", [-1, -1, -1], [1, 1, 1]),
    ("resnet_50", [-123.15, -115.90, -103.06], [131.85, 139.1, 151.94]),
  ],
)
def test_preprocess_is_the_published_one(backbone, black, white):
  images = np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), 255)])
  ours = preprocess(images.astype(np.uint8), backbone)
  np.testing.assert_allclose(ours[0, 0, 0], black, rtol=1e-6)
  np.testing.assert_allclose(ours[1, 0, 0], white, rtol=1e-6)
  padding = np.asarray(padding_value(backbone), np.float32)
  np.testing.assert_allclose(preprocess(padding, backbone), 0, atol=1e-6)


@pytest.mark.parametrize(
  "backbone,values", [("xception_65", 40_103_561), ("mobilenet_v2", 3_540_265)]
)
def test_classifier_counts_and_shapes(backbone, values):
  model, images = Classifier(1001, backbone), jnp.zeros((2, 224, 224, 3))
  tree = shapes_of(model.init, jax.random.key(0), images)
  assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == values
  assert jax.eval_shape(model.apply, tree, images).shape == (2, 1001)
  segmenter = variables_of(DeepLab(21, backbone))["params"]["backbone"]
  assert tree["params"]["backbone"] == segmenter
