"""The losses of training, as sums over what counts.

A loss is a function of logits and labels that gives a sum and a count. Sums and
counts of the parts of a batch add up to those of the whole; their quotient,
`mean`, is the loss. `LOSSES` has those of segmentation by name: of pixels, from
`pixels`, and of regions, from `regions`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deeplab_jax.data.classes import IGNORE
from deeplab_jax.losses.pixels import (
  PIXEL_LOSSES,
  class_cross_entropy,
  cross_entropy,
)
from deeplab_jax.losses.regions import REGION_LOSSES

__all__ = [
  "JOINED",
  "LOSSES",
  "Loss",
  "class_cross_entropy",
  "cross_entropy",
  "make",
  "mean",
  "settings",
]

Sums = tuple[jax.Array, jax.Array]

LOSSES: dict[str, Callable[..., Sums]] = PIXEL_LOSSES | REGION_LOSSES
"""By the name that `config.loss.name` gives. What a loss takes besides logits,
labels and step are the fields of `config.loss` of the same names."""

JOINED = "+"
"""Between the names of losses that are added."""


class Loss(NamedTuple):
  """What a training step minimises, beside the weight decay.

  Attributes:
    name: under which its values are logged, as "train/cross_entropy".
    sums: (logits, labels, step=) -> sum and count; `step` is the number of
      updates made so far.
  """

  name: str
  sums: Callable[..., Sums]


def make(
  name: str, weights: Sequence[float], fields: Mapping[str, Any]
) -> Loss:
  """The loss of a name, or the sum of several.

  In a sum each loss is normalised by its own count. Parts of a batch weigh as
  much as they have labelled pixels.

  Args:
    name: of `LOSSES`, or several joined by "+".
    weights: of the terms of a sum; () is 1 for each.
    fields: settings by name; each loss is given those that it takes.
  """
  terms = []
  for term in name.split(JOINED):
    loss = LOSSES[term]
    taken = {x: fields[x] for x in settings(loss) & fields.keys()}
    terms.append(functools.partial(loss, **taken))
  if len(terms) == 1:
    return Loss(name, terms[0])
  weights = tuple(weights) or (1.0,) * len(terms)

  def sums(logits, labels, step=0):
    values = [mean(*term(logits, labels, step=step)) for term in terms]
    value = sum(w * x for w, x in zip(weights, values, strict=True))
    count = (labels != IGNORE).sum()
    return value * count, count

  return Loss(name, sums)


def mean(total: jax.Array, count: jax.Array) -> jax.Array:
  """What the sums of a loss amount to: 0 if nothing counts."""
  return total / jnp.maximum(count.astype(total.dtype), 1e-5)


def settings(loss: Callable[..., Sums]) -> set[str]:
  """Names of what `loss` takes besides logits, labels and step."""
  return set(inspect.signature(loss).parameters) - {"logits", "labels", "step"}
