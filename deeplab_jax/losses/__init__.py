"""The losses of training, as sums over what counts.

A loss is a function of logits and labels that gives a sum and a count. Sums and
counts of the parts of a batch add up to those of the whole; their quotient,
`mean`, is the loss. `LOSSES` has those of segmentation by name: of pixels, from
`pixels`, and of regions, from `regions`; `MULTILABEL_LOSSES` those of classes
that overlap, from `sigmoids`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
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
from deeplab_jax.losses.sigmoids import MULTILABEL_LOSSES

__all__ = [
  "JOINED",
  "LOSSES",
  "MULTILABEL_LOSSES",
  "Loss",
  "class_cross_entropy",
  "cross_entropy",
  "join",
  "make",
  "mean",
  "settings",
  "whole_batch",
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
    terms: of a sum of losses, the `sums` of each by its name; {} of one.
    weights: one per term.
  """

  name: str
  sums: Callable[..., Sums]
  terms: Mapping[str, Callable[..., Sums]] = MappingProxyType({})
  weights: tuple[float, ...] = ()


class Whole(NamedTuple):
  """What is known of a batch before its parts are computed.

  Attributes:
    labelled: how many labels count.
    counts: of each term of a sum of losses, by name.
  """

  labelled: jax.Array
  counts: Mapping[str, jax.Array]


def make(
  name: str,
  weights: Sequence[float],
  fields: Mapping[str, Any],
  known: Mapping[str, Callable[..., Sums]] = LOSSES,
) -> Loss:
  """The loss of a name, or the sum of several, see `join`.

  Args:
    name: of `known`, or several joined by "+".
    weights: of the terms of a sum; () is 1 for each.
    fields: settings by name; each loss is given those that it takes.
    known: losses by name.
  """
  terms = {}
  for term in name.split(JOINED):
    loss = known[term]
    taken = {x: fields[x] for x in settings(loss) & fields.keys()}
    terms[term] = functools.partial(loss, **taken)
  if len(terms) == 1:
    return Loss(name, terms[name])
  weights = tuple(weights) or (1.0,) * len(terms)

  def sums(logits, labels, step=0):
    found = {n: term(logits, labels, step=step) for n, term in terms.items()}
    return join(made, found, labels)

  made = Loss(name, sums, terms, weights)
  return made


def join(
  loss: Loss,
  found: Mapping[str, Sums],
  labels: jax.Array,
  whole: Whole | None = None,
) -> Sums:
  """The sum and count of several losses together.

  Each is normalised by its own count in the whole batch.

  Args:
    loss: which has terms.
    found: the sum and count of each.
    labels: which these are of.
    whole: of the batch that `labels` are a part of; None where they are all.
  """
  count = (labels != IGNORE).sum()
  if whole is None:
    values = [mean(*found[name]) for name in loss.terms]
    value = sum(w * x for w, x in zip(loss.weights, values, strict=True))
    return value * count, count
  total = sum(
    weight * found[name][0] * mean(whole.labelled, whole.counts[name])
    for name, weight in zip(loss.terms, loss.weights, strict=True)
  )
  return total, count


def whole_batch(loss: Loss, labels: jax.Array, num_classes: int) -> Whole:
  """What `join` must know so that parts of a batch add up to the whole.

  Labels tell: the counts of losses depend on nothing else, but for hard pixels.

  Args:
    loss: which has terms.
    labels: (b, h, w, ...) of all parts.
    num_classes: of the logits.
  """
  logits = jnp.zeros((*labels.shape[:3], num_classes))
  counts = {n: term(logits, labels)[1] for n, term in loss.terms.items()}
  return Whole((labels != IGNORE).sum().astype(logits.dtype), counts)


def mean(total: jax.Array, count: jax.Array) -> jax.Array:
  """What the sums of a loss amount to: 0 if nothing counts."""
  return total / jnp.maximum(count.astype(total.dtype), 1e-5)


def settings(loss: Callable[..., Sums]) -> set[str]:
  """Names of what `loss` takes besides logits, labels and step."""
  return set(inspect.signature(loss).parameters) - {"logits", "labels", "step"}
