"""Reads every example of a data set, broken ones as well.

Training reads records, which builders refuse to write of broken files. So a
user's folder is read from the files themselves, by the builder's own functions,
each fault being noted instead of raised; any other data set from its records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from deeplab_jax import visualize
from deeplab_jax.data import datasets, headers, preprocess
from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.bands import Picture
from deeplab_jax.data.builders import (
  checks,
  folder_bands,
  folder_checks,
  folder_classes,
  folder_layout,
  mask_windows,
  masks,
)
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.builders.folder_bands import FolderBands
from deeplab_jax.data.builders.folder_tiles import Latest, Tiles
from deeplab_jax.data.builders.masks import Mask
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.reading import AS_EVER, Reading, value_range
from deeplab_jax.data.source import Dataset

SPLITS = ("train", "val")


@dataclasses.dataclass
class Sample:
  """One example; None is what could not be read.

  Attributes:
    name: what the image and the mask are called.
    image_file: where the image is, for messages.
    mask_file: where the mask is, for messages.
    faults: what is wrong with its files.
    remarks: what of the files may be meant.
    image: uint8 (h, w, 3) RGB as training reads it; of other channels uint8
      (h, w, channels), their range of values brought to 0..255.
    mask: numbers (h, w), or colours (h, w, 3), as the file has them;
      `preprocess.IGNORE` where it declares that nothing is known.
    label: uint8 (h, w) train ids, `preprocess.IGNORE` where ignored; where
      classes overlap (h, w, classes) of 0, 1 and `preprocess.IGNORE`.
    left_out: whether a build leaves it out, though nothing is wrong with it.
  """

  name: str
  image_file: str
  mask_file: str
  faults: list[BadExample] = dataclasses.field(default_factory=list)
  remarks: list[Remark] = dataclasses.field(default_factory=list)
  image: np.ndarray | None = None
  mask: np.ndarray | None = None
  label: np.ndarray | None = None
  left_out: bool = False

  def attempt(self, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns; None if it refuses a file, which is noted."""
    try:
      return function(*arguments)
    except BadExample as fault:
      self.faults.append(fault)
      return None


class Samples(Protocol):
  """The examples of the training and the validation split.

  Attributes:
    info: facts about the data set; None if its classes cannot be known.
    faults: what is wrong with files that are no example's, or with all.
    remarks: what may be meant of them.
  """

  info: DatasetInfo | None
  faults: list[BadExample]
  remarks: list[Remark]

  def names(self, split: str) -> list[str] | range:
    """What is in `split`, "train" or "val": its length is that of the split."""

  def read(self, split: str, index: int) -> Sample:
    """The example `index` of `split`."""


