"""The network confined to crops and with folded batch norms; window spans."""

import contextlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax import inference
from deeplab_jax.inference import crops, folding, onednn, tiles
from deeplab_jax.models.blocks import BiasConv, gelu
from tests.needs import needs_onednn, needs_onednn_bfloat16
from tests.tiny_segmenter import (
  make_variables,
  random_image,
  tiny_model,
)


@pytest.mark.parametrize(
  "arguments",
  [
    {"atrous_rates": (6, 12), "decoder": ("conv2",)},
    *(
      pytest.param({"width_multiplier": 1.0} | other, marks=pytest.mark.slow)
      for other in (
        {"backbone": "mobilenet_v2", "width_multiplier": 0.25},
        {"backbone": "resnet_50", "output_stride": 8},
        {"backbone": "mobilenet_v3_small_seg"},
        {"backbone": "xception_41", "decoder": ("conv3", "conv2")},
      )
    ),
  ],
)
def test_confined_network_equals_one_on_a_smaller_canvas(
  shallow_backbones, tiny_backbone, arguments
):
  model = tiny_model(**arguments)
  variables = make_variables(model)
  image = np.zeros((1, 97, 129, 3), np.float32)
  image[:, :65, :97] = np.random.default_rng(0).normal(size=(1, 65, 97, 3))
  crop = jnp.array([[65, 97]])
  apply = jax.jit(
    lambda images, crops_: crops.apply_on(model, variables, images, crops_)
  )
  expected = np.asarray(apply(image[:, :65, :97], None))
  rows, columns = expected.shape[1:3]
  confined = np.asarray(apply(image, crop))[:, :rows, :columns]
  tolerance = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(confined, expected, atol=tolerance)


def test_canvas_does_not_change_fused_views(tiny_backbone):
  model = tiny_model()
  variables = make_variables(model)
  predict = jax.jit(inference.predict_fn(model, (0.5, 1.25), flip=True))
  image = random_image(100, 120)
  size, crop = np.array([[100, 120]]), np.array([[129, 129]])

  def probabilities(canvas, limits):
    padded = np.zeros((1, *canvas, 3), np.uint8)
    padded[0, :100, :120] = image
    _, result = predict(variables, padded, size, limits)
    return np.asarray(result)[0, :100, :120]

  expected = probabilities((129, 129), None)
  confined = probabilities((257, 385), crop)
  np.testing.assert_allclose(confined, expected, atol=1e-5)
  # Without, the canvas shows through the pooling and across the border.
  loose = probabilities((257, 385), None)
  assert np.abs(loose - expected).max() > 1e-3


@pytest.mark.parametrize(
  "arguments",
  [
    {"atrous_rates": (6,), "decoder": ("conv2",)},
    {"backbone": "convnext_atto"},
    {"backbone": "convnext_atto", "output_stride": 8, "whole_patches": True},
    {"backbone": "vit_small_patch16_dinov3"},
    *(
      pytest.param({"backbone": name}, marks=pytest.mark.slow)
      for name in (
        *("mobilenet_v2", "mobilenet_v3_small_seg", "tf_efficientnetv2_b0"),
        *("mobilenetv4_conv_small", "vit_small_patch14_dinov2"),
      )
    ),
  ],
)
@pytest.mark.parametrize(
  "in_onednn", [False, pytest.param(True, marks=needs_onednn)]
)
def test_folded_network_equals_the_original(
  tiny_backbone, shallow_backbones, arguments, in_onednn
):
  model = tiny_model(**arguments)
  variables = make_variables(model)
  images = np.random.default_rng(0).normal(size=(2, 65, 49, 3))
  images = images.astype(np.float32)
  expected = jax.jit(model.apply)(variables, images)
  variables = folding.fold(model, variables)
  calls = folding.layers_in_onednn if in_onednn else contextlib.nullcontext
  with calls():
    lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, images)
  logits = onednn.compiled(lowered)(variables, images)
  assert ("__onednn$convolution" in lowered.as_text()) == in_onednn
  tolerance = 1e-4 * np.abs(expected).max()
  np.testing.assert_allclose(logits, expected, atol=tolerance)


@pytest.mark.parametrize(
  "in_onednn", [False, pytest.param(True, marks=needs_onednn_bfloat16)]
)
@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", "convnext_atto"])
def test_folded_network_in_bfloat16_is_near_float32(
  tiny_backbone, shallow_backbones, backbone, in_onednn
):
  model = tiny_model(backbone=backbone)
  variables = make_variables(model)
  images = np.random.default_rng(0).normal(size=(1, 65, 65, 3))
  images = images.astype(np.float32)
  expected = jax.jit(model.apply)(variables, images)
  model = model.clone(dtype=jnp.dtype("bfloat16"))
  variables = folding.fold(model, variables)
  kernels = flax.traverse_util.flatten_dict(variables["folded"])
  for path, value in kernels.items():
    assert value.dtype == ("bfloat16" if path[-1] == "kernel" else "float32")
  params = flax.traverse_util.flatten_dict(variables["params"])
  for path, value in params.items():
    is_cast = "kernel" in path[-1] and path[0] != "logits"
    assert value.dtype == ("bfloat16" if is_cast else "float32"), path
  calls = folding.layers_in_onednn if in_onednn else contextlib.nullcontext
  with calls():
    lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, images)
  logits = onednn.compiled(lowered)(variables, images)
  assert ("__onednn$convolution" in lowered.as_text()) == in_onednn
  assert np.abs(logits - expected).mean() < 0.05 * np.abs(expected).max()


@needs_onednn
def test_a_layer_with_bias_is_one_call():
  layer = BiasConv(
    8, kernel_size=2, stride=2, padding="patches", activation=gelu
  )
  x = jnp.ones((1, 17, 20, 4))
  variables = layer.init(jax.random.key(0), x)
  with folding.layers_in_onednn():
    text = jax.jit(layer.apply).lower(variables, x).as_text()
  assert text.count("@__onednn$convolution") == 1
  assert "BIAS" in text and "GELU_ERF" in text
  assert "stablehlo.convolution" not in text and "dot_general" not in text


def test_what_is_folded_is_not_kept_twice(tiny_backbone):
  model = tiny_model(atrous_rates=(6,), decoder=("conv2",))
  variables = make_variables(model)
  folded = folding.fold(model, variables)
  assert not jax.tree.leaves(folded["batch_stats"])
  assert list(folded["params"]) == ["logits"]
  kernels = len(jax.tree.leaves(variables["batch_stats"])) // 2
  assert len(jax.tree.leaves(folded["folded"])) == 2 * kernels


@pytest.mark.parametrize("length", [1, 64, 65, 66, 97, 500, 1025])
def test_spans_divide_the_axis(length):
  cut = tiles.spans(length, tile=97, margin=8, grain=32)
  decided = [i for span in cut for i in range(span.first, span.end)]
  assert decided == list(range(length))
  for span in cut:
    assert span.start % 32 == 0
    assert span.start <= span.first and span.end <= span.start + 97


def test_spans_keep_off_the_borders():
  cut = tiles.spans(2000, tile=97, margin=16, grain=32)
  assert len(cut) == 31
  for span in cut[1:]:
    assert span.first - span.start >= 16
  for span in cut[:-1]:
    assert span.start + 97 - span.end >= 16
