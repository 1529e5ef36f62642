"""Weights that stay as they are, for a while or for good."""

import fnmatch
from typing import Any

import jax
import ml_collections

from deeplab_jax.models.units import backbone_units

Tree = Any


def frozen(config: ml_collections.ConfigDict, params: Tree) -> Tree:
  """Which leaves `freeze` and `freeze_stride` mean: bool, as `params` is.

  Args:
    config: a pattern of `freeze` means the leaves whose name, such as
      "backbone/block_1/expand/kernel", it matches, or a part of that from its
      beginning up to a slash. `freeze_stride` means the units of the backbone
      whose features are of that stride or a finer one.
    params: nested dicts.
  """
  patterns = [*config.freeze, *_of_stride(config)]
  return jax.tree.map_with_path(
    lambda path, _: any(_matches(path, pattern) for pattern in patterns), params
  )


def check_freezing(
  config: ml_collections.ConfigDict, params: Tree
) -> str | None:
  """What is wrong with the fields that freeze: a line, or None.

  Args:
    config: as `frozen` takes it.
    params: of the network; shapes will do.
  """
  names = ["/".join(k.key for k in p) for p, _ in _leaves(params)]
  for pattern in config.freeze:
    if not any(_matches(path, pattern) for path, _ in _leaves(params)):
      some = ", ".join(sorted({name.split("/")[0] for name in names}))
      return (
        "config.freeze must be patterns of parameters, which begin with "
        f"{some}, such as {names[0]}; got {pattern!r}, which matches none"
      )
  strides = sorted(set(_units(config).values()))
  if config.freeze_stride not in (0, *strides):
    return (
      "config.freeze_stride must be 0 or a stride of the backbone's units, "
      f"{', '.join(map(str, strides))}; got {config.freeze_stride}"
    )
  if all(jax.tree.leaves(frozen(config, params))):
    return (
      "config.freeze and freeze_stride must leave something to train, got "
      f"{tuple(config.freeze)} and {config.freeze_stride}"
    )
  return None


def _leaves(params: Tree) -> list[tuple[tuple, Any]]:
  return jax.tree.leaves_with_path(params)


def _matches(path: tuple, pattern: str) -> bool:
  names = [key.key for key in path]
  return any(
    fnmatch.fnmatchcase("/".join(names[: i + 1]), pattern)
    for i in range(len(names))
  )


def _of_stride(config: ml_collections.ConfigDict) -> list[str]:
  """The units that `freeze_stride` means, as patterns."""
  if not config.freeze_stride:
    return []
  units = _units(config).items()
  return [f"backbone/{name}" for name, s in units if s <= config.freeze_stride]


def _units(config: ml_collections.ConfigDict) -> dict[str, int]:
  return backbone_units(config.model.backbone, config.model.width_multiplier)