class FolderSamples:
  """The files of a user's folder, see `data.builders.folder`.

  Attributes:
    layout: which files belong together.
    listed: whether the user, or an export, lists the classes.
    said: what is said of an export, see `annotations.report`.
  """

  def __init__(
    self,
    files: Tree,
    reading: Reading = AS_EVER,
    asked_range: tuple = (),
  ):
    """Looks at the user's `files`.

    Args:
      files: of the folder.
      reading: how they are read.
      asked_range: `config.data.value_range`.

    Raises:
      ValueError: there are no images, or no masks.
    """
    self.faults: list[BadExample] = []
    self.remarks: list[Remark] = []
    self._nodata, self._tiling = reading.nodata, reading.tiling
    tiling = self._tiling
    channels = reading.channels
    suffixes = folder_layout.suffixes(channels)
    self._export = find.find(
      files, reading.options, self.faults.append, suffixes
    )
    self._tree, self.layout = self._export.tree, self._export.layout
    self.faults += self._export.faults
    self.remarks += self._export.remarks
    self._bands = None
    self._tiles: Tiles | None = None
    self._latest_mask = Latest(self._whole_mask)
    if channels:
      if tiling.side:
        what = self._tree, self.layout, channels, tiling
        self._tiles = Tiles(*what, self.faults.append)
      what = self._tree, self.layout, channels, asked_range, self._tiles
      self._bands = find_bands(*what)
    self.listed = self._export.listed is not None or any(
      name in self._tree for name in folder_classes.FILES
    )
    self._classes = self._find_classes()
    self.info = self._classes and self._info(self._classes)
    names = self._classes.names if self._classes else ()
    self.said = report.lines(self._export, names)
    if self._bands is not None:
      self.said += self._bands.lines()

  def where(self, path: str) -> str:
    """How a message names the file `path` of the folder."""
    return self._tree.where(path)

  def names(self, split: str) -> list[str]:
    return (self._tiles or self.layout).splits[split]

  def _whole_mask(self, name: str) -> Sample:
    """A sample with the mask, and no image, of the whole image `name`."""
    sample = Sample(name, self._tree.where(self.layout.images[name]), "")
    mask_path = sample.attempt(self.layout.mask_of, self._tree, name)
    if mask_path:
      sample.mask_file = self._tree.where(mask_path)
      self._read_mask(sample, mask_path)
    return sample

  def _mask_of_tile(self, key: str) -> Sample:
    """A sample with the mask of a tile, of which only that part is read if it
    can be."""
    name, rows, columns = self._tiles.tiles[key]
    where = self._tree.where(self.layout.images[name])
    path = self.layout.masks.get(name)
    if path is not None:
      sample = Sample(key, where, self._tree.where(path))
      if sample.attempt(self._read_window, sample, path, key):
        return sample
      if sample.faults:
        return sample
    whole = self._latest_mask(name)
    sample = dataclasses.replace(
      whole, name=key, faults=list(whole.faults), remarks=list(whole.remarks)
    )
    if whole.mask is not None:
      given = whole.mask_file, whole.mask.shape[:2], self._tiles.sizes[name]
      sample.attempt(checks.check_mask_size, *given)
    if sample.faults:
      return dataclasses.replace(sample, mask=None, label=None)
    if whole.mask is not None:
      sample.mask = whole.mask[rows, columns]
    if whole.label is not None:
      sample.label = whole.label[rows, columns].copy()
    return sample

  def _read_window(self, sample: Sample, path: str, key: str) -> bool:
    """Reads the mask of a tile into `sample`; False if it is to be read as a
    whole.

    Raises:
      BadExample: it cannot be read, or has another size than its image.
    """
    name, rows, columns = self._tiles.tiles[key]
    with mask_windows.opened(self._tree, path, self._nodata) as windows:
      if windows is None:
        return False
      size = self._tiles.sizes[name]
      checks.check_mask_size(sample.mask_file, windows.size, size)
      mask = windows.read(rows, columns)
    sample.mask = _pixels(mask)
    if self._classes:
      label = self._classes.labels_of(sample.mask_file, mask)
      sample.label = _ignoring(label, self.info)
    return True

  def _read_tile(self, key: str) -> Sample:
    sample = self._mask_of_tile(key)
    picture = sample.attempt(self._tiles.read, key)
    if picture is not None:
      picture = sample.attempt(self._bands.check, sample.image_file, picture)
    take_bands(sample, picture, self._bands, self.info)
    if sample.label is not None and self.info.ignore_label is not None:
      file, ignored = sample.image_file, preprocess.IGNORE
      if remark := self._tiling.left_out(file, key, sample.label, ignored):
        sample.remarks.append(remark)
        sample.left_out = True
    return sample

  def read(self, split: str, index: int) -> Sample:
    if self._tiles:
      return self._read_tile(self._tiles.splits[split][index])
    name = self.layout.splits[split][index]
    image_path = self.layout.images[name]
    sample = Sample(name, self._tree.where(image_path), "")
    mask_path = sample.attempt(self.layout.mask_of, self._tree, name)
    mask = b""
    if mask_path:
      sample.mask_file = self._tree.where(mask_path)
      mask = self._read_mask(sample, mask_path)
    image = self._read_image(sample, image_path)
    places = map(headers.read_place, (mask, image))
    sample.attempt(checks.check_mask_place, sample.mask_file, *places)
    return sample

  def _read_mask(self, sample: Sample, path: str) -> bytes:
    """Reads the mask `path` into `sample`; gives the contents of its file."""
    encoded = sample.attempt(self._tree.read, path)
    if encoded is None:
      return b""
    file = sample.mask_file
    sample.remarks += checks.mask_remarks(file, encoded)
    mask = sample.attempt(masks.decode, file, encoded, self._nodata)
    if mask is None:
      return encoded
    sample.mask = _pixels(mask)
    if self._classes:
      if drawn := self._export.drawings.get(file):
        sample.remarks += report.remarks(drawn, self._classes.names)
      sample.label = sample.attempt(self._classes.labels_of, file, mask)
      if sample.label is not None:
        sample.label = _ignoring(sample.label, self.info)
    return encoded

  def _read_image(self, sample: Sample, path: str) -> bytes:
    """Reads the image `path` into `sample`; gives the contents of its file."""
    encoded = sample.attempt(self._tree.read, path)
    if encoded is None:
      return b""
    if self._bands and not self._bands.keeps_file(encoded):
      picture = sample.attempt(self._bands.read, sample.image_file, encoded)
      take_bands(sample, picture, self._bands, self.info)
      return encoded
    remarks = list(checks.remarks(sample.image_file, encoded))
    plain = checks.quiet(encoded)
    if sample.attempt(checks.image_size, sample.image_file, plain):
      sample.remarks += remarks
      if sample.mask is not None:
        plain = checks.upright(plain, sample.mask.shape[:2])
      sample.image = preprocess.decode_image(plain)
    return encoded

  def _find_classes(self) -> folder_classes.FolderClasses | None:
    used = self.layout.used_masks()
    try:
      classes = folder_classes.find(
        self._tree,
        used,
        self._nodata,
        self.faults.append,
        self._export.listed,
        by_windows=self._tiles is not None,
      )
    except BadExample as fault:
      self.faults.append(fault)
      return None
    found = self._tree, self.layout, classes
    self.faults += folder_checks.faults(*found)
    self.remarks += folder_checks.remarks(*found)
    return classes

  def _info(self, classes: folder_classes.FolderClasses) -> DatasetInfo:
    return dataclasses.replace(
      datasets.DATASETS["folder"],
      channels=self._bands.channels if self._bands else 3,
      image_dtype=(self._bands and self._bands.dtype) or "uint8",
      class_names=classes.names,
      colors=classes.colors,
      ignore_label=classes.ignore_label,
    )


