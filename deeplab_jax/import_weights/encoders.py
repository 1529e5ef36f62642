"""State dicts of PyTorch's encoders under the names of our variables.

An encoder that came to us from timm or Hugging Face has no official TensorFlow
names: its layers are called as our modules are, below the name of the backbone,
with the official words for kernels, biases and factors. How state dicts spell
them is told by a `Family`, one for each module of `models/`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.import_weights.averages import SUFFIX, raw_name

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

_NORM_LEAVES = {
  "weight": "gamma",
  "bias": "beta",
  "running_mean": "moving_mean",
  "running_var": "moving_variance",
}
_OVERLOOKED = "num_batches_tracked"


class Family(NamedTuple):
  """Encoders of one kind, and what state dicts call their parts.

  Attributes:
    title: what messages call it.
    telltale: pattern of a name that only its state dicts have.
    rules: patterns of torch's modules, or of the whole name where a parameter
      is in no module of its own; and our module, a function of the match, or
      None for what no network of ours has a use for. The first that fits holds.
    find: from our names and shapes to a key of `BACKBONES`; ValueError with
      what was found if there is none.
    alter: from all arrays by torch's names to those that the rules are for.
    usual: from all arrays by torch's names to arguments of `DeepLab` with which
      it computes what the source of the state dict does.
  """

  title: str
  telltale: str
  rules: tuple[tuple[str, str | Callable[[re.Match], str] | None], ...]
  find: Callable[[Shapes], str]
  alter: Callable[[Arrays], Arrays] = dict
  usual: Callable[[Arrays], dict[str, Any]] = lambda state: {}


def recognise(
  names: Iterable[str], families: Iterable[Family]
) -> Family | None:
  """The family that one of torch's `names` tells, or None."""
  names = list(map(raw_name, names))
  for family in families:
    if any(re.fullmatch(family.telltale, name) for name in names):
      return family
  return None


def translate(state: Mapping[str, Any], family: Family) -> Arrays:
  """Renames and transposes the arrays of a state dict.

  Args:
    state: by torch's names, moving averages under
      `<name>/ExponentialMovingAverage`.
    family: what `recognise` gave.

  Returns:
    By our names below that of the backbone, kernels (height, width, in, out)
    or, if depthwise, (height, width, channels, 1).

  Raises:
    ValueError: gives names that the family does not have; or says of which
      network the state dict is, if not of one that we have.
  """
  state = family.alter({n: np.asarray(array) for n, array in state.items()})
  names = set(map(raw_name, state))
  arrays, unknown = {}, []
  for name, array in state.items():
    raw = raw_name(name)
    module, _, leaf = raw.rpartition(".")
    layer = _layer(raw, module, family)
    if layer is not None and leaf != _OVERLOOKED:
      norm = f"{module}.running_mean" in names
      ours, array = _convert(layer, leaf, array, norm)
      arrays[ours + SUFFIX * name.endswith(SUFFIX)] = array
      unknown += [name] * (not layer)
  if unknown:
    raise unexpected(family.title, unknown)
  backbone = family.find({raw_name(n): a.shape for n, a in arrays.items()})
  return {f"{backbone}/{name}": array for name, array in arrays.items()}


def unexpected(title: str, names: list[str]) -> ValueError:
  """For a state dict that looks like what `title` says, but for some names."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ValueError(
    f"the state dict looks like {title}, but has unexpected names: "
    f"{', '.join(names[:3])}{more}"
  )


def find(shapes: Shapes, family: Family) -> str:
  """The backbone whose arrays, by torch's names, have these shapes.

  Raises:
    ValueError: as `translate`.
  """
  blank = np.zeros((), np.float32)
  arrays = {n: np.broadcast_to(blank, shape) for n, shape in shapes.items()}
  return next(iter(translate(arrays, family))).split("/")[0]


def _layer(name, module, family) -> str | None:
  """Our module; None to pass the name over, "" if it is not known."""
  for pattern, replacement in family.rules:
    for text in (module, name):
      if match := re.fullmatch(pattern, text):
        if replacement is None or isinstance(replacement, str):
          return replacement
        return replacement(match)
  return ""


def _convert(layer, leaf, array, norm):
  """The name below the backbone's, and the array in the official layout."""
  if norm:
    return f"{layer}/BatchNorm/{_NORM_LEAVES[leaf]}", array
  if array.ndim == 3:  # tokens, in no module of their own
    return layer, array
  if array.ndim == 4:
    if layer.endswith("depthwise"):
      return f"{layer}/depthwise_weights", array.transpose(2, 3, 0, 1)
    return f"{layer}/weights", array.transpose(2, 3, 1, 0)
  if array.ndim == 2:
    return f"{layer}/weights", array.T[None, None]
  return f"{layer}/{'biases' if leaf == 'bias' else 'gamma'}", array
