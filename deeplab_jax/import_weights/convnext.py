"""ConvNeXt in the state dicts of timm, Hugging Face and its authors.

Of Hugging Face both `DINOv3ConvNextModel` and `ConvNextModel` are read; the
authors' names are those of DINOv3's own files, too.
"""

import re

from deeplab_jax.import_weights.encoders import Arrays, Family, Shapes
from deeplab_jax.models.convnext import VARIANTS

_LAYERS = {
  "conv_dw": "depthwise",
  "norm": "layer_norm",
  "mlp.fc1": "expand",
  "mlp.fc2": "project",
  "gamma": "layer_scale",
  "dwconv": "depthwise",
  "pwconv1": "expand",
  "pwconv2": "project",
  "depthwise_conv": "depthwise",
  "layer_norm": "layer_norm",
  "pointwise_conv1": "expand",
  "pointwise_conv2": "project",
  "layernorm": "layer_norm",
  "layer_scale_parameter": "layer_scale",
}
_STAGE = r"(?:model\.|convnext(?:v2)?\.)?(?:encoder\.)?stages\.(\d)"
_BLOCK = rf"{_STAGE}(?:\.blocks|\.layers)?\.(\d+)"
_NAME = "|".join(map(re.escape, _LAYERS))


def _block(match: re.Match) -> str:
  return f"stage{match[1]}_block{match[2]}/{_LAYERS[match[3]]}"


def _patches(match: re.Match) -> str:
  """Of the stem, and of the patches before a stage."""
  stage, place = match[1], int(match[2])
  if stage == "0":
    return ("stem", "stem_norm")[place]
  return f"stage{stage}_{('norm', 'patches')[place]}"


def _refuse_others(state: Arrays) -> Arrays:
  """Raises ValueError for a ConvNeXt V2, and one of other norms."""
  if second := next((name for name in state if ".grn." in name), None):
    raise ValueError(
      "the state dict is of a ConvNeXt V2, with global response normalisation "
      f"({second}); known are those of the first, {', '.join(VARIANTS)}"
    )
  if "stem.1.weight" in state and "stem.1.bias" not in state:
    raise ValueError(
      "the state dict is of a ConvNeXt with RMS norms (stem.1 has no bias); "
      f"known are those with layer norms, {', '.join(VARIANTS)}"
    )
  return state


def _find(shapes: Shapes) -> str:
  names = {name.split("/")[0] for name in shapes}
  depths = tuple(
    sum(name.startswith(f"stage{i}_block") for name in names) for i in range(4)
  )
  features = tuple(
    shapes.get(f"stage{i}_block0/layer_norm/gamma", (0,))[0] for i in range(4)
  )
  for name, variant in VARIANTS.items():
    if (depths, features) == variant:
      return name
  raise ValueError(
    f"the state dict is of a ConvNeXt of {depths} blocks with {features}"
    f" channels; known are {', '.join(VARIANTS)}"
  )


FAMILY = Family(
  "ConvNeXt",
  rf"{_BLOCK}\.(?:conv_dw|dwconv|depthwise_conv)\.weight",
  (
    (rf"{_BLOCK}\.({_NAME})", _block),
    (r"stem\.0", "stem"),
    (r"stem\.1", "stem_norm"),
    (r"downsample_layers\.(\d)\.(\d)", _patches),
    (
      rf"{_STAGE}\.(?:downsample(?:_layers)?|downsampling_layer)\.(\d)",
      _patches,
    ),
    (r"(?:convnext\.)?embeddings\.patch_embeddings", "stem"),
    (r"(?:convnext\.)?embeddings\.layernorm", "stem_norm"),
    (r"(?:head\.|convnext\.)?(?:norm|layer_?norm)", "pooled_norm"),
    (r"head\.fc|head|classifier", "logits"),
    # Of features at every stage: DINOv3's, Hugging Face's of backbones.
    (r"norms\.\d|hidden_states_norms\.\w+", None),
  ),
  _find,
  _refuse_others,
)
