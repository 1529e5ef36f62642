"""Names of the official TensorFlow variables for our parameters.

Follows the scopes of tensorflow/models, research/deeplab: the backbone's own
(`xception_65/entry_flow/...`), the head at the root (`aspp0`, `decoder/...`).
"""

import re

_LEAVES = {
  "kernel": "weights",
  "depthwise_kernel": "depthwise_weights",
  "norm/scale": "BatchNorm/gamma",
  "norm/bias": "BatchNorm/beta",
  "norm/mean": "BatchNorm/moving_mean",
  "norm/var": "BatchNorm/moving_variance",
  "bias": "biases",
}
# Applied in order to the module path of a leaf.
_XCEPTION = (
  (r"^backbone/(\w+_flow)_(block\d)_(unit_\d+)", r"\1/\2/\3/xception_module"),
  (r"^backbone/entry_flow_", r"entry_flow/"),
)
_RESNET = (
  (r"^backbone/(block\d)_(unit_\d+)", r"\1/\2/bottleneck_v1"),
  (r"^backbone/", r""),
)
_MOBILENET = (
  (r"^backbone/stem", r"Conv"),
  (r"^backbone/block_0", r"expanded_conv"),
  (r"^backbone/block_(\d+)", r"expanded_conv_\1"),
)
_HEAD = (
  (r"^aspp/", r""),
  (r"^logits$", r"logits/semantic"),
  (r"^decoder_(\d+)/(\w+)", r"decoder/\2_\1"),
)


def backbone_scope(backbone: str) -> str:
  """The scope that holds the variables of a backbone."""
  if backbone.startswith("mobilenet_v2"):
    return "MobilenetV2"
  if backbone.startswith("resnet"):
    return re.sub(r"resnet_(\d+).*", r"resnet_v1_\1", backbone)
  return backbone


def official_name(path: tuple[str, ...], backbone: str) -> str:
  """The official variable of one leaf.

  Args:
    path: of the leaf below `params` or `batch_stats`, such as
      `("aspp", "aspp1", "depthwise", "norm", "scale")`.
    backbone: the model's.

  Returns:
    Such as `"aspp1_depthwise/BatchNorm/gamma"`.
  """
  joined = "/".join(path)
  leaf = next(leaf for leaf in _LEAVES if f"/{joined}".endswith(f"/{leaf}"))
  module = joined.removesuffix(leaf).rstrip("/")
  if path[0] == "backbone":
    family = backbone.split("_")[0]
    rules = {"xception": _XCEPTION, "resnet": _RESNET, "mobilenet": _MOBILENET}
    scope = f"{backbone_scope(backbone)}/{_rewrite(module, rules[family])}"
  else:
    scope = _plain_decoder(_rewrite(module, _HEAD))
  if "depthwise" in path or "pointwise" in path:
    scope = re.sub(r"(conv\d|conv\d_\d|aspp\d)/(\w+wise)$", r"\1_\2", scope)
  return f"{scope}/{_LEAVES[leaf]}"


def _rewrite(module, rules):
  for pattern, replacement in rules:
    module = re.sub(pattern, replacement, module)
  return module


def _plain_decoder(scope):
  """Plain decoder convolutions sit in one scope, counted from 1."""
  match = re.fullmatch(r"decoder/decoder_conv(\d)(_\d+)?", scope)
  if not match:
    return scope
  group = f"decoder_conv0{match[2] or ''}"
  return f"decoder/{group}/{group}_{int(match[1]) + 1}"
