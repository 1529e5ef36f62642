"""StableHLO files: one program for all sizes and platforms, for jax alone."""

import importlib.util
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from deeplab_jax import export
from deeplab_jax.export import as_onnx, as_stablehlo, certificate
from deeplab_jax.models import DeepLab
from tests import exported, heads_of_others
from tests.exported import make_job, open_stablehlo
from tests.tiny_segmenter import tiny_model

pytestmark = pytest.mark.usefixtures("tiny_backbone")
_ALONE = """
import sys
from deeplab_jax import export
import numpy as np
found = export.load(sys.argv[1])
labels = np.asarray(found(np.zeros((2, 30, 41, 3), np.uint8)))
print(labels.shape, labels.dtype, found.class_names, found.output)
others = {"flax", "orbax", "optax", "cv2", "tensorflow", "onnx"}
others &= {name.partition(".")[0] for name in sys.modules}
ours = {n for n in sys.modules if n.startswith("deeplab_jax.")}
print(sorted(others), sorted(ours))
"""


@pytest.mark.parametrize(
  "arguments",
  [
    {"atrous_rates": (6,), "decoder": ("conv2",)},
    pytest.param({"head": "dpc", "output_stride": 8}, marks=pytest.mark.slow),
    {"head": "lraspp", "decoder": ("conv3",), "output_stride": 8},
    pytest.param(
      {"half_pixel": True, "pad_input": False, "decoder": ("conv2",)},
      marks=pytest.mark.slow,
    ),
  ],
  ids=["aspp", "dpc", "lraspp", "as torch's"],
)
def test_any_size_and_batch(arguments):
  job = make_job(tiny_model(**arguments))
  opened = open_stablehlo(job)
  exported.assert_equals_definition(job, opened, (7, 11))
  exported.assert_equals_definition(job, opened, (65, 300), count=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_50", "xception_71", "mobilenet_v2"])
def test_backbones(shallow_backbones, name):
  job = make_job(DeepLab(3, name, atrous_rates=(), decoder=()))
  exported.assert_equals_definition(job, open_stablehlo(job), (37, 50))


@pytest.mark.slow
def test_scales_and_mirror_images():
  model = tiny_model()
  variables = exported.with_large_logits(model, make_job(model).variables)
  job = make_job(model, variables, scales=(0.75, 1), flip=True)
  facts = certificate.measure(job, open_stablehlo(job))
  assert facts["passed"] and facts["worst_probability_difference"] < 1e-5


def test_sizes_that_are_asked_for():
  job = make_job(tiny_model(), sizes=((33, 47), (20, 20)))
  opened = open_stablehlo(job)
  exported.assert_equals_definition(job, opened, *job.sizes)
  with pytest.raises(ValueError, match=r"must be of 33x47, 20x20 .* got 33x48"):
    opened.run(exported.pictures(33, 48))


def test_what_depends_on_the_size_is_refused_without_one(monkeypatch):
  from tests.random_variables import abstract_variables

  monkeypatch.setattr(
    "deeplab_jax.models.deeplab.ASPP", heads_of_others.RateBySize
  )
  abstract_variables.cache_clear()
  job = make_job(tiny_model())
  abstract_variables.cache_clear()
  with pytest.raises(ValueError, match=r"depends on the size .*--size HxW"):
    as_stablehlo.make(job)


def test_one_program_for_all_platforms():
  content = as_stablehlo.make(make_job(tiny_model()))
  (program,) = export.Exported(content)._programs.values()
  assert program.platforms == ("cpu", "cuda", "tpu")
  text = program.mlir_module()
  # No call of a library of one platform or version.
  calls = {line.split("@")[1].split("(")[0] for line in _calls(text)}
  assert calls <= {"shape_assertion"}


def _calls(text):
  return [
    line for line in text.splitlines() if "stablehlo.custom_call @" in line
  ]


def test_continuous_integration_has_what_tests_skip_without():
  if not os.environ.get("DEEPLAB_REQUIRE_SHARED"):
    pytest.skip("this is not .ci/run")
  packages = (*as_onnx.PACKAGES, "tensorflow", "ai_edge_litert")
  packages += ("rasterio", "moto", "gcp_storage_emulator")
  assert all(map(importlib.util.find_spec, packages))


def test_equal_networks_make_equal_files():
  job = make_job(tiny_model())
  first = as_stablehlo.make(job)
  second = as_stablehlo.make(job)  # from another line
  assert first == second
  assert b".py" not in first.replace(b".npy", b"")


@pytest.fixture(scope="module")
def content(tiny_backbone) -> bytes:
  """The file of a small network."""
  return as_stablehlo.make(make_job(tiny_model()))


def test_loading_needs_jax_alone(content, tmp_path):
  (tmp_path / "net").write_bytes(content)
  done = subprocess.run(
    [sys.executable, "-c", _ALONE, str(tmp_path / "net")],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  first, second = done.stdout.splitlines()
  assert first.startswith("(2, 30, 41) uint8 ('class 0', 'class 1', 'class 2')")
  assert second == "[] ['deeplab_jax.export', 'deeplab_jax.export.loading']"


def test_wrong_files_and_images_are_told(content, tmp_path):
  path = tmp_path / "net"
  path.write_bytes(b"nothing")
  with pytest.raises(ValueError, match="net: no exported network, or damaged"):
    export.load(path)
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match="net: no exported network, or damaged"):
    export.load(path)
  path.write_bytes(content)
  found = export.load(path)
  for images in (
    np.zeros((8, 8, 3), np.uint8),
    np.zeros((1, 8, 8, 3), np.float32),
    np.zeros((1, 0, 8, 3), np.uint8),
  ):
    with pytest.raises(ValueError, match="images must be uint8 RGB"):
      found(images)


def test_it_can_be_part_of_a_program(content):
  found = export.Exported(content)
  images = exported.pictures(20, 30)
  inside = jax.jit(lambda images: found(images).astype(int).sum())
  assert int(inside(images)) == int(np.asarray(found(images), int).sum())
