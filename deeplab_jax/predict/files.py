"""Many pictures through one segmenter, reading and writing beside computing."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import rich.progress
from PIL import Image

from deeplab_jax import atomic, messages, remote, visualize
from deeplab_jax.inference import Segmenter
from deeplab_jax.predict import geo
from deeplab_jax.predict import polygons as polygons_lib
from deeplab_jax.predict.naming import (
  KINDS,
  LABELS,
  OVERLAYS,
  POLYGONS,
  PROBABILITIES,
  UNCERTAINTY,
  Job,
  class_folders,
  results_of,
)
from deeplab_jax.predict.reading import read_for
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
  polygons: str = "",
) -> list[Failure]:
  """Writes OUT/<kind>/<name> of every picture.

  Of a TIFF with a place on earth labels, probabilities and uncertainty are
  rasters of that place, see `geo.label`; the overlay is left out of one that
  is too large to be seen at once.

  - "labels": indexed PNG with the palette of the classes (grey of 16 bits above
    256 classes); where classes overlap, OUT/labels/<class>/<name> of each, 255
    where it is and else 0;
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
    polygons: of `polygons.FORMATS`, to also write OUT/polygons/<name> of such a
      TIFF; "" writes none.

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
  rasters = [job for job in jobs if geo.is_raster(job.source)]
  for job in rich.progress.track(
    rasters, "rasters", disable=not (show_progress and rasters)
  ):
    with _noting(failures, job):
      _label_raster(segmenter, job, out, kinds, polygons)
  jobs = [job for job in jobs if job not in rasters]
  with ThreadPoolExecutor(_THREADS) as pool:
    writing = collections.deque()
    model = segmenter.model
    readings = _ahead(pool, lambda job: read_for(model, job.source), jobs)
    for job, reading in rich.progress.track(
      readings,
      "segmenting",
      total=len(jobs),
      disable=not (show_progress and jobs),
    ):
      with _noting(failures, job):
        image = reading.result()
        outputs = segmenter.outputs(image, LABELS, *computed)
        results = image, outputs, segmenter
        task = pool.submit(_write, out, job.name, kinds, *results)
        writing.append((job, task))
      if len(writing) > _AHEAD:
        _finish(*writing.popleft(), failures)
    for job, task in writing:
      _finish(job, task, failures)
  return failures


def _label_raster(
  segmenter: Segmenter,
  job: Job,
  out: remote.AnyPath,
  kinds: Sequence[str],
  polygons: str,
) -> None:
  """Writes the results of a TIFF with a place on earth."""
  paths = geo.paths_of(out, job.name, (LABELS, *kinds))
  geo.label(segmenter, job.source, paths)
  max_pixels = segmenter.protocol.max_pixels
  if OVERLAYS in kinds and geo.fits_whole(job.source, max_pixels):
    image = geo.read_whole(segmenter, job.source)
    overlap = segmenter.thresholds is not None
    labels = geo.read_labels(paths[LABELS], overlap)
    _write(out, job.name, [OVERLAYS], image, {LABELS: labels}, segmenter)
  if polygons:
    path = out / _polygons(job, polygons)
    names = segmenter.class_names
    polygons_lib.write(paths[LABELS], path, polygons, names)


def results_of_raster(
  job: Job, kinds: Sequence[str], polygons: str, max_pixels: int
) -> list[str]:
  """`naming.results_of` of a TIFF with a place on earth.

  Args:
    job: the raster.
    kinds: as `predict_files` takes them.
    polygons: likewise.
    max_pixels: of the segmenter's protocol.
  """
  paths = geo.paths_of(pathlib.PurePath(), job.name, (LABELS, *kinds))
  results = [path.as_posix() for path in paths.values()]
  if OVERLAYS in kinds and geo.fits_whole(job.source, max_pixels):
    results += results_of(job, [OVERLAYS])
  return results + ([_polygons(job, polygons)] if polygons else [])


def _polygons(job: Job, kind: str) -> str:
  """Where the polygons of a raster are, below the folder of the results."""
  ending = polygons_lib.FORMATS[kind]
  return f"{POLYGONS}/{job.name.removesuffix('.png')}{ending}"


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
  out: remote.AnyPath,
  name: str,
  kinds: Sequence[str],
  image: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  segmenter: Segmenter,
) -> None:
  """Writes each kind of result to OUT/<kind>/<name>; see `predict_files`."""
  labels, colors = outputs[LABELS], segmenter.colors
  for kind in kinds:
    path = out / kind / name
    if kind == LABELS and labels.ndim == 3:
      _write_masks(out / kind, name, labels, segmenter.class_names)
    elif kind == LABELS:
      visualize.write_label_png(path, labels, colors)
    elif kind == OVERLAYS:
      shown = visualize.viewable(image, segmenter.model.value_range)
      overlay = visualize.overlay(shown, labels, colors)
      names = segmenter.class_names
      _write_png(path, visualize.with_legend(overlay, labels, colors, names))
    elif kind == UNCERTAINTY:
      _write_png(path, np.rint(255 * outputs[kind]).astype(np.uint8))
    else:
      _write_npy(path.with_suffix(".npy"), outputs[kind].astype(np.float16))


def _write_masks(
  folder: remote.AnyPath,
  name: str,
  masks: np.ndarray,
  class_names: Sequence[str],
) -> None:
  """Writes FOLDER/<class>/<name> of masks (h, w, classes) of 0 and 1."""
  for index, class_folder in enumerate(class_folders(class_names)):
    _write_png(folder / class_folder / name, 255 * masks[..., index])


def _write_png(path: remote.AnyPath, picture: np.ndarray) -> None:
  with atomic.replacing(path) as partial:
    Image.fromarray(picture).save(partial, "PNG")


def _write_npy(path: remote.AnyPath, array: np.ndarray) -> None:
  with atomic.replacing(path) as partial, partial.open("wb") as file:
    np.save(file, array)
