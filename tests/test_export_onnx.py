"""ONNX files compute what the network is defined as, whatever it is made of."""

import collections
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.export import as_onnx, certificate, onnx_file
from deeplab_jax.models import DeepLab, layers
from deeplab_jax.models.aspp import ASPP
from deeplab_jax.models.layers import ConvNorm, Norm
from tests import exported, heads_of_others
from tests.exported import make_job, open_onnx
from tests.tiny_segmenter import small_model, tiny_model

exported.onnx_packages()
pytestmark = pytest.mark.usefixtures("tiny_backbone")
_NORM = Norm(0.9, 1e-3)

# Arguments of `tiny_model`, and sizes: below the stride, odd, beyond a crop.
_HEADS = {
  "no decoder": ({"output_stride": 32}, [(1, 1), (40, 70)]),
  "aspp": (
    {"atrous_rates": (6, 12), "decoder": ("conv2",)},
    [(7, 11), (65, 33)],
  ),
  "dense": (
    {
      "atrous_rates": (6,),
      "aspp_separable": False,
      "decoder": ("conv3", "conv2"),
      "decoder_separable": False,
      "output_stride": 8,
    },
    [(5, 3), (66, 50)],
  ),
  "no pooling": (
    {"image_pooling": False, "atrous_rates": (6,), "decoder": ("conv4",)},
    [(33, 97)],
  ),
  "dpc": ({"head": "dpc", "decoder": ("conv2",)}, [(7, 11), (65, 33)]),
  "lraspp": (
    {"head": "lraspp", "decoder": ("conv3",), "output_stride": 8},
    [(7, 11), (65, 300)],
  ),
  "lraspp of torch": (
    {"head": "lraspp_torch", "decoder": ("conv3",), "half_pixel": True},
    [(7, 11), (65, 100)],
  ),
  "as torch's": (
    {
      "half_pixel": True,
      "pad_input": False,
      "head_convs": ((3, 32),),
      "separable_norm": False,
      "atrous_rates": (6,),
      "decoder": ("conv2",),
    },
    [(7, 11), (97, 300)],
  ),
  "many classes": ({"num_classes": 300}, [(20, 30)]),
}
# All others are in tests/test_export_networks.py; the README's command takes a
# MobileNetV2. The slow ones are made of what these and the heads are made of.
_BACKBONES = {
  "convnext_atto": {"output_stride": 8},
  "mobilenet_v3_small_seg": {"head": "lraspp", "decoder": ("conv3",)},
  "resnet_50": {"output_stride": 8},
}
_SLOW = {
  "tf_efficientnetv2_b0": {"output_stride": 8},
  "xception_71": {"output_stride": 8, "decoder": ("conv2",)},
}


@pytest.mark.parametrize("name", _HEADS)
def test_heads_decoders_and_strides(name):
  arguments, sizes = _HEADS[name]
  job = make_job(tiny_model(**arguments))
  opened = open_onnx(job)
  exported.assert_equals_definition(job, opened, *sizes)
  wanted = np.uint16 if job.model.num_classes > 256 else np.uint8
  assert opened.run(exported.pictures(9, 8)).dtype == wanted


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    *_BACKBONES.items(),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in _SLOW.items()),
  ],
)
def test_backbones(shallow_backbones, name, arguments):
  settings = {"atrous_rates": (), "decoder": ()} | arguments
  job = make_job(DeepLab(3, name, **settings))
  exported.assert_equals_definition(job, open_onnx(job), (37, 50))


def test_a_least_crop_takes_part():
  job = make_job(tiny_model(), least_crop=(65, 97))
  exported.assert_equals_definition(job, open_onnx(job), (40, 30), (70, 130))


def test_a_least_crop_off_the_grid_needs_a_size():
  model = tiny_model()
  with pytest.raises(ValueError, match=r"crop .* k \* 16 \+ 1 .*--size HxW"):
    as_onnx.make(make_job(model, least_crop=(60, 97)))
  job = make_job(model, least_crop=(60, 97), sizes=((40, 30),))
  exported.assert_equals_definition(job, open_onnx(job), (40, 30))


def test_scales_and_mirror_images():
  model = tiny_model(decoder=("conv2",))
  variables = exported.with_large_logits(model, make_job(model).variables)
  job = make_job(model, variables, scales=(0.5, 1.25), flip=True)
  facts = certificate.measure(job, open_onnx(job))
  assert facts["passed"]
  assert facts["worst_probability_difference"] < 1e-5
  assert facts["clear_pixels"] > 0.9 * facts["pixels"]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_one_scale_has_logits(scale):
  model = tiny_model()
  variables = exported.with_large_logits(model, make_job(model).variables)
  job = make_job(model, variables, scales=(scale,), output="logits")
  facts = certificate.measure(job, open_onnx(job))
  assert facts["passed"] and facts["worst_logit_difference"] < 1e-5


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_other_outputs_are_channels_last(output):
  job = make_job(tiny_model(num_classes=5), output=output)
  images = exported.pictures(30, 41, count=2)
  opened = open_onnx(job)
  found = opened.run(images)
  assert (found.shape, found.dtype) == ((2, 30, 41, 5), np.float32)
  wanted = np.stack([certificate.definition(job, image) for image in images])
  if output == "probabilities":
    wanted = jax.nn.softmax(wanted)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_fixed_size_takes_no_other():
  import onnxruntime

  job = make_job(tiny_model(), sizes=((33, 47),))
  opened = open_onnx(job)
  exported.assert_equals_definition(job, opened, (33, 47))
  with pytest.raises(
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
  ):
    opened.run(exported.pictures(33, 48))


