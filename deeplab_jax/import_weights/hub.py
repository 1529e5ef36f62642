"""What the config.json in a folder of the Hub tells beside the weights.

segmentation_models_pytorch and transformers note there what weights do not
tell, timm which of several networks it is whose weights have the same names
and shapes, as layers without weights make the difference: anti-aliasing in
`mobilenetv4_conv_aa_large`, padding in `efficientnetv2_s`.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from deeplab_jax.models.arguments import OUTPUT_STRIDES

Config = Mapping[str, Any]


def read_config(source: pathlib.Path) -> Config:
  """The content of `source`/config.json; {} if that is not there.

  Raises:
    ValueError: it is no JSON object; one line.
  """
  path = source / "config.json"
  if not (source.is_dir() and path.is_file()):
    return {}
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"cannot read {path}: {error}") from error
  if not isinstance(config, dict):
    raise ValueError(f"{path} must hold a JSON object; got {config!r:.40}")
  return config


def told_arguments(config: Config, usual_stride: int) -> dict[str, Any]:
  """Arguments of `DeepLab` among those of a network of torch.

  Args:
    config: what was read.
    usual_stride: of the network's output, where the config does not tell it.

  Raises:
    ValueError: there are none of its rates at this stride.
  """
  told = {}
  stride = config.get("encoder_output_stride", config.get("output_stride"))
  if stride in OUTPUT_STRIDES:
    told["output_stride"] = stride
  else:
    stride = usual_stride
  for name in ("decoder_aspp_dropout", "classifier_dropout_prob"):
    if isinstance(config.get(name), int | float):
      told["dropout_rate"] = config[name]
  if rates := config.get("decoder_atrous_rates"):
    if any(rate * stride % 16 for rate in rates):
      raise ValueError(
        "decoder_atrous_rates in config.json must be multiples of "
        f"{16 // stride} at output stride {stride}, as DeepLab has rates of "
        f"output stride 16, got {rates}"
      )
    told["atrous_rates"] = tuple(rate * stride // 16 for rate in rates)
  return told


def told_class_names(config: Config, num_classes: int) -> list[str] | None:
  """Names that transformers keeps in `id2label`, if they are of these classes.

  None where they are not as many, or not told apart, or were never given:
  `LABEL_0`, `LABEL_1`, ... stand for that.
  """
  found = config.get("id2label")
  if not isinstance(found, Mapping) or len(found) != num_classes:
    return None
  names = [found.get(str(i)) for i in range(num_classes)]
  are_names = all(isinstance(name, str) and name for name in names)
  is_given = names != [f"LABEL_{i}" for i in range(num_classes)]
  tells_apart = len(set(map(str, names))) == num_classes
  return names if are_names and is_given and tells_apart else None


def says_sigmoid(config: Config) -> bool:
  """Whether a network of segmentation_models_pytorch ends in sigmoids."""
  return config.get("activation") == "sigmoid"


def refuse_another(config: Config, backbone: str) -> None:
  """Raises ValueError if timm calls the network otherwise than `backbone`."""
  field = "architecture"
  if str(config.get("encoder_name")).startswith("tu-"):
    field = "encoder_name"
  name = config.get(field)
  if not isinstance(name, str):
    return
  # Without what tells one set of weights from another of the same network.
  plain = re.sub(r"^(tu-)?((tv|ssl|swsl)_)?|\..*", "", name)
  theirs = plain.replace("_", "")
  ours = backbone.removesuffix("_torch").replace("_", "")
  width = theirs.removeprefix(ours)
  if not theirs.startswith(ours) or not (width == "" or width.isdigit()):
    raise ValueError(
      f"{field} in config.json is {name!r}, which is not built here: "
      f"names and shapes of its weights are those of {backbone!r}, what it "
      "computes is another thing"
    )
