"""Biases that make up for kernels of 8 bits, layer by layer."""

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest

from deeplab_jax.export import calibration, program, rounding
from deeplab_jax.inference.folding import fold
from deeplab_jax.models import preprocess
from deeplab_jax.models.ops.whole import replaced
from tests import exported
from tests.tiny_segmenter import tiny_model

pytestmark = pytest.mark.usefixtures("tiny_backbone")
_SIZE = (65, 81)
_LITE = {"head": "lraspp", "decoder": ("conv3",)}
_FLAT = flax.traverse_util.flatten_dict


def _slow(*arguments):
  return pytest.param(*arguments, marks=pytest.mark.slow, id=arguments[0])


def test_a_kernel_has_255_steps_a_channel():
  random = np.random.default_rng(0)
  kernel = random.normal(size=(3, 3, 4, 5)).astype(np.float32)
  kernel[..., 2] = 0
  found = np.asarray(rounding.rounded(kernel))
  largest = np.abs(kernel).max((0, 1, 2))
  np.testing.assert_allclose(np.abs(found).max((0, 1, 2)), largest, rtol=1e-6)
  assert (np.abs(found - kernel) <= largest / 254 * (1 + 1e-5)).all()
  steps = found[..., [0, 1, 3, 4]] / largest[[0, 1, 3, 4]] * 127
  np.testing.assert_allclose(steps, steps.round(), atol=1e-4)


def _job(model, **options):
  images = tuple(exported.pictures(*_SIZE, count=2))
  pictures = calibration.Pictures(images, (None, None))
  options = {"sizes": (_SIZE,), "precision": "int8"} | options
  return exported.make_job(model, pictures=pictures, **options)


def _means(job, folded, biases):
  """By layer with a bias, of its results before its activation: the means (c,)
  as it is, with its kernel rounded, and with its bias of `biases`, too."""
  run = program.program_fn(job.model, job.protocol, (job.output,))

  @jax.jit
  def means(folded, biases, images):
    found = {}

    def note(next_method, args, kwargs, context):
      module = context.module
      if isinstance(module, rounding._LAYERS) and module.path:
        for collection, own in module.variables.items():
          place = (collection, *module.path)
          if (*place, "bias") in _FLAT(folded):
            less = {
              k: v if k == "bias" else rounding.rounded(v)
              for k, v in own.items()
            }
            mended = less | {"bias": _FLAT(biases)[*place, "bias"]}
            layer = module.clone(parent=None)
            if hasattr(layer, "activation"):
              layer = layer.clone(activation=None)
            found.setdefault(place, []).append(
              [
                layer.apply({collection: arrays}, *args[:2]).mean((0, 1, 2))
                for arrays in (own, less, mended)
              ]
            )
      return next_method(*args, **kwargs)

    with nn.intercept_methods(note), replaced(rounding._IN_TURN):
      run(folded, images)
    return found

  each = [means(folded, biases, image[None]) for image in job.pictures.images]
  return {k: np.mean([v for run in each for v in run[k]], 0) for k in each[0]}


@pytest.mark.parametrize(
  ("backbone", "settings"),
  [
    ("tiny", {"decoder": ("conv2",), "atrous_rates": (2, 4)}),
    _slow("convnext_atto", {}),
    _slow("mobilenet_v2", {"width_multiplier": 0.25}),
    _slow("mobilenet_v3_small_seg", _LITE),
    _slow("tf_efficientnetv2_b0", {}),
    _slow("vit_small_patch16_dinov3", {}),
  ],
)
def test_layers_keep_their_means(backbone, settings):
  model = tiny_model(backbone=backbone, **settings)
  job = _job(model, flip=True)
  folded = fold(job.model, job.variables)
  corrected = rounding.correct_biases(job, folded)
  old, new = _FLAT(folded), _FLAT(corrected)
  found = _means(job, folded, corrected)
  assert old.keys() == new.keys()
  changed = {k[:-1] for k, v in old.items() if not np.array_equal(v, new[k])}
  assert changed and changed <= found.keys()
  for place, (whole, _, mended) in found.items():
    limit = 1e-5 * np.abs(whole).max()
    np.testing.assert_allclose(mended, whole, atol=limit, err_msg=str(place))
  shifts = [np.abs(r - w).max() / np.abs(w).max() for w, r, _ in found.values()]
  assert np.median(shifts) > 1e-4  # there was something to correct


def test_large_weights_that_cancel_survive():
  """A kernel that subtracts neighbours, before pictures that hardly vary."""
  model = tiny_model()
  images = tuple(exported.pictures(*_SIZE, count=4) // 128 + 200)
  pictures = calibration.Pictures(images, (None,) * 4)
  job = exported.make_job(model, sizes=(_SIZE,), pictures=pictures)
  folded = _FLAT(fold(job.model, job.variables))
  path = next(path for path in folded if path[-2:] == ("conv1", "kernel"))
  large = np.random.default_rng(0).uniform(-40, 40, folded[path].shape)
  folded[path] += (large - large.mean((0, 1, 2))).astype(np.float32)
  folded = flax.traverse_util.unflatten_dict(folded)
  corrected = rounding.correct_biases(job, folded)
  logits = jax.jit(model.apply)

  def error(variables):
    less = jax.tree.map(
      lambda x: rounding.rounded(x) if x.ndim == 4 else x, variables
    )
    views = [preprocess(image[None], model.backbone) for image in images]
    return np.mean(
      [np.abs(logits(less, x) - logits(folded, x)).mean() for x in views]
    )

  assert error(corrected) < 0.5 * error(folded)
