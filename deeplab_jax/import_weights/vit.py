"""DINOv2 and DINOv3 in state dicts of timm, Hugging Face and the authors.

Of Hugging Face `Dinov2Model`, `Dinov2WithRegistersModel` and `DINOv3ViTModel`,
with today's names of their modules and those of the files on the Hub.
"""

import re
from typing import Any

import numpy as np

from deeplab_jax.import_weights.averages import SUFFIX
from deeplab_jax.import_weights.encoders import Arrays, Family, Shapes
from deeplab_jax.models.positions import periods
from deeplab_jax.models.vit import HEAD_FEATURES, VARIANTS

# Before the names of the encoder alone, in networks that have one.
_BEFORE = re.compile(
  r"^(?:(?:dinov2|dinov2_with_registers|dinov3_vit|backbone|encoder|model)\.)+"
)
_LAYERS = {
  "norm1": "attention_norm",
  "attn.query": "attention/query",
  "attn.key": "attention/key",
  "attn.value": "attention/value",
  "attn.proj": "attention/output",
  "attention.attention.query": "attention/query",
  "attention.attention.key": "attention/key",
  "attention.attention.value": "attention/value",
  "attention.output.dense": "attention/output",
  "attention.q_proj": "attention/query",
  "attention.k_proj": "attention/key",
  "attention.v_proj": "attention/value",
  "attention.o_proj": "attention/output",
  "ls1": "attention_scale",
  "gamma_1": "attention_scale",
  "layer_scale1": "attention_scale",
  "norm2": "layer_norm",
  "mlp.fc1": "expand",
  "mlp.fc2": "project",
  "mlp.up_proj": "expand",
  "mlp.down_proj": "project",
  "ls2": "layer_scale",
  "gamma_2": "layer_scale",
  "layer_scale2": "layer_scale",
}
_NAME = "|".join(map(re.escape, _LAYERS))
# The authors' networks may keep their blocks in chunks.
_BLOCK = r"(?:blocks|layer)\.(?:\d+\.)?(\d+)"
_GATED = re.compile(
  rf"{_BLOCK}\.mlp\.(?:w\d+|fc1_[gx]|gate_proj|weights_in)\..+"
)
_POSITIONS = ("pos_embed", "embeddings.position_embeddings")
_CLASS_TOKENS = ("cls_token", "embeddings.cls_token")
_PERIODS = "rope_embed.periods"
_QKV = re.compile(rf"({_BLOCK}\.attn)\.qkv\.(weight|bias)")
_BIASED = re.compile(
  rf"({_BLOCK}\.att\w+\.(?:attention\.)?(?:query|value|[qv]_proj))\.weight"
)
_LEARNED = max(variant.grid**2 for variant in VARIANTS.values())


def _plain(state: Arrays) -> Arrays:
  return {_BEFORE.sub("", name): array for name, array in state.items()}


def _alter(state: Arrays) -> Arrays:
  """Queries, keys and values apart; the class token with its position."""
  state = _plain(state)
  if gated := next(filter(_GATED.fullmatch, state), None):
    raise ValueError(
      f"the state dict is of a vision transformer with gated layers ({gated}), "
      f"as the larger ones have; known are {', '.join(VARIANTS)}"
    )
  for suffix in ("", SUFFIX):
    state = _with_class_position(state, suffix)
  has_positions = any(name in state for name in _POSITIONS)
  return _apart(state, key_bias=has_positions)


def _with_class_position(state, suffix):
  """What is added to the class token for its place is added now."""
  found = next((n for n in _POSITIONS if n + suffix in state), None)
  if found is None:
    return state
  places = state[found + suffix]
  count = places.shape[1]
  if count not in (_LEARNED, _LEARNED + 1):
    raise ValueError(
      f"{found} must have {_LEARNED} positions, a grid of 37 x 37, with or "
      f"without the class token's, got {count}: give the weights as published, "
      "for images of 518 pixels"
    )
  if count == _LEARNED:
    return state
  token = next((n for n in _CLASS_TOKENS if n + suffix in state), None)
  state = state | {found + suffix: places[:, 1:]}
  if token is not None:
    state[token + suffix] = state[token + suffix] + places[:, :1]
  return state


