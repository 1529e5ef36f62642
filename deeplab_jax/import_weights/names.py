"""Names of the official TensorFlow variables for our parameters.

Follows the scopes of tensorflow/models, research/deeplab: the backbone's own
(`xception_65/entry_flow/...`), the head at the root (`aspp0`, `decoder/...`),
an ImageNet classifier's last layers in the backbone's scope.
"""

import re

from deeplab_jax.models.backbones import find_backbone
from deeplab_jax.models.mobilenet import MobileNetV2
from deeplab_jax.models.mobilenet_v3 import MobileNetV3
from deeplab_jax.models.resnet import ResNet
from deeplab_jax.models.xception import Xception

_LEAVES = {
  "kernel": "weights",
  "depthwise_kernel": "depthwise_weights",
  "norm/scale": "BatchNorm/gamma",
  "norm/bias": "BatchNorm/beta",
  "norm/mean": "BatchNorm/moving_mean",
  "norm/var": "BatchNorm/moving_variance",
  "bias": "biases",
  "scale": "gamma",  # of layer norm, and of residual branches
  "class_token": "class_token",
  "registers": "registers",
  "positions": "positions",
}
VARIABLES = {name.rsplit("/", 1)[-1] for name in _LEAVES.values()}
"""Last parts of the names of all variables in slim's graphs."""
_SEPARABLE = (r"/(depthwise|pointwise)$", r"_\1")
# Patterns and replacements, applied in order to the module path of a leaf in a
# backbone or in the last layers of its classifier. A backbone that is not here
# has no official weights: its variables are called as its modules are.
_MOBILENET = (
  (r"^stem$", r"Conv"),
  (r"^conv_1$", r"Conv_1"),
  (r"^block_0", r"expanded_conv"),
  (r"^block_(\d+)", r"expanded_conv_\1"),
  (r"/squeeze$", r"/Conv"),
  (r"/excite$", r"/Conv_1"),
  (r"^logits$", r"Logits/Conv2d_1c_1x1"),
)
_BACKBONES = {
  Xception: (
    (r"^(\w+_flow)_(block\d)_(unit_\d+)", r"\1/\2/\3/xception_module"),
    (r"^entry_flow_conv", r"entry_flow/conv"),
    _SEPARABLE,
  ),
  ResNet: ((r"^(block\d)_(unit_\d+)", r"\1/\2/bottleneck_v1"),),
  MobileNetV2: _MOBILENET,
  MobileNetV3: _MOBILENET,
}
_HEAD = (
  (r"^logits$", r"logits/semantic"),
  # Plain decoder convolutions sit in one scope, counted from 1.
  (r"^decoder/decoder_conv(\d)$", lambda m: _plain_decoder(m[1], "")),
  (r"^decoder_(\d+)/decoder_conv(\d)$", lambda m: _plain_decoder(m[2], m[1])),
  (r"^decoder_(\d+)/(\w+)", r"decoder/\2_\1"),
  (r"^lraspp/(decoder_conv|feature_projection)", r"decoder/\1"),
  (r"^(aspp|lraspp)/", r""),
  (r"^dpc/", r"meta_architecture/"),
  _SEPARABLE,
)


def backbone_scope(backbone: str) -> str:
  """The scope that holds the variables of a backbone.

  torch's variants of a network have scopes of their own: their weights fit the
  official network in shape only.
  """
  return find_backbone(backbone).scope or backbone


def official_name(
  path: tuple[str, ...], backbone: str, *, classifier: bool = False
) -> str:
  """The official variable of one leaf.

  Args:
    path: of the leaf below `params` or `batch_stats`, such as
      `("aspp", "aspp1", "depthwise", "norm", "scale")`.
    backbone: the model's.
    classifier: whether the model is a `Classifier`, not a `DeepLab`.

  Returns:
    Such as `"aspp1_depthwise/BatchNorm/gamma"`.
  """
  joined = "/".join(path)
  leaf = next(leaf for leaf in _LEAVES if f"/{joined}".endswith(f"/{leaf}"))
  module = joined.removesuffix(leaf).rstrip("/")
  if path[0] == "backbone" or classifier:
    scope = _in_backbone(module.removeprefix("backbone/"), backbone)
  else:
    scope = _rewrite(module, _HEAD)
  return f"{scope}/{_LEAVES[leaf]}"


def _in_backbone(module, backbone):
  rules = _BACKBONES.get(find_backbone(backbone).module, ())
  return f"{backbone_scope(backbone)}/{_rewrite(module, rules)}"


def _rewrite(module, rules):
  for pattern, replacement in rules:
    module = re.sub(pattern, replacement, module)
  return module


def _plain_decoder(index, stage):
  group = f"decoder_conv0_{stage}" if stage else "decoder_conv0"
  return f"decoder/{group}/{group}_{int(index) + 1}"