def test_the_file_is_as_documented():
  """Names, types, opset, one transposition, few nodes, and what it is."""
  import onnx

  facts = {"license": "a licence", "source": "somewhere"}
  job = make_job(small_model(), facts=facts)
  file = onnx.load_from_string(as_onnx.make(job))
  onnx.checker.check_model(file, full_check=True)
  (image,), (labels,) = file.graph.input, file.graph.output
  assert (image.name, labels.name) == ("image", "labels")
  sides = [s.dim_param or s.dim_value for s in image.type.tensor_type.shape.dim]
  assert sides == ["batch", "height", "width", 3]
  assert len(labels.type.tensor_type.shape.dim) == 3
  assert file.opset_import[0].version >= 17
  counts = collections.Counter(node.op_type for node in file.graph.node)
  convolutions = counts["Conv"]
  assert all(len(n.input) == 3 for n in file.graph.node if n.op_type == "Conv")
  kernels = jax.tree.leaves(job.variables["params"])
  assert convolutions == sum(kernel.ndim == 4 for kernel in kernels)
  assert counts["Transpose"] == 1
  # The rest: activations, ten shortcuts, the head, sizes, the labels.
  assert sum(counts.values()) < 2.5 * convolutions
  found = {entry.key: entry.value for entry in file.metadata_props}
  assert json.loads(found["class_names"]) == ["class 0", "class 1", "class 2"]
  assert len(json.loads(found["colors"])) == 3
  assert (found["license"], found["source"]) == ("a licence", "somewhere")
  assert found["output_stride"] == "16"
  assert found["weights_sha256"] == job.weights_sha256


def test_equal_networks_make_equal_files():
  job = make_job(tiny_model())
  assert as_onnx.make(job) == as_onnx.make(job)


class _Doubled(ConvNorm):
  """Derived from a layer, and something else."""

  @nn.compact
  def __call__(self, x, use_batch_stats, shortcut=None):
    return 2 * super().__call__(x, use_batch_stats, shortcut) + 1


class _DoublingHead(ASPP):
  """Has a layer that only resembles a `ConvNorm`."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    y = _Doubled(8, _NORM, kernel_size=3, name="doubled")(x, use_batch_stats)
    return ConvNorm(self.features, _NORM, name="plain")(y, use_batch_stats)


class _Activations(ASPP):
  """Layers with the activations that others use."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    functions = (nn.gelu, nn.silu, nn.elu, nn.softplus, nn.leaky_relu, jnp.tanh)
    branches = [
      ConvNorm(8, _NORM, activation=function, name=f"branch{i}")(x, False)
      for i, function in enumerate(functions)
    ]
    x = jnp.concatenate([*branches, x[..., 2:5] ** 2, x[..., ::-2]], -1)
    return layers.Conv(self.features, name="mix")(x)


_UNDERSTOOD = (
  _DoublingHead,
  _Activations,
  heads_of_others.Coordinates,
  heads_of_others.FixedGrid,
  heads_of_others.FlaxLayers,
  heads_of_others.PreActivation,
  heads_of_others.SpatialActivation,
  heads_of_others.StripPooling,
)


def _job_with_head(monkeypatch, head, **options):
  from tests.random_variables import abstract_variables

  monkeypatch.setattr("deeplab_jax.models.deeplab.ASPP", head)
  abstract_variables.cache_clear()
  certificate._network.cache_clear()
  model = tiny_model()
  job = make_job(model, **options)
  abstract_variables.cache_clear()
  return job


@pytest.mark.parametrize("head", _UNDERSTOOD, ids=lambda head: head.__name__)
def test_layers_of_others_are_taken_for_what_they_do(monkeypatch, head):
  sizes = [(50, 70)]
  fixed = {"sizes": tuple(sizes)} if head in _OF_ONE_SIZE else {}
  job = _job_with_head(monkeypatch, head, **fixed)
  exported.assert_equals_definition(job, open_onnx(job), *sizes)
  certificate._network.cache_clear()


# Their layers ask for the size of a map, as a number.
_OF_ONE_SIZE = {heads_of_others.Coordinates}


@pytest.mark.parametrize(
  "head",
  [heads_of_others.RateBySize, heads_of_others.OtherwiseWhenLarge],
  ids=lambda head: head.__name__,
)
def test_what_depends_on_the_size_is_refused_without_one(monkeypatch, head):
  job = _job_with_head(monkeypatch, head)
  with pytest.raises(
    ValueError, match=r"depends on the size .*: give --size HxW"
  ):
    as_onnx.make(job)
  job = _job_with_head(monkeypatch, head, sizes=((50, 70),))
  exported.assert_equals_definition(job, open_onnx(job), (50, 70))
  certificate._network.cache_clear()


class _Sorting(ASPP):
  """Uses an operation that is not translated."""

  @nn.compact
  def __call__(self, x, use_batch_stats, train):
    x = ConvNorm(self.features, _NORM, name="conv")(x, use_batch_stats)
    return jnp.sort(x, axis=-1)


def test_an_unknown_primitive_is_named_with_the_nearest_format(monkeypatch):
  job = _job_with_head(monkeypatch, _Sorting)
  with pytest.raises(ValueError, match=r"the primitive sort; .*stablehlo"):
    as_onnx.make(job)
  certificate._network.cache_clear()


def test_tidying_changes_no_result(monkeypatch):
  """The graph as it is translated, without rules, computes the same."""
  job = make_job(tiny_model(decoder=("conv2",)))
  few = len(onnx_file.graph_of(*_parts(job)).nodes)
  monkeypatch.setattr("deeplab_jax.export.onnx_tidy._RULES", ())
  assert len(onnx_file.graph_of(*_parts(job)).nodes) > 1.3 * few
  exported.assert_equals_definition(job, open_onnx(job), (40, 70))


def _parts(job):
  return job.model, job.variables, job.protocol, (job.output,)
