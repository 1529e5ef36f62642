"""The first kernels of a stored network, for images of other channels.

A network that was trained on red, green and blue has learnt edges and colours
that serve other channels, too, once its first kernels are given to these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_INPUTS = 2  # the axis of a kernel (h, w, inputs, outputs)


def adapt(
  source: Mapping[str, jax.Array],
  target: Mapping[str, Any],
  channels: Sequence[int] = (),
) -> tuple[dict[str, jax.Array], tuple[str, ...]]:
  """`source` with first kernels that fit those of `target`.

  A channel of the data has the kernel of the stored channel that `channels`
  names, as it is; or, for -1, the mean over all m stored channels times m / n,
  n being the channels of the data, so that the sum over channels stays about
  what the layers behind have been trained on.

  Args:
    source: stored variables by name.
    target: those of the network that is to start, or their shapes.
    channels: stored channel for each of the data's, -1 for the mean; () is the
      mean for each, if their numbers differ.

  Returns:
    The variables, and lines that say what became of the kernel.

  Raises:
    ValueError: `channels` do not fit the network or the data.
  """
  name = _first_kernel(source, target)
  if name is None:
    return dict(source), ()
  kernel = source[name]
  stored, wanted = kernel.shape[_INPUTS], target[name].shape[_INPUTS]
  if not channels and stored == wanted:
    return dict(source), ()
  chosen = list(channels or [-1] * wanted)
  if len(chosen) != wanted or not set(chosen) <= set(range(-1, stored)):
    raise ValueError(
      f"config.init_channels must be () or {wanted} numbers, one for each "
      f"channel of the data, from -1 (the mean) to {stored - 1}, got "
      f"{tuple(channels)}"
    )
  mean = kernel.mean(_INPUTS, keepdims=True) * (stored / wanted)
  parts = [
    mean if i < 0 else kernel[:, :, i : i + 1].astype(mean.dtype)
    for i in chosen
  ]
  of_mean = f"the mean of its {stored}, times {stored}/{wanted}"
  said = ", ".join(
    f"{place} from {of_mean if i < 0 else f'its {i}'}"
    for place, i in enumerate(chosen)
  )
  if set(chosen) == {-1}:
    said = f"each from {of_mean}"
  note = f"{name.partition('/')[2]}: {wanted} channels of the data, {said}"
  return {**source, name: jnp.concatenate(parts, _INPUTS)}, (note,)


def _first_kernel(
  source: Mapping[str, Any], target: Mapping[str, Any]
) -> str | None:
  """The kernel that reads the images; None if the two have none in common.

  It is the one of a backbone with the fewest inputs, or the only one whose
  inputs differ.
  """
  kernels = [
    name
    for name, array in target.items()
    if name.startswith("params/backbone/")
    and name.endswith("/kernel")
    and len(array.shape) == 4
    and name in source
    and len(source[name].shape) == 4
    and _without_inputs(source[name]) == _without_inputs(array)
  ]
  differing = [
    name for name in kernels if source[name].shape != target[name].shape
  ]
  if len(differing) == 1:
    return differing[0]
  if differing or not kernels:
    return None
  return min(kernels, key=lambda name: source[name].shape[_INPUTS])


def _without_inputs(array: Any) -> tuple[int, ...]:
  return (*array.shape[:_INPUTS], *array.shape[_INPUTS + 1 :])
