"""Many pictures through one segmenter, reading and writing beside computing."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import rich.progress
from PIL import Image

from deeplab_jax import atomic, messages, visualize
from deeplab_jax.inference import Segmenter
from deeplab_jax.predict.naming import LABELS, OVERLAYS, Job
from deeplab_jax.predict.reading import read_image

T = TypeVar("T")

_THREADS = 4
_AHEAD = 3  # pictures in memory before, and after, the network


class Failure(NamedTuple):
  """A picture without results.

  Attributes:
    source: its path.
    reason: one line.
  """

  source: pathlib.Path
  reason: str


def predict_files(
  segmenter: Segmenter,
  jobs: Sequence[Job],
  out: str | os.PathLike,
  show_progress: bool = False,
) -> list[Failure]:
  """Writes OUT/labels/<name> and OUT/overlays/<name> of every picture.

  Labels are indexed PNG with the palette of the classes (grey of 16 bits above
  256 classes), overlays RGB.

  Args:
    segmenter: the network.
    jobs: pictures and names.
    out: created if missing.
    show_progress: whether to draw a progress bar.

  Returns:
    the pictures that could not be read or written, with the reason. All others
    are done.
  """
  out = pathlib.Path(out)
  failures = []
  with ThreadPoolExecutor(_THREADS) as pool:
    writing = collections.deque()
    readings = _ahead(pool, lambda job: read_image(job.source), jobs)
    for job, reading in rich.progress.track(
      readings, "segmenting", total=len(jobs), disable=not show_progress
    ):
      with _noting(failures, job):
        image = reading.result()
        labels = segmenter(image)
        task = pool.submit(_write, out, job.name, image, labels, segmenter)
        writing.append((job, task))
      if len(writing) > _AHEAD:
        _finish(*writing.popleft(), failures)
    for job, task in writing:
      _finish(job, task, failures)
  return failures


def _ahead(
  pool: ThreadPoolExecutor, function: Callable[[Job], T], jobs: Sequence[Job]
) -> Iterator[tuple[Job, Future[T]]]:
  """Jobs in order with the calls on them, a few of which run ahead."""
  waiting = collections.deque()
  for job in jobs:
    waiting.append((job, pool.submit(function, job)))
    if len(waiting) > _AHEAD:
      yield waiting.popleft()
  yield from waiting


def _finish(job: Job, task: Future, failures: list[Failure]) -> None:
  with _noting(failures, job):
    task.result()


@contextlib.contextmanager
def _noting(failures: list[Failure], job: Job) -> Iterator[None]:
  """Turns an error about one picture into a `Failure`."""
  try:
    yield
  except Exception as error:  # decoders raise many kinds on broken files
    if messages.is_disk_full(error) or messages.is_out_of_memory(error):
      raise  # The next pictures will fare no better.
    text = str(error).strip() or type(error).__name__
    failures.append(Failure(job.source, text.splitlines()[0]))


def _write(
  out: pathlib.Path,
  name: str,
  image: np.ndarray,
  labels: np.ndarray,
  segmenter: Segmenter,
) -> None:
  overlay = visualize.overlay(image, labels, segmenter.colors)
  for kind, picture in (
    (LABELS, visualize.label_picture(labels, segmenter.colors)),
    (OVERLAYS, Image.fromarray(overlay)),
  ):
    with atomic.replacing(out / kind / name) as partial:
      picture.save(partial, "PNG")