def _apart(state, key_bias):
  parts, ready = ("query", "key", "value"), {}
  for name, array in state.items():
    raw = name.removesuffix(SUFFIX)
    suffix = name[len(raw) :]
    if match := _QKV.fullmatch(raw):
      module, leaf = match[1], match[3]
      mask = state.get(f"{raw}_mask{suffix}", state.get(f"{raw}_mask"))
      array = array if mask is None else np.where(mask == 0, 0, array)
      for part, piece in zip(parts, np.split(array, 3)):
        ready[f"{module}.{part}.{leaf}{suffix}"] = piece
      if leaf == "bias" and not key_bias:
        _drop_key_bias(ready, f"{module}.key.bias{suffix}", name)
    elif match := re.fullmatch(r"(.+\.attn)\.([qv])_bias", raw):
      part = {"q": "query", "v": "value"}[match[2]]
      ready[f"{match[1]}.{part}.bias{suffix}"] = array
    elif not raw.endswith("qkv.bias_mask"):
      ready[name] = array
  return ready if key_bias else _with_zero_biases(ready)


def _drop_key_bias(state, name, source):
  if np.any(state.pop(name)):
    raise ValueError(
      f"{source} must be 0 for keys, which have no bias in DINOv3; got another "
      "network's"
    )


def _with_zero_biases(state):
  """timm leaves biases of queries and values out, which are 0 in DINOv3's."""
  added = {}
  for name, array in state.items():
    match = _BIASED.fullmatch(name)
    if match and f"{match[1]}.bias" not in state:
      added[f"{match[1]}.bias"] = np.zeros_like(array[:, 0])
  return state | added


def _find(shapes: Shapes) -> str:
  patch, _, _, features = shapes.get("embed/patches/weights", (0, 0, 0, 0))
  found = (
    features,
    patch,
    shapes.get("embed/registers", (0, 0))[1],
    int(shapes.get("embed/positions", (0, 0))[1] ** 0.5),
    len({n.split("/")[0] for n in shapes if n.startswith("block")}),
  )
  for name, variant in VARIANTS.items():
    if variant == found:
      return name
  raise ValueError(
    "the state dict is of a vision transformer of {4} blocks with {0} channels,"
    " patches of {1} pixels, {2} registers and {3}; known are {5}".format(
      *found[:3],
      f"{found[3] ** 2} learned positions"
      if found[3]
      else "no learned position",
      found[4],
      ", ".join(VARIANTS),
    )
  )


def _usual(state: Arrays) -> dict[str, Any]:
  """Whose code the names are of, and so the rule of positions."""
  state = _plain(state)
  if _PERIODS in state:
    return {"positions_of": _rule_of_periods(np.asarray(state[_PERIODS]))}
  if any(name.startswith("embeddings.") for name in state):
    return {"positions_of": "transformers"}
  is_of_authors = "mask_token" in state and "pos_embed" in state
  return {"positions_of": "authors" if is_of_authors else "timm"}


def _rule_of_periods(found: np.ndarray) -> str:
  for rule in ("authors", "timm"):
    if np.allclose(
      found.astype(np.float32), periods(HEAD_FEATURES, rule), 1e-5
    ):
      return rule
  raise ValueError(
    f"{_PERIODS} must be 100 ** (i / 16), as DINOv3's are, maybe rounded to "
    f"bfloat16; got {', '.join(f'{n:g}' for n in found.ravel()[:4])}, ..."
  )


FAMILY = Family(
  "DINOv2 or DINOv3",
  rf".*{_BLOCK}\.(?:ls1\.gamma|gamma_1|layer_scale1\.lambda1)",
  (
    (
      rf"{_BLOCK}\.({_NAME})",
      lambda match: f"block{match[1]}/{_LAYERS[match[2]]}",
    ),
    (r"patch_embed\.proj", "embed/patches"),
    (r"embeddings\.patch_embeddings(?:\.projection)?", "embed/patches"),
    (r"(?:embeddings\.)?cls_token", "embed/class_token"),
    (
      r"reg_token|storage_tokens|(?:embeddings\.)?register_tokens",
      "embed/registers",
    ),
    (r"pos_embed|embeddings\.position_embeddings", "embed/positions"),
    (r"norm|layernorm|fc_norm", "last_norm"),
    (r"(?:embeddings\.)?mask_token|head|classifier", None),
    (re.escape(_PERIODS), None),
    (r"cls_norm|local_cls_norm", None),  # of larger ones, for other tokens
  ),
  _find,
  _alter,
  _usual,
)
