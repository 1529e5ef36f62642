"""Fields that follow what is at hand: a stored model, the images."""

import os

import numpy as np
from ml_collections import ConfigDict

from deeplab_jax.checkpoints import read_model
from deeplab_jax.data import preprocess
from deeplab_jax.models import Classifier, model_arguments
from deeplab_jax.models.arguments import TRAINING_ARGUMENTS

LARGEST_CROP = 513
"""Side of a training crop, in pixels, where large images decide on it."""


def follow_model(config: ConfigDict, path: str | os.PathLike) -> None:
  """Makes `config` start from a stored model, and describe the same network.

  A classifier gives its backbone alone: `init_parts` tells.

  Args:
    config: altered in place: `init_from`, `init_parts`, `model`.
    path: a workdir, a step in it, or an imported model directory.

  Raises:
    ValueError: there is no model.
  """
  model = read_model(path)
  config.init_from = os.fspath(path)
  is_classifier = isinstance(model, Classifier)
  config.init_parts = "backbone" if is_classifier else "all"
  for name in model_arguments(model):
    if name in config.model and name not in TRAINING_ARGUMENTS:
      config.model[name] = getattr(model, name)


def with_crop(
  config: ConfigDict, largest: tuple[int, int] | None
) -> ConfigDict:
  """`config` with a training crop of its own, if it leaves that to the images.

  Args:
    config: with (0, 0) as `data.crop_size`, or another, which stays.
    largest: height and width that no image of the training split exceeds; None
      where nothing is known of them, which then are taken for large.

  Returns:
    `config`, or a copy whose crop holds such an image, up to `LARGEST_CROP`.
  """
  if not follows_images(config):
    return config
  config = config.copy_and_resolve_references()
  stride, data = config.model.output_stride, config.data
  sides = largest or (LARGEST_CROP, LARGEST_CROP)
  if largest and data.resize_min:
    limits = data.resize_min, data.resize_max, data.resize_factor
    sides = preprocess.range_size(largest, *limits)
  beyond = int(config.model.pad_input)  # a pixel
  steps = -(-(np.minimum(sides, LARGEST_CROP) - beyond) // stride)
  most = (LARGEST_CROP - 1) // stride
  crop = np.clip(steps, 1, most) * stride + beyond
  data.crop_size = tuple(map(int, crop))
  return config


def with_largest_crop(config: ConfigDict) -> ConfigDict:
  """`config` with the largest crop of its run throughout.

  Args:
    config: with a crop of its own, see `with_crop`.
  """
  late = tuple(config.data.late_crop_size)
  largest = tuple(map(max, config.data.crop_size, late))
  if largest == tuple(config.data.crop_size):
    return config
  config = config.copy_and_resolve_references()
  config.data.crop_size = largest
  return config


def follows_images(config: ConfigDict) -> bool:
  """Whether the images are to decide on the training crop."""
  return tuple(config.data.crop_size) == (0, 0)
