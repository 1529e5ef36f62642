"""State dicts in what training scripts save around them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from deeplab_jax.import_weights.averages import SUFFIX, raw_name

# Under which training scripts save a state dict, and its moving averages (timm,
# torchvision's references, BasicSR).
_STATES = ("state_dict", "model", "model_state", "model_state_dict")
_STATES += ("net", "network", "params", "weights")
_AVERAGES = ("state_dict_ema", "model_ema", "model_state_dict_ema")
_AVERAGES += ("ema", "ema_model", "ema_state_dict", "params_ema")
# Before all names, of what wraps a network; and within them.
_WRAPPERS = ("module.", "model.", "net.", "network.")
_WITHIN = re.compile(
  r"_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\."
)


def flatten(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The state dict in what a training script saved, by the network's names.

  Args:
    content: tensors or arrays by name; or these among other things, below a
      name such as `"state_dict"` or `"model"`, or below the one name of
      whatever else has nothing but arrays, moving averages below a name such as
      `"state_dict_ema"` or `"ema"`.

  Returns:
    Its arrays by name, without what wrappers put before all of them, such as
    the `module.` of DataParallel and AveragedModel, the `_orig_mod.` of
    torch.compile and what FSDP has within them; moving averages under
    `<name>/ExponentialMovingAverage`. Numbers of 16 bits are in float32.

  Raises:
    ValueError: there are several that might be meant; or none.
  """
  states, averages = (
    [key for key in keys if _has_arrays(content.get(key))]
    for keys in (_STATES, _AVERAGES)
  )
  if max(len(states), len(averages)) > 1:
    several = states if len(states) > 1 else averages
    raise ValueError(
      "expected one state dict, got those below "
      f"{' and '.join(several)}; save the one that is meant"
    )
  found = states + averages or _only_state(content)
  if not found:
    return _without_wrappers(content)
  state = {}
  for key in found:
    part = flatten(content[key])
    state |= _as_averages(part) if key in _AVERAGES else part
  return state


def _has_arrays(content: Any) -> bool:
  """Whether there are arrays in a mapping, or in one that is in it."""
  if not isinstance(content, Mapping):
    return False
  return any(_is_array(x) or _has_arrays(x) for x in content.values())


def _only_state(content: Mapping[str, Any]) -> list[str]:
  """The one key of a state dict; none if the content is one itself."""
  if any(map(_is_array, content.values())):
    return []
  found = [
    key
    for key, part in content.items()
    if isinstance(part, Mapping) and part and all(map(_is_array, part.values()))
  ]
  if content and len(found) != 1:
    raise ValueError(
      f"expected a state dict, or one below {', '.join(_STATES)} or a name of "
      f"its own; got {', '.join(map(str, content))}, of which "
      f"{' and '.join(found) or 'none'} hold arrays alone"
    )
  return found


def _is_array(value: Any) -> bool:
  """Whether it is an array or tensor, not a number of NumPy's."""
  return hasattr(value, "detach") or isinstance(value, np.ndarray | jax.Array)


def _without_wrappers(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
  plain = {
    _WITHIN.sub("", n): _as_array(value)
    for n, value in state.items()
    if _is_array(value)
  }
  # What torch.optim.swa_utils.AveragedModel holds beside its network.
  averaged = plain.pop("n_averaged", None) is not None
  for wrapper in _WRAPPERS * 2:
    if plain and all(name.startswith(wrapper) for name in plain):
      plain = {n.removeprefix(wrapper): value for n, value in plain.items()}
  return _as_averages(plain) if averaged else plain


def _as_array(value: Any) -> np.ndarray:
  if hasattr(value, "detach"):
    if value.is_quantized:
      raise ValueError(
        "the state dict holds quantised weights; give the network's own, from "
        "before it was quantised"
      )
    value = value.detach().cpu()
    # NumPy has no bfloat16.
    value = (value.float() if value.is_floating_point() else value).numpy()
  array = np.asarray(value)
  is_half = array.dtype.name in ("float16", "bfloat16")
  return array.astype(np.float32) if is_half else array


def _as_averages(state: Mapping[str, Any]) -> dict[str, Any]:
  return {f"{raw_name(name)}{SUFFIX}": value for name, value in state.items()}
