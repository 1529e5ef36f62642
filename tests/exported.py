"""Networks as they are exported, for tests: jobs, runtimes, the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab_jax.export import as_onnx, as_stablehlo, certificate
from deeplab_jax.export.job import Job, Opened
from deeplab_jax.inference.protocol import Protocol
from deeplab_jax.models import preprocess
from tests.tiny_segmenter import make_variables, random_image


def onnx_packages() -> None:
  """Skips the tests of a file without ONNX and its runtime, loudly."""
  for name in as_onnx.PACKAGES:
    reason = f"SKIPPED FOR LACK OF {name}: pip install 'deeplab_jax[export]'"
    pytest.importorskip(name, reason=reason)


def tflite_packages() -> None:
  """The same without TensorFlow's converter and LiteRT."""
  for module, name in (
    ("tensorflow", "tensorflow"),
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
  ):
    reason = f"SKIPPED FOR LACK OF {name}: pip install 'deeplab_jax[export]'"
    pytest.importorskip(module, reason=reason)


def make_job(model, variables=None, facts=None, **options) -> Job:
  """A job for `model`; `options` are fields of `Job` or of `Protocol`."""
  if variables is None:
    variables = make_variables(model)
  names = ("scales", "flip", "least_crop", "max_pixels")
  protocol = Protocol(**{n: options.pop(n) for n in names if n in options})
  facts = {"evaluation": {"crop_size": protocol.least_crop}} | (facts or {})
  return Job(model, variables, facts, protocol, **options)


def with_large_logits(model, variables) -> dict:
  """`variables` with a last layer whose logits reach 10 on a coarse picture.

  A label is then as clear as of a trained network, and softmax makes of a
  thousandth of a logit what tests would see.
  """
  images = preprocess(random_image(65, 65)[None], model.backbone)
  largest = jnp.abs(jax.jit(model.apply)(variables, images)).max()

  def scale(layer):
    shape = getattr(layer.get("bias"), "shape", None)
    if shape == (model.num_classes,) and "scale" not in layer:
      return jax.tree.map(lambda x: x * 10 / largest, layer)
    return {k: scale(v) if isinstance(v, dict) else v for k, v in layer.items()}

  return variables | {"params": scale(variables["params"])}


def open_onnx(job: Job) -> Opened:
  """The ONNX file of a job in ONNX Runtime."""
  return as_onnx.open_file(as_onnx.make(job), job)


def open_stablehlo(job: Job) -> Opened:
  """The StableHLO file of a job in jax."""
  return as_stablehlo.open_file(as_stablehlo.make(job), job)


def pictures(height: int, width: int, count: int = 1) -> np.ndarray:
  """Coarse random ones, uint8 (count, height, width, 3)."""
  return np.stack([random_image(height, width, seed=i) for i in range(count)])


def assert_equals_definition(job: Job, opened: Opened, *sizes, count=2) -> None:
  """Logits within 1e-5 of the largest, and no clear label differs."""
  for size in sizes:
    images = pictures(*size, count)
    found, behind = opened.run(images), opened.behind(images)
    for i, image in enumerate(images):
      wanted = certificate.definition(job, image)
      largest = np.abs(wanted).max()
      assert behind[i].shape == wanted.shape
      assert np.abs(behind[i] - wanted).max() <= 1e-5 * largest
      top = np.sort(wanted, axis=-1)
      clear = top[..., -1] - top[..., -2] > 1e-4 * largest
      differs = found[i] != wanted.argmax(-1)
      assert not (differs & clear).any()
      assert clear.mean() > 0.9
