"""Rasters that have a place on earth, to label rasters of the same place.

A raster is read, labelled and written window by window, as `Segmenter` cuts any
large picture, so that it may be larger than the memory. Needs rasterio, of the
extra `geo`.
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deeplab_jax import atomic, visualize
from deeplab_jax.data import bands
from deeplab_jax.inference import Segmenter
from deeplab_jax.inference.segmenter import Place
from deeplab_jax.models import DeepLab
from deeplab_jax.predict.naming import LABELS, PROBABILITIES, UNCERTAINTY
from deeplab_jax.predict.reading import takes_rgb
from deeplab_jax.predict.sources import Member, Source

SUFFIX = ".tif"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BLOCK = 512  # pixels of a side of the tiles that a result is stored in
_CACHE = 128 << 20  # bytes of blocks that GDAL keeps
_RASTER = "georeferenced TIFF"


def is_raster(source: str | os.PathLike | Source) -> bool:
  """Whether `source` is a TIFF with a place on earth, in a file or in a tar.

  False where rasterio is not there to ask, and of what is in an object store,
  which would be fetched twice.
  """
  try:
    is_member = isinstance(source, Member)
    with open(source.archive if is_member else source, "rb") as file:
      file.seek(source.offset if is_member else 0)
      if file.read(4) not in _TIFF:
        return False
    rasterio = bands.import_rasterio(_RASTER)
    with rasterio.open(_place(source)) as raster:
      is_placed = raster.crs is not None or not raster.transform.is_identity
      return is_placed or bool(raster.gcps[0])
  except Exception:  # of any kind of broken file: who reads it tells
    return False


def _place(source: str | os.PathLike | Source) -> str:
  """What GDAL opens `source` by."""
  if isinstance(source, Member):
    archive = os.path.abspath(source.archive)
    return f"/vsisubfile/{source.offset}_{source.size},{archive}"
  return os.fspath(source)


def label(
  segmenter: Segmenter,
  source: pathlib.Path | Member,
  paths: Mapping[str, pathlib.Path],
) -> None:
  """Labels the raster `source` into rasters of its place and size.

  Each has the coordinate system and the transform, or the control points, of
  `source`, and a number that is declared as no-data, which it has where
  `source` has no-data in all bands: 255 (65535 of more than 255 classes) in
  labels, NaN in probabilities and uncertainty, which are float32. Where classes
  overlap, labels have a band for each class, 1 where it is and else 0.

  Args:
    segmenter: the network.
    source: of the channels and the numbers that it takes; a file, or its place
      in a tar file.
    paths: by kind, of "labels", "probabilities" and "uncertainty".

  Raises:
    ValueError: `source` is of another kind, or would be replaced.
  """
  rasterio = bands.import_rasterio(_RASTER)
  file = source.archive if isinstance(source, Member) else source
  if file.resolve() in {path.resolve() for path in paths.values()}:
    raise ValueError("the result would replace it: give another --out")
  with contextlib.ExitStack() as stack:
    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
    raster = stack.enter_context(rasterio.open(_place(source)))
    _check(raster, segmenter.model)
    writers = {
      kind: stack.enter_context(_Writer.open(path, kind, raster, segmenter))
      for kind, path in paths.items()
    }
    size = raster.height, raster.width

    def read(place: Place) -> np.ndarray:
      return read_part(raster, segmenter.model, place)

    for place, found in segmenter.in_windows(size, read, *paths):
      unknown = _unknown(raster, segmenter.model, place)
      for kind, writer in writers.items():
        writer.put(place, found[kind], unknown)


def fits_whole(source: pathlib.Path | Member, max_pixels: int) -> bool:
  """Whether the network sees the raster `source` at once, so that it is small
  enough to be drawn."""
  rasterio = bands.import_rasterio(_RASTER)
  with rasterio.open(_place(source)) as raster:
    pixels = raster.height * raster.width
  return pixels <= max_pixels


def read_whole(
  segmenter: Segmenter, source: pathlib.Path | Member
) -> np.ndarray:
  """The raster `source` as the network takes it."""
  rasterio = bands.import_rasterio(_RASTER)
  with rasterio.open(_place(source)) as raster:
    _check(raster, segmenter.model)
    place = slice(0, raster.height), slice(0, raster.width)
    return read_part(raster, segmenter.model, place)


def read_labels(path: pathlib.Path, overlap: bool = False) -> np.ndarray:
  """The labels (h, w) of a raster that `label` wrote, or (h, w, classes) where
  classes `overlap`."""
  rasterio = bands.import_rasterio(_RASTER)
  with rasterio.open(path) as raster:
    labels = np.moveaxis(raster.read(), 0, 2)
  return labels if overlap else labels[..., 0]


def read_part(raster: Any, model: DeepLab, place: Place) -> np.ndarray:
  """The pixels at `place` (h, w, channels), as `model` takes them."""
  # Of a network for RGB of 8 bits, what `read_image` reads of a picture.
  count = model.channels
  if takes_rgb(model):
    count = 1 if raster.count < 3 else 3
  window = _window(place)
  pixels = raster.read(list(range(1, count + 1)), window=window)
  pixels = np.moveaxis(pixels, 0, 2)
  if takes_rgb(model):
    if raster.colorinterp[0].name == "palette":
      colors = np.zeros((65536, 3), np.uint8)
      for number, color in raster.colormap(1).items():
        colors[number] = color[:3]
      return colors[pixels[..., 0]]
    if pixels.dtype == np.uint16:
      pixels = (pixels >> 8).astype(np.uint8)
    return np.repeat(pixels, 3, 2) if count == 1 else pixels
  return np.ascontiguousarray(pixels, model.image_dtype)


def _check(raster: Any, model: DeepLab) -> None:
  """Refuses a raster of other bands or numbers than `model` takes."""
  found = f"{raster.count} bands of {', '.join(sorted(set(raster.dtypes)))}"
  dtypes = set(raster.dtypes)
  if takes_rgb(model):
    if raster.count == 2 or not dtypes <= {"uint8", "uint16"}:
      raise ValueError(f"must be grey or RGB of 8 or 16 bits, got {found}")
    return
  bands.check_palette(raster)
  known = {model.image_dtype}
  if model.image_dtype == "float32":
    known |= {"float64", "float16"}
  opaque = raster.count - bands.alphas(raster, model.channels)
  if model.channels not in (raster.count, opaque) or not dtypes <= known:
    raise ValueError(
      f"must have {model.channels} bands of {model.image_dtype}, as what the "
      f"model was trained on, got {found}"
    )


def _place_of(raster: Any) -> dict[str, Any]:
  """Where a raster is, as rasterio writes it: by a transform, or by points."""
  points, crs = raster.gcps
  if points:
    return {"gcps": points, "crs": crs}
  return {"crs": raster.crs, "transform": raster.transform}


def _window(place: Place) -> tuple[tuple[int, int], tuple[int, int]]:
  rows, columns = place
  return (rows.start, rows.stop), (columns.start, columns.stop)


def _unknown(raster: Any, model: DeepLab, place: Place) -> np.ndarray:
  """Bool (h, w), where no band has anything."""
  window = _window(place)
  if model.channels == raster.count and bands.alphas(raster, raster.count):
    # What is called transparency is a channel, as GDAL calls the fourth of any
    # four bands of 8 bits.
    if raster.nodata is None:
      return np.zeros([end - start for start, end in window], bool)
    return (raster.read(window=window) == raster.nodata).all(0)
  unknown = raster.dataset_mask(window=window) == 0
  if raster.dtypes[0].startswith("float"):
    unknown |= ~np.isfinite(raster.read(window=window)).any(0)
  return unknown


class _Writer:
  """A raster that is written in whole rows of tiles, each once.

  GDAL would pack a tile anew, at another place in the file, each time that a
  part of it is written.
  """

  def __init__(self, raster: Any, nodata: float):
    self._raster, self._nodata = raster, nodata
    self._first = 0  # row of the raster that is the first of these
    shape = raster.count, 0, raster.width
    self._rows = np.empty(shape, raster.dtypes[0])

  @classmethod
  @contextlib.contextmanager
  def open(
    cls, path: pathlib.Path, kind: str, source: Any, segmenter: Segmenter
  ) -> Iterator["_Writer"]:
    """A raster of the place and size of `source`, which `path` becomes."""
    rasterio = bands.import_rasterio(_RASTER)
    classes = segmenter.model.num_classes
    overlap = kind == LABELS and segmenter.thresholds is not None
    count = classes if kind == PROBABILITIES or overlap else 1
    dtype, nodata = "float32", math.nan
    if overlap:
      dtype, nodata = "uint8", 255
    elif kind == LABELS:
      dtype, nodata = ("uint8", 255) if classes <= 255 else ("uint16", 65535)
    profile = {
      "driver": "GTiff",
      "height": source.height,
      "width": source.width,
      "count": count,
      "dtype": dtype,
      "nodata": nodata,
      **_place_of(source),
      "compress": "deflate",
      "bigtiff": "if_safer",
    }
    if min(source.height, source.width) >= _BLOCK:
      profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    names = json.dumps(list(segmenter.class_names))
    with (
      atomic.replacing(path) as partial,
      rasterio.open(partial, "w", **profile) as raster,
    ):
      raster.update_tags(class_names=names)
      if count == classes > 1:
        raster.descriptions = segmenter.class_names
      if kind == LABELS and dtype == "uint8" and not overlap:
        palette = visualize.palette(segmenter.colors)[:256].tolist()
        raster.write_colormap(1, dict(enumerate(map(tuple, palette))))
      writer = cls(raster, nodata)
      yield writer
      writer.finish()

  def put(self, place: Place, found: np.ndarray, unknown: np.ndarray) -> None:
    """Takes what is at `place`: (h, w) or (h, w, bands)."""
    rows, columns = place
    self._reach(rows)
    part = self._rows[
      :, rows.start - self._first : rows.stop - self._first, columns
    ]
    part[:] = np.moveaxis(found.reshape(*found.shape[:2], -1), 2, 0)
    part[:, unknown] = self._nodata

  def _reach(self, rows: slice) -> None:
    """Makes room for these rows; those above them are complete."""
    held = self._rows.shape[1]
    if rows.stop <= self._first + held:
      return
    complete = (rows.start - self._first) // _BLOCK * _BLOCK
    self._write(complete)
    more = rows.stop - self._first - self._rows.shape[1]
    shape = self._rows.shape[0], more, self._rows.shape[2]
    new = np.empty(shape, self._rows.dtype)
    self._rows = np.concatenate([self._rows, new], 1)

  def _write(self, count: int) -> None:
    """Writes the first `count` rows that are held, and lets them go."""
    if count:
      window = (self._first, self._first + count), (0, self._raster.width)
      self._raster.write(self._rows[:, :count], window=window)
      self._first += count
      self._rows = self._rows[:, count:]

  def finish(self) -> None:
    """Writes what is left."""
    self._write(self._rows.shape[1])


def paths_of(
  out: pathlib.Path, name: str, kinds: Sequence[str]
) -> dict[str, pathlib.Path]:
  """Where the rasters of the results called `name` are, by kind."""
  return {
    kind: (out / kind / name).with_suffix(SUFFIX)
    for kind in (LABELS, PROBABILITIES, UNCERTAINTY)
    if kind in kinds
  }
