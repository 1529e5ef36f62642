"""DeepLabv3+ networks, built from plain arguments alone."""

from deeplab_jax.models.auxiliary import without_auxiliary
from deeplab_jax.models.backbones import (
  BACKBONES,
  normalisation,
  padding_value,
  preprocess,
)
from deeplab_jax.models.classifier import Classifier
from deeplab_jax.models.deeplab import (
  INFERENCE_DTYPES,
  DeepLab,
  for_inference,
  model_arguments,
  model_from_dict,
  model_to_dict,
)
from deeplab_jax.models.ops.resize import resize_bilinear, resized_argmax

__all__ = [
  "BACKBONES",
  "INFERENCE_DTYPES",
  "Classifier",
  "DeepLab",
  "for_inference",
  "model_arguments",
  "model_from_dict",
  "model_to_dict",
  "normalisation",
  "padding_value",
  "preprocess",
  "resize_bilinear",
  "resized_argmax",
  "without_auxiliary",
]
