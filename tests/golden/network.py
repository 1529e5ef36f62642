"""Forward passes: logits, features in between, every end point, labels."""

import contextlib
import functools
import importlib.util
import json
import pathlib
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.import_weights import from_tensorflow, official_shapes
from deeplab_jax.import_weights.names import official_name
from deeplab_jax.inference import onednn
from deeplab_jax.inference.folding import fold, layers_in_onednn
from deeplab_jax.models import DeepLab, preprocess, resize_bilinear
from deeplab_jax.models.layers import ConvNorm

CASES = (
  "mobilenet_v2_dm05_os16",
  "mobilenet_v2_os16",
  "mobilenet_v2_os16_decoder",
  "mobilenet_v2_os16_even",
  "mobilenet_v2_os8",
  "resnet_v1_101_beta_os16",
  "resnet_v1_101_beta_os8_nodecoder",
  "resnet_v1_50_os16",
  "resnet_v1_50_os16_even",
  "xception_41_os16",
  "xception_65_os16",
  "xception_65_os16_even",
  "xception_65_os16_nodecoder",
  "xception_65_os16_plainconv",
  "xception_65_os32",
  "xception_65_os8",
)
ENDPOINT_CASES = (
  "mobilenet_v2_os16_decoder",
  "resnet_v1_101_beta_os16",
  "resnet_v1_50_os16",
  "xception_65_os16",
  "xception_65_os8",
)
# The module whose input or output a stored feature is.
_FEATURES = {
  "encoder": ("aspp/aspp0", "input"),
  "aspp_concat": ("aspp/concat_projection", "input"),
  "aspp_output": ("aspp/concat_projection", "output"),
  "low_level": ("decoder/feature_projection0", "input"),
  "decoder_concat": ("decoder/decoder_conv0", "input"),
  "decoder": ("logits", "input"),
}
# Layers that end, officially, before the shortcut and the activation.
_LINEAR = re.compile(
  r"/(conv3|project)$"
  r"|(?<!/exit_flow_block2_unit_1)/separable_conv\d/pointwise$"
)


class Case(NamedTuple):
  """A stored forward pass and the network it belongs to."""

  model: DeepLab
  variables: dict
  golden: dict[str, np.ndarray]


