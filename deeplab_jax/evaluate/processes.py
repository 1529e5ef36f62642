"""What the processes of a run tell each other of an evaluation."""

import itertools
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_LOW_BITS = 30


class Picture(NamedTuple):
  """A picture that was put together: see `ScoredPicture`.

  Attributes:
    name: of the image.
    image: uint8 RGB (h, w, 3).
    labels: uint8 (h, w), or (h, w, num_classes) where classes overlap.
    predictions: of the labels' shape; classes, or probabilities of each.
  """

  name: str
  image: np.ndarray
  labels: np.ndarray
  predictions: np.ndarray


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Sum of int64 counts; sent in halves, as devices have 32-bit integers."""
  if jax.process_count() == 1:
    return counts
  mask = (1 << _LOW_BITS) - 1
  halves = np.stack([counts >> _LOW_BITS, counts & mask]).astype(np.int32)
  gathered = multihost_utils.process_allgather(halves).astype(np.int64)
  high, low = gathered.sum(0)
  return (high << _LOW_BITS) + low


def lists_of_all(own: list[Any]) -> list[Any]:
  """The lists of all processes in one, sorted; of entries that JSON holds."""
  if jax.process_count() == 1:
    return sorted(own)
  content = np.frombuffer(json.dumps(own).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.int32(content.size))
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: content.size] = content
  rows = zip(multihost_utils.process_allgather(padded), lengths)
  lists = [json.loads(row[:length].tobytes()) for row, length in rows]
  return sorted(itertools.chain(*lists))


def pictures_of_all(
  own: Mapping[int, Picture], wanted: Collection[int]
) -> dict[int, Picture]:
  """Pictures by their index in the split, each sent by who put it together.

  Args:
    own: what this process has, some of `wanted` among it.
    wanted: the same for all processes, each of which one has.
  """
  if jax.process_count() == 1:
    return {index: own[index] for index in wanted}
  offered = [
    [i, picture.name, [[x.shape, x.dtype.name] for x in picture[1:]]]
    for i, picture in own.items()
    if i in wanted
  ]
  found = {}
  for index, name, kinds in lists_of_all(offered):
    sends = index in own
    arrays = own[index][1:] if sends else [np.zeros(*kind) for kind in kinds]
    # One at a time, as pictures may be large and processes many.
    arrays = multihost_utils.broadcast_one_to_all(tuple(arrays), sends)
    found[index] = Picture(name, *map(np.asarray, arrays))
  return found
