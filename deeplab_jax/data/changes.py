"""What has changed in a data set since a run was begun with it.

A run stores what `describe` says. When it is continued, `changes` compares that
with the data set as it is now: classes give labels their meaning, so a change
there is breaking; pictures may come and go, which is told.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from deeplab_jax.data.source import Dataset
from deeplab_jax.messages import printable

Record = dict[str, Any]

_NAMED = 5  # of the names in a line; how many more there are is told
_FACTS = {
  "name": "data set",
  "version": "version of the data set",
  "partial": "only a sample of the data set",
}
_PIXELS = {
  "channels": "channels of the images",
  "image_dtype": "numbers of the images",
  "value_range": "data.value_range",
}


class Changes(NamedTuple):
  """What differs, a line each, as "subject: old -> new".

  Attributes:
    breaking: what changes the meaning of that which was learnt.
    other: all else.
  """

  breaking: list[str]
  other: list[str]


def describe(
  dataset: Dataset, roles: Sequence[str] = ("train", "eval")
) -> Record:
  """What makes up a data set, for JSON.

  Args:
    dataset: one that is open.
    roles: which splits; each has the "split", the number of "images", and as
      "examples" a digest by name, or null where its builder stored none.
  """
  info = dataset.info
  splits = {"train": dataset.train_split, "eval": dataset.eval_split}
  return {
    "name": info.name,
    "version": dataset.directory.name,
    "partial": dataset.partial,
    "class_names": list(info.class_names),
    "ignore_label": info.ignore_label,
    "channels": info.channels,
    "image_dtype": info.image_dtype,
    "value_range": [list(pair) for pair in info.value_range],
  } | {role: _describe_split(dataset, splits[role]) for role in roles}


def _describe_split(dataset: Dataset, split: str) -> Record:
  return {
    "split": split,
    "images": len(dataset.source(split)),
    "examples": dataset.digests(split),
  }


def changes(before: Record, after: Record) -> Changes:
  """Compares two states of a data set.

  Args:
    before: as `describe` gave it; entries may be missing.
    after: as `describe` gives it.
  """
  known = before.keys() & after.keys()
  breaking, other = [], []
  if "class_names" in known:
    breaking += _class_changes(before["class_names"], after["class_names"])
  if "ignore_label" in known:
    breaking += _fact("ignore label", before, after, "ignore_label")
  for key, subject in _PIXELS.items():
    if key in known:
      breaking += _fact(subject, before, after, key)
  for key, subject in _FACTS.items():
    if key in known:
      other += _fact(subject, before, after, key)
  for role in ("train", "eval"):
    if role in known:
      other += _split_changes(role, before[role], after[role])
  return Changes(breaking, other)


def _fact(
  subject: str, before: Record, after: Record, key: str
) -> Iterator[str]:
  if before[key] != after[key]:
    old, new = ("none" if x is None else x for x in (before[key], after[key]))
    yield f"{subject}: {old} -> {new}"


def _class_changes(before: Sequence, after: Sequence) -> Iterator[str]:
  if len(before) != len(after):
    yield f"number of classes: {len(before)} -> {len(after)}"
  pairs = enumerate(itertools.zip_longest(before, after, fillvalue="none"))
  differing = [
    f"{label} {printable(old)} -> {printable(new)}"
    for label, (old, new) in pairs
    if old != new
  ]
  if differing:
    yield f"classes: {_few(differing)}"


def _split_changes(role: str, before: Record, after: Record) -> Iterator[str]:
  yield from _fact(f"{role} split", before, after, "split")
  parts = []
  if before["images"] != after["images"]:
    parts.append(f"{before['images']} -> {after['images']} images")
  if None not in (before["examples"], after["examples"]):
    parts += _example_changes(before["examples"], after["examples"])
  if parts:
    yield f"{role} images: {'; '.join(parts)}"


def _example_changes(
  before: dict[str, str], after: dict[str, str]
) -> Iterator[str]:
  kinds = {
    "added": [name for name in after if name not in before],
    "removed": [name for name in before if name not in after],
    "altered": [n for n in after if before.get(n, after[n]) != after[n]],
  }
  for kind, names in kinds.items():
    if names:
      yield f"{len(names)} {kind} ({_few(map(printable, names))})"
  if not any(kinds.values()) and list(before) != list(after):
    yield "the same ones in another order"


def _few(items: Iterable[str]) -> str:
  """The first of the items, and how many more there are."""
  items = list(items)
  more = len(items) - _NAMED
  shown = ", ".join(items[:_NAMED])
  return f"{shown} and {more} more" if more > 0 else shown