def find_bands(
  tree: Tree,
  layout: folder_layout.Layout,
  channels: int,
  asked_range: tuple = (),
  tiles: Tiles | None = None,
) -> FolderBands:
  """The channels of a folder's pictures, with the range that is asked for."""
  found = folder_bands.find(tree, layout, channels, tiles)
  if asked_range:
    asked = value_range(asked_range, channels)
    found = dataclasses.replace(found, value_range=asked)
  return found


def take_bands(
  sample: Sample,
  picture: Picture | None,
  found: FolderBands,
  info: DatasetInfo | None,
) -> None:
  """Puts a picture, if it could be read, into `sample`: with its range of
  values brought to 0..255, its no-data ignored."""
  if picture is None:
    return
  file = sample.image_file
  sample.remarks += found.remarks(file, picture)
  sample.image = visualize.to_8_bits(picture.pixels, found.value_range)
  unknown, label = picture.unknown, sample.label
  ignores = info is not None and info.ignore_label is not None
  if ignores and unknown is not None and np.shape(label)[:2] == unknown.shape:
    label[unknown] = preprocess.IGNORE


class RecordSamples:
  """The records of a prepared data set."""

  def __init__(self, dataset: Dataset):
    """Opens both splits of `dataset`, which has masks.

    Raises:
      ValueError: a split is not there.
    """
    self.info = dataset.info
    self.faults: list[BadExample] = []
    self.remarks: list[Remark] = []
    self._sources = dict(zip(SPLITS, (dataset.train, dataset.eval)))

  def names(self, split: str) -> range:
    return range(len(self._sources[split]))

  def read(self, split: str, index: int) -> Sample:
    source = self._sources[split]
    record = source.encoded(index)
    sample = Sample(record["name"], record["name"], record["name"])
    sample.remarks += checks.remarks(record["name"], record["image"])
    example = source[index]
    image, label = example["image"], example["label"]
    sample.image = visualize.to_8_bits(image, self.info.value_range)
    if not self.info.multilabel:
      sample.mask = label
    sample.label = _ignoring(label, self.info)
    return sample


def _pixels(mask: Mask) -> np.ndarray:
  if mask.unknown is None:
    return mask.pixels
  known = mask.pixels.astype(np.int64)
  known[mask.unknown] = preprocess.IGNORE
  return known


def _ignoring(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
  """`label` with `preprocess.IGNORE` where the data set ignores pixels."""
  if info.ignore_label is None:
    return label
  return np.where(label == info.ignore_label, preprocess.IGNORE, label).astype(
    np.uint8
  )