def make_weights(shared: pathlib.Path):
  """The module of the deterministic weights."""
  path = shared / "reference" / "make_weights.py"
  spec = importlib.util.spec_from_file_location("make_weights", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def our_backbone(variant: str) -> str:
  """Our name of an official model variant."""
  return variant.replace("resnet_v1_", "resnet_")


def model_of(config: dict, **changes) -> DeepLab:
  """The network that the `config` of a golden file describes."""
  stride, options = config["output_stride"], config.get("options", {})
  rates = config["atrous_rates"] or ()
  arguments = {
    "num_classes": config["num_classes"],
    "backbone": our_backbone(config["model_variant"]),
    "output_stride": stride,
    "atrous_rates": tuple(rate * stride // 16 for rate in rates),
    "decoder": ("conv2",) if config["decoder_output_stride"] else (),
    "width_multiplier": options.get("depth_multiplier", 1.0),
    "aspp_separable": options.get("aspp_with_separable_conv", True),
    "decoder_separable": options.get("decoder_use_separable_conv", True),
  }
  if "multi_grid" in options:
    arguments["multi_grid"] = tuple(options["multi_grid"])
  return DeepLab(**arguments | changes)


def official_variables(shared: pathlib.Path, model: DeepLab) -> dict:
  """The deterministic weights of `model`, in our tree."""
  names = list(official_shapes(model).items())
  return from_tensorflow(make_weights(shared).weights(names), model)


@functools.lru_cache(maxsize=1)
def load_case(shared: pathlib.Path, name: str) -> Case:
  """A case by the name of its file."""
  golden = dict(np.load(shared / "reference" / "golden" / f"{name}.npz"))
  model = model_of(json.loads(str(golden["config"])))
  return Case(model, official_variables(shared, model), golden)


def relative_error(ours, theirs) -> float:
  """Largest absolute difference over the largest absolute value."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  if ours.shape != theirs.shape:
    raise ValueError(f"shape {ours.shape} against {theirs.shape}")
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _batch(array):
  return array if array.ndim == 4 else array[None]


@functools.lru_cache(maxsize=1)
def recorded(shared, name):
  """Logits; input and output of every module by path; the ConvNorms."""
  case = load_case(shared, name)

  kinds = {}

  def forward(variables, images):
    calls = {}

    def record(call, args, kwargs, context):
      result = call(*args, **kwargs)
      if context.method_name == "__call__" and args:
        path = "/".join(context.module.path)
        output = result[0] if isinstance(result, tuple) else result
        calls[path] = {"input": args[0], "output": output}
        kinds[path] = type(context.module)
      return result

    images = preprocess(images, case.model.backbone)
    with nn.intercept_methods(record):
      logits = case.model.apply(variables, images)
    return logits, calls

  images = _batch(case.golden["image"])
  logits, calls = jax.jit(forward)(case.variables, images)
  plain = {path for path, kind in kinds.items() if kind is ConvNorm}
  return logits, jax.tree.map(np.asarray, calls), plain


def network_errors(shared: pathlib.Path, name: str) -> dict[str, float]:
  """Relative errors of the logits and of all stored features."""
  golden = load_case(shared, name).golden
  logits, calls, _ = recorded(shared, name)
  upsampled = resize_bilinear(logits, _batch(golden["image"]).shape[1:3])
  pairs = {
    "logits": (logits, golden["logits"]),
    "upsampled": (upsampled[:, ::8, ::8], golden["upsampled_every8"]),
  }
  for feature, (path, side) in _FEATURES.items():
    if feature in golden and path in calls:
      step = int(golden[f"{feature}_channel_stride"])
      pairs[feature] = (calls[path][side][..., ::step], golden[feature])
  return {
    key: relative_error(ours, _batch(theirs))
    for key, (ours, theirs) in pairs.items()
  }


def folded_error(
  shared: pathlib.Path,
  name: str,
  dtype: str = "float32",
  in_onednn: bool = True,
) -> float:
  """Relative error of the logits with batch norms folded, in `dtype`."""
  case = load_case(shared, name)
  model = case.model.clone(dtype=jnp.dtype(dtype))
  variables = fold(model, case.variables)
  images = preprocess(_batch(case.golden["image"]), model.backbone)

  def forward(variables, images):
    with layers_in_onednn() if in_onednn else contextlib.nullcontext():
      return model.apply(variables, images)

  program = onednn.compiled(jax.jit(forward).lower(variables, images))
  return relative_error(
    program(variables, images), _batch(case.golden["logits"])
  )


def label_errors(shared: pathlib.Path, name: str) -> dict[str, float]:
  """Share of labels that differ: of all, and where the margin is clear."""
  golden = load_case(shared, name).golden
  logits = recorded(shared, name)[0]
  labels = golden["prediction"].reshape(-1, *golden["prediction"].shape[-2:])
  upsampled = np.asarray(resize_bilinear(logits, labels.shape[1:3]))
  differs = upsampled.argmax(-1) != labels
  top = np.sort(upsampled, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-4 * np.abs(upsampled).max()
  return {
    "all": float(differs.mean()),
    "clear": float((differs & clear).mean()),
    "share clear": float(clear.mean()),
  }


def endpoint_errors(shared: pathlib.Path, name: str) -> dict[str, float]:
  """Errors of statistics and pixels of every layer, over its largest value."""
  path = shared / "reference" / "golden" / f"{name}_endpoints.json"
  endpoints = json.loads(path.read_text())
  backbone = load_case(shared, name).model.backbone
  _, calls, plain = recorded(shared, name)
  ours = {}
  for path in sorted(calls, key=_natural):
    source = f"{path}/norm" if _LINEAR.search(path) else path
    for official in _endpoint_names(path, path in plain, backbone):
      ours[official] = calls[source]["output"]
  return {e["name"]: _endpoint_error(ours[e["name"]][0], e) for e in endpoints}


def _natural(path):
  """Sorts unit_2 before unit_10."""
  return [
    int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)
  ]


def _endpoint_error(x, stored):
  if list(x.shape) != stored["shape"]:
    raise ValueError(f"{stored['name']}: {x.shape} against {stored['shape']}")
  h, w, _ = x.shape
  values = {
    "mean": x.mean(dtype=np.float64),
    "std": x.std(dtype=np.float64),
    "absmax": np.abs(x).max(),
    "centre": x[h // 2, w // 2, :8],
    "corner": x[0, 0, :4],
  }
  return max(
    float(np.abs(value - np.asarray(stored[key])).max()) / stored["absmax"]
    for key, value in values.items()
  )


def _endpoint_names(path, plain, backbone):
  """The official end points that a module's output is."""
  if not path or path == "backbone":
    return []
  if backbone == "mobilenet_v2" and path.startswith("backbone/"):
    return _mobilenet_names(path)
  if plain:
    name = official_name((*path.split("/"), "kernel"), backbone)
    return [name.removesuffix("/weights")]
  if not re.fullmatch(r"backbone/\w*block\d_unit_\d+", path):
    return []
  name = official_name((*path.split("/"), "kernel"), backbone)
  unit = name.removesuffix("/weights")
  # A block's output is its last unit's: later units overwrite the entry.
  return [unit, unit.split("/unit_")[0]]


def _mobilenet_names(path):
  parts = path.split("/")
  layer = 1 if parts[1] == "stem" else int(parts[1].split("_")[1]) + 2
  if len(parts) == 2:
    return [f"layer_{layer}", f"layer_{layer}/output"]
  inner = {"expand": "expansion", "depthwise": "depthwise"}.get(parts[2])
  return [f"layer_{layer}/{inner}_output"] if inner and len(parts) == 3 else []
