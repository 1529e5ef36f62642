"""Published weights into our parameter tree.

`read` gives the arrays of a file under their official names, `from_tensorflow`
the variables of a model from them, `from_torch` those from a state dict. The
command is
`python -m deeplab_jax.import_weights SOURCE --model BACKBONE --out DIR`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_jax.import_weights.fit import (
  Parts,
  Report,
  fit,
  official_shapes,
)
from deeplab_jax.import_weights.pytorch import told_backbone
from deeplab_jax.import_weights.sources import read
from deeplab_jax.import_weights.torch_deeplabs import (
  flatten,
  recognise,
  to_official,
)
from deeplab_jax.models import Classifier, DeepLab, model_arguments
from deeplab_jax.models.backbones import find_backbone

__all__ = [
  "Report",
  "fit",
  "from_tensorflow",
  "from_torch",
  "official_shapes",
  "read",
  "torch_deeplab",
]


def from_tensorflow(
  arrays: Mapping[str, np.ndarray],
  model: DeepLab | Classifier,
  *,
  parts: Parts = "all",
  reinitialize_logits: bool = False,
  moving_averages: bool = False,
  seed: int = 0,
) -> dict:
  """The variables of `model` from official arrays.

  Args:
    arrays: by official variable name, kernels in TensorFlow's layout (height,
      width, in, out), depthwise ones (height, width, channels, 1). Steps and
      optimizer slots are passed over.
    model: the network the arrays belong to.
    parts: `"backbone"` draws the head anew and passes over the arrays of any
      other head: for a DeepLab from an ImageNet classifier.
    reinitialize_logits: whether to draw the logits layer anew, whatever the
      arrays hold: for other classes.
    moving_averages: whether to take `<variable>/ExponentialMovingAverage` where
      both it and the variable are there. Where only one is, that is taken.
    seed: of what is drawn.

  Returns:
    `{"params", "batch_stats"}`, float32.

  Raises:
    ValueError: one error that lists every missing, unexpected and wrongly
      shaped name; or `moving_averages` is given and there are none.
  """
  variables, _ = fit(
    arrays,
    model,
    parts=parts,
    reinitialize_logits=reinitialize_logits,
    moving_averages=moving_averages,
    seed=seed,
  )
  return variables


def from_torch(
  state: Mapping[str, Any], model: DeepLab | Classifier, **options: Any
) -> dict:
  """The variables of `model` from a state dict of torch.

  Args:
    state: tensors or arrays of a whole DeepLab (see `torch_deeplab`), of a
      classifier (ResNet-50 or -101 or MobileNetV2 of torchvision or timm, for
      the backbones whose names end in `_torch`, MobileNetV2 of transformers,
      for `mobilenet_v2`, or timm's Xception), or of an
      encoder with timm's or Hugging Face's names (docs/encoders.md); or what a
      training script saved, with a state dict in it (see `states.flatten`).
    model: the network. That of a whole DeepLab computes what torch's does; of a
      classifier, a DeepLab takes `parts="backbone"`.
    **options: as for `from_tensorflow`.

  Returns:
    `{"params", "batch_stats"}`, float32.

  Raises:
    ValueError: the state dict is of no such network, or not of the model's.
  """
  network = recognise(flatten(state))
  if network is None or options.get("parts") == "backbone":
    arrays = to_official(state)
    told = told_backbone(arrays, state)
    if isinstance(model, Classifier):
      _refuse_last_convolution(arrays, model)
    if told not in ("", model.backbone):
      raise ValueError(
        f"backbone is {model.backbone!r} in the model, but the state dict is "
        f"of {told!r}"
      )
    return from_tensorflow(arrays, model, **options)
  if different := network.differences(model_arguments(model)):
    raise ValueError(
      f"the state dict is a {network}, the model another network: "
      f"{'; '.join(different)}; see import_weights.torch_deeplab"
    )
  network.check_depth(official_shapes(model))
  return from_tensorflow(to_official(state), model, **options)


def _refuse_last_convolution(arrays, model):
  """Raises ValueError for a convolution that our classifier does not have."""
  scope = f"{model.backbone}/conv_1/"
  has_one = find_backbone(model.backbone).classifier_features
  if not has_one and any(name.startswith(scope) for name in arrays):
    raise ValueError(
      "the state dict's classifier has a convolution before its last layer "
      f"(conv_head), Classifier with backbone {model.backbone!r} none: take "
      "the features alone, by a DeepLab and parts='backbone'"
    )


def torch_deeplab(state: Mapping[str, Any], **given: Any) -> DeepLab:
  """The network that computes what the torch network of a state dict does.

  Args:
    state: of DeepLabV3 or LRASPP of torchvision, DeepLabV3Plus or DeepLabV3 of
      segmentation_models_pytorch, MobileNetV2ForSemanticSegmentation of
      transformers, or a network of the repositories VainF/DeepLabV3Plus-Pytorch
      or jfzhang95/pytorch-deeplab-xception.
    **given: arguments of `DeepLab` that differ from the usual: the weights do
      not tell `output_stride` and `atrous_rates` (at output stride 16).

  Returns:
    The network, for `from_torch`.

  Raises:
    ValueError: the state dict is of no such network, or contradicts `given`.
  """
  network = recognise(flatten(state))
  if network is None:
    raise ValueError(
      "the state dict is no DeepLab but a classifier, if anything: give "
      "from_torch a model, and parts='backbone'"
    )
  if different := network.differences(given):
    raise ValueError(
      f"the state dict is a {network}, with other arguments than are given: "
      f"{'; '.join(different)}"
    )
  return DeepLab(**{**network.usual(given), **network.arguments, **given})
