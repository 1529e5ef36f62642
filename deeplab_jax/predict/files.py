"""Many pictures through one segmenter, reading and writing beside computing."""

import collections
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import rich.progress
from PIL import Image

from deeplab_jax import atomic, messages, remote, visualize
from deeplab_jax.inference import Segmenter
from deeplab_jax.predict.naming import (
  KINDS,
  LABELS,
  OVERLAYS,
  PROBABILITIES,
  UNCERTAINTY,
  Job,
)
from deeplab_jax.predict.reading import read_image
from deeplab_jax.predict.sources import Source

T = TypeVar("T")

_THREADS = 4
_AHEAD = 3  # pictures in memory before, and after, the network


class Failure(NamedTuple):
  """A picture without results.

  Attributes:
    source: its path.
    reason: one line.
  """

  source: Source
  reason: str


def predict_files(
  segmenter: Segmenter,
  jobs: Sequence[Job],
  out: str | os.PathLike | remote.Address,
  kinds: Sequence[str] = (LABELS, OVERLAYS),
  show_progress: bool = False,
) -> list[Failure]:
  """Writes OUT/<kind>/<name> of every picture.

  - "labels": indexed PNG with the palette of the classes (grey of 16 bits above
    256 classes);
  - "overlays": RGB PNG of the picture under the colours of its labels, and
    below it the names of the classes that occur;
  - "probabilities": of all classes, float16 (h, w, num_classes), as `.npy`;
  - "uncertainty": grey PNG of 8 bits, 255 times `Segmenter.uncertainty`.

  Args:
    segmenter: the network.
    jobs: pictures and names.
    out: created if missing.
    kinds: which of these to write.
    show_progress: whether to draw a progress bar.

  Returns:
    the pictures that could not be read or written, with the reason. All others
    are done.

  Raises:
    ValueError: there is no such kind.
  """
  if not kinds or not set(kinds) <= set(KINDS):
    raise ValueError(f"kinds must be of {', '.join(KINDS)}, got {kinds}")
  out = remote.as_path(out)
  computed = [k for k in (PROBABILITIES, UNCERTAINTY) if k in kinds]
  failures = []
  with ThreadPoolExecutor(_THREADS) as pool:
    writing = collections.deque()
    readings = _ahead(pool, lambda job: read_image(job.source), jobs)
    for job, reading in rich.progress.track(
      readings, "segmenting", total=len(jobs), disable=not show_progress
    ):
      with _noting(failures, job):
        image = reading.result()
        outputs = segmenter.outputs(image, LABELS, *computed)
        paths = {kind: out / kind / job.name for kind in kinds}
        task = pool.submit(_write, paths, image, outputs, segmenter)
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
  paths: Mapping[str, remote.AnyPath],
  image: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  segmenter: Segmenter,
) -> None:
  """Writes each kind of result to its path; see `predict_files`."""
  labels, colors = outputs[LABELS], segmenter.colors
  for kind, path in paths.items():
    if kind == LABELS:
      visualize.write_label_png(path, labels, colors)
    elif kind == OVERLAYS:
      overlay = visualize.overlay(image, labels, colors)
      names = segmenter.class_names
      _write_png(path, visualize.with_legend(overlay, labels, colors, names))
    elif kind == UNCERTAINTY:
      _write_png(path, np.rint(255 * outputs[kind]).astype(np.uint8))
    else:
      _write_npy(path.with_suffix(".npy"), outputs[kind].astype(np.float16))


def _write_png(path: remote.AnyPath, picture: np.ndarray) -> None:
  with atomic.replacing(path) as partial:
    Image.fromarray(picture).save(partial, "PNG")


def _write_npy(path: remote.AnyPath, array: np.ndarray) -> None:
  with atomic.replacing(path) as partial, partial.open("wb") as file:
    np.save(file, array)
