"""From a source of examples to an iterator of batches, with Grain.

The training batch of step s is a pure function of (seed, s): elements are
shuffled by an index permutation seeded per epoch, each draws its augmentation
from a generator seeded by (seed, position in the endless stream), and each
process takes its rows of every global batch. So to resume is to start at a
step, and the number of processes, threads or workers changes nothing.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

Example = dict[str, Any]
Batch = dict[str, Any]
Augment = Callable[[Example, np.random.Generator], Example]

_THREADS = 4  # of each reading process; decoding and resizing release the GIL
_BATCHES_AHEAD = 2  # per thread or worker process
_EPOCHS = 2**32  # endless; Grain's own "for ever" overflows at batches of one


def endless_batches(
  source: Sequence[Example],
  augment: Augment,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  process_index: int,
  process_count: int,
  workers: int,
) -> Iterator[Batch]:
  """Shuffled, augmented batches for ever, of `batch_size` over all processes.

  Args:
    source: random access to examples; pickles if there are workers.
    augment: makes what a row holds of an example and a generator.
    batch_size: rows of the global batch.
    seed: 0 to 2**32 - 1.
    start_step: step whose batch comes first.
    process_index: which rows of each global batch are ours; global batches are
      the concatenation of the processes' rows.
    process_count: how many processes there are; divides `batch_size`.
    workers: processes that read, or 0 for threads of this one.
  """
  batches = (
    grain.MapDataset.source(source)
    .seed(seed)
    .shuffle()
    .repeat(_EPOCHS)
    .random_map(augment)
    .batch(_rows(batch_size, process_count), batch_fn=stack)
  )
  first = start_step * process_count + process_index
  return _read(batches[first::process_count], workers)


def once_through(
  source: Sequence[Example],
  *,
  batch_size: int,
  process_index: int,
  process_count: int,
  workers: int,
) -> Iterator[Batch]:
  """The examples in order, in batches of `batch_size` over all processes.

  `len(source)` is a multiple of `batch_size`: see `FilledUp`.
  """
  batches = grain.MapDataset.source(source).batch(
    _rows(batch_size, process_count), batch_fn=stack
  )
  return _read(batches[process_index::process_count], workers)


def read(batches: Sequence[Batch], workers: int) -> Iterator[Batch]:
  """Batches in their order, read ahead; see `endless_batches`."""
  return _read(grain.MapDataset.source(batches), workers)


class FilledUp:
  """The first examples of a source, then blank ones up to whole batches.

  Args:
    source: the examples.
    blank: makes what fills up the last batch.
    batch_size: `len` is a multiple of it.
    limit: how many examples of the source; 0 = all.
  """

  def __init__(
    self,
    source: Sequence[Example],
    blank: Callable[[], Example],
    *,
    batch_size: int,
    limit: int = 0,
  ):
    self._source = source
    self._blank = blank
    self._count = min(limit or len(source), len(source))
    self._length = -(-self._count // batch_size) * batch_size

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    """An example with "valid": whether it is of the source."""
    valid = index < self._count
    example = self._source[index] if valid else self._blank()
    return example | {"valid": np.array(valid)}


def stack(examples: Sequence[Example]) -> Batch:
  """Arrays stacked along a new first axis, names as a list."""
  batch = {key: [example[key] for example in examples] for key in examples[0]}
  return {
    key: values if key == "name" else np.stack(values)
    for key, values in batch.items()
  }


def _rows(batch_size: int, process_count: int) -> int:
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"batch_size must be a multiple of the {process_count} processes, got "
      f"{batch_size}"
    )
  return batch_size // process_count


def _read(batches: grain.MapDataset, workers: int) -> Iterator[Batch]:
  """Reads ahead: `workers` processes, or with 0 threads of this one."""
  cv2.setNumThreads(1)  # parallel over batches; more would only contend
  if not workers:
    ahead = _THREADS * _BATCHES_AHEAD
    return iter(batches.to_iter_dataset(grain.ReadOptions(_THREADS, ahead)))
  if not flags.FLAGS.is_parsed():  # as in a notebook; Grain reads its flags
    flags.FLAGS.mark_as_parsed()
  return iter(
    batches.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
      grain.MultiprocessingOptions(workers, _BATCHES_AHEAD),
      worker_init_fn=_start_worker,
    )
  )


def _start_worker(index: int, count: int) -> None:
  del index, count
  cv2.setNumThreads(1)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends this worker when the process that reads from it has ended.

  One that was killed could not tell it, and it would keep its memory for ever.
  """
  multiprocessing.parent_process().join()
  os._exit(1)
