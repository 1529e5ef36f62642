"""Flax variables into torch modules of the same names."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.torch_networks import ConvNorm


def load(network: nn.Module, variables: Any) -> nn.Module:
  """Copies `variables`, NumPy arrays, into `network` and returns it.

  Raises:
    ValueError: leaves were left over, so the networks differ.
  """
  copied = 0
  with torch.no_grad():
    for name, module in network.named_modules():
      if isinstance(module, ConvNorm) or name == "logits":
        copied += _copy(module, *_at(variables, name.split(".")))
  leaves = sum(_count(variables[name]) for name in ("params", "batch_stats"))
  if copied != leaves:
    raise ValueError(f"copied {copied} of {leaves} leaves into torch's network")
  return network


def _at(variables, path):
  """Parameters and statistics of the module at `path`."""
  trees = [variables["params"], variables["batch_stats"]]
  for name in path:
    trees = [tree.get(name, {}) for tree in trees]
  return trees


def _copy(module, params, stats) -> int:
  """Returns how many leaves were copied."""
  conv = getattr(module, "conv", module)
  pairs = [
    (conv.weight, params[name].transpose(3, 2, 0, 1))
    for name in ("kernel", "depthwise_kernel")
    if name in params
  ]
  if "bias" in params:
    pairs.append((conv.bias, params["bias"]))
  if "norm" in params:
    norm, values = module.norm, params["norm"] | stats["norm"]
    pairs += [
      (norm.weight, values["scale"]),
      (norm.bias, values["bias"]),
      (norm.running_mean, values["mean"]),
      (norm.running_var, values["var"]),
    ]
  for target, array in pairs:
    target.copy_(torch.from_numpy(np.ascontiguousarray(array)))
  return len(pairs)


def _count(tree) -> int:
  return sum(map(_count, tree.values())) if isinstance(tree, dict) else 1
