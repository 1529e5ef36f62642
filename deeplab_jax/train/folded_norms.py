"""Batch norm that was folded into its convolution, made trainable again.

Weights from an inference format hold `kernel * gamma / sigma` and a bias; an
importer gives them a batch norm that does nothing but add the bias. Trained
with batch statistics, that would suddenly normalise every feature to unit
variance and ruin the network. Here such layers receive the statistics of real
images, and the scale and bias that undo them: the function stays the same.
"""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from deeplab_jax.models import DeepLab
from deeplab_jax.models.layers import BatchNorm

Tree = Any
Path = tuple[str, ...]


def folded_layers(variables: Tree) -> list[Path]:
  """Paths of the batch norms that an importer put in place of a bias.

  They have scale 1, mean 0 and variance 1 - epsilon; fresh ones variance 1.
  """
  scales = flax.traverse_util.flatten_dict(variables["params"])
  return [
    path
    for path, stats in _norms(variables.get("batch_stats", {})).items()
    if not stats["mean"].any()
    and (stats["var"] < 1).all()
    and (scales[*path, "scale"] == 1).all()
  ]


def _norms(batch_stats: Tree) -> dict[Path, dict[str, jax.Array]]:
  flat = flax.traverse_util.flatten_dict(batch_stats)
  return {
    path[:-1]: {
      "mean": flat[*path[:-1], "mean"],
      "var": flat[*path[:-1], "var"],
    }
    for path in flat
    if path[-1] == "mean"
  }


def with_statistics(
  model: DeepLab, variables: Tree, layers: list[Path], images: jax.Array
) -> Tree:
  """Variables of the same function, with natural statistics in `layers`.

  Args:
    model: the network of `variables`.
    variables: {"params", "batch_stats"}.
    layers: as `folded_layers` finds them.
    images: (b, h, w, 3) as `preprocess` gives them, typical ones.

  Returns:
    `variables` with new mean, var, scale and bias in `layers`.
  """
  _, captured = model.apply(
    variables,
    images,
    capture_intermediates=lambda module, _: isinstance(module, BatchNorm),
    mutable=["intermediates"],
  )
  outputs = flax.traverse_util.flatten_dict(captured["intermediates"])
  params = flax.traverse_util.flatten_dict(variables["params"])
  stats = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
  for layer in layers:
    (output,) = outputs[*layer, "__call__"]  # convolution + bias
    output = output.astype(jnp.float32)
    mean, var = output.mean((0, 1, 2)), output.var((0, 1, 2))
    epsilon = 1 - stats[*layer, "var"]
    stats[*layer, "mean"] = mean - params[*layer, "bias"]
    stats[*layer, "var"] = var
    params[*layer, "scale"] = jnp.sqrt(var + epsilon)
    params[*layer, "bias"] = mean
  return {
    "params": flax.traverse_util.unflatten_dict(params),
    "batch_stats": flax.traverse_util.unflatten_dict(stats),
  }
