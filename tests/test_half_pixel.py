"""A network that takes pictures as they are and aligns edges, at every door.

Who resizes the logits of a network to a picture does it as the network does:
`Segmenter`, evaluation, the files of `export`, and the loss of training. All
are held against a resize written plainly, on the network's own logits.
"""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import config as config_lib
from deeplab_jax import evaluate, inference, optimizer, sharding
from deeplab_jax.data.source import open_dataset
from deeplab_jax.export import certificate
from deeplab_jax.models import preprocess, resize_bilinear, resized_argmax
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.state import TrainState
from deeplab_jax.train.step import make_train_step
from tests import exported
from tests.tiny_segmenter import (
  COLORS,
  NAMES,
  make_variables,
  random_image,
  tiny_model,
)
from tests.torch_deeplabs import resize

pytestmark = pytest.mark.usefixtures("tiny_backbone")
SIZE = (38, 51)  # neither a multiple of the stride nor one more


@functools.cache
def _network():
  """A model, its variables and the probabilities of a picture."""
  model = tiny_model(half_pixel=True, pad_input=False, output_stride=8)
  variables = exported.with_large_logits(model, make_variables(model))
  images = preprocess(random_image(*SIZE)[None], model.backbone)
  logits = jax.jit(model.apply)(variables, images)
  assert logits.shape[1:3] == tuple(-(-side // 8) for side in SIZE)
  return model, variables, _resized(logits, SIZE)


def _resized(logits, size):
  """The reference: torch's `align_corners=False`."""
  channels_first = np.transpose(logits, (0, 3, 1, 2))
  return np.transpose(resize(channels_first, size, False), (0, 2, 3, 1))[0]


def _by_segmenter(tmp_path):
  model, variables, _ = _network()
  segmenter = inference.Segmenter(
    model, variables, class_names=NAMES, colors=COLORS
  )
  segmenter(random_image(65, 97))  # after which pictures may share a canvas
  return segmenter(random_image(*SIZE))


def _by_evaluation(tmp_path):
  model, variables, _ = _network()
  for kind in ("images", "masks"):
    (tmp_path / kind).mkdir()
  for i, size in enumerate((SIZE, (65, 97), SIZE)):
    image = random_image(*size)
    Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    mask = image[..., 0] % len(NAMES)
    Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
  (tmp_path / "classes.txt").write_text("\n".join(NAMES))
  for split in ("train", "val"):
    (tmp_path / f"{split}.txt").write_text("0\n1\n2\n")
  config = config_lib.base_config()
  config.data.update(name="folder", path=str(tmp_path))
  config.data.data_dir = f"{tmp_path}_built"
  config.eval.update(batch_size=2, pictures=3)
  dataset = open_dataset(config.data)
  found = evaluate.evaluate(model, variables, config, dataset=dataset)
  first = next(x for x in found.examples if x.image.shape[:2] == SIZE)
  return first.predictions


def _by_file(open_file, tmp_path):
  model, variables, _ = _network()
  job = exported.make_job(model, variables)
  return open_file(job).run(random_image(*SIZE)[None])[0]


def _by_onnx(tmp_path):
  exported.onnx_packages()
  return _by_file(exported.open_onnx, tmp_path)


def _by_tflite(tmp_path):
  exported.tflite_packages()
  from deeplab_jax.export import as_tflite

  model, variables, _ = _network()
  job = exported.make_job(model, variables, sizes=(SIZE,))
  opened = as_tflite.open_file(as_tflite.make(job), job)
  return opened.run(random_image(*SIZE)[None])[0]


def _by_certificate(tmp_path):
  """What files are held against."""
  model, variables, _ = _network()
  job = exported.make_job(model, variables)
  return certificate.definition(job, random_image(*SIZE)).argmax(-1)


DOORS = {
  "Segmenter": _by_segmenter,
  "evaluation": _by_evaluation,
  "ONNX": _by_onnx,
  "StableHLO": functools.partial(_by_file, exported.open_stablehlo),
  "TFLite": _by_tflite,
  "certificate": _by_certificate,
}


@pytest.mark.parametrize("door", DOORS)
def test_labels_are_those_of_logits_resized_by_edges(door, tmp_path):
  *_, wanted = _network()
  labels = DOORS[door](tmp_path)
  top = np.sort(wanted, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-3
  assert labels.shape == SIZE and clear.mean() > 0.9
  assert (labels == wanted.argmax(-1))[clear].all()
  # Corners aligned, some of these labels would be others.
  model, variables, _ = _network()
  images = preprocess(random_image(*SIZE)[None], model.backbone)
  other = resize_bilinear(jax.jit(model.apply)(variables, images), SIZE)[0]
  assert (other.argmax(-1) != labels)[clear].any()


def test_loss_is_that_of_logits_resized_by_edges():
  model, variables, wanted = _network()
  config = config_lib.base_config()
  config.update(train_batch_norm=False, weight_decay=0.0)
  mesh, rule = sharding.make_mesh(), optimizer.make_optimizer(config)
  model = model.clone(dropout_rate=0.0)
  step = make_train_step(model, make_loss(config), rule, config, mesh)
  # A step donates its state, and others need the variables.
  params, stats = (
    jax.tree.map(np.array, variables[kind])
    for kind in ("params", "batch_stats")
  )
  state = TrainState(np.int32(0), params, stats, rule.init(params))
  state = jax.device_put(state, sharding.replicated(mesh))
  count = jax.device_count()
  batch = {
    "image": np.stack([random_image(*SIZE)] * count),
    "label": np.ones((count, *SIZE), np.uint8),
  }
  model_loss = jax.nn.logsumexp(wanted, axis=-1) - wanted[..., 1]
  _, metrics = step(state, sharding.global_batch(batch, mesh))
  np.testing.assert_allclose(metrics["loss"], model_loss.mean(), rtol=1e-5)


@pytest.mark.parametrize("old, new", [((3, 7), (11, 5)), ((4, 1), (4, 9))])
def test_resize_by_edges_and_its_gradient(old, new):
  random = np.random.default_rng(0)
  x = random.standard_normal((2, *old, 3)).astype(np.float32)
  channels_first = np.transpose(x, (0, 3, 1, 2))
  wanted = np.transpose(resize(channels_first, new, False), (0, 2, 3, 1))
  found = resize_bilinear(x, new, half_pixel=True)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
  labels = resized_argmax(x, new, half_pixel=True)
  np.testing.assert_array_equal(labels, found.argmax(-1))
  weights = random.standard_normal(found.shape).astype(np.float32)

  def total(x):
    return (resize_bilinear(x, new, half_pixel=True) * weights).sum()

  def plain_total(x):
    resized = resize(x.transpose(0, 3, 1, 2), new, False)
    return (resized.transpose(0, 2, 3, 1) * weights).sum()

  np.testing.assert_allclose(
    jax.grad(total)(x), jax.grad(plain_total)(jax.numpy.asarray(x)), atol=1e-5
  )


def test_scaled_views_are_certified():
  """Several scales and mirror images, in ONNX Runtime and in `Segmenter`."""
  exported.onnx_packages()
  model, variables, _ = _network()
  job = exported.make_job(model, variables, scales=(0.75, 1.25), flip=True)
  facts = certificate.measure(job, exported.open_onnx(job))
  assert facts["passed"] and facts["worst_probability_difference"] < 1e-4
