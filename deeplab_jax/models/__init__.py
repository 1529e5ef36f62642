"""DeepLabv3+ networks, built from plain arguments alone."""

from deeplab_jax.models.backbones import (
  BACKBONES,
  padding_value,
  preprocess,
)
from deeplab_jax.models.classifier import Classifier
from deeplab_jax.models.deeplab import (
  DeepLab,
  model_arguments,
  model_from_dict,
  model_to_dict,
)
from deeplab_jax.models.ops.resize import resize_bilinear, resized_argmax

__all__ = [
  "BACKBONES",
  "Classifier",
  "DeepLab",
  "model_arguments",
  "model_from_dict",
  "model_to_dict",
  "padding_value",
  "preprocess",
  "resize_bilinear",
  "resized_argmax",
]
