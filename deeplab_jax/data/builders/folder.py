"""Any user's own folder of images and masks, without code.

`annotations.find` says what format it is in, `folder_layout` which files of one
of images and masks belong together, `folder_classes` what the classes are.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from deeplab_jax.data import bands, headers
from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.builders import (
  checks,
  folder_bands,
  folder_checks,
  folder_classes,
  folder_layout,
  mask_windows,
)
from deeplab_jax.data.builders.faults import BadExample, Remark, together
from deeplab_jax.data.builders.folder_bands import FolderBands
from deeplab_jax.data.builders.folder_tiles import Latest, Tiles
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.reading import AS_EVER, Reading


class Folder(SegmentationBuilder, skip_registration=True):
  """Keys are the paths of the images in their folder, without suffix."""

  name = "folder"

  def __init__(
    self,
    *,
    reading: Reading = AS_EVER,
    **kwargs: Any,
  ):
    self._nodata, self._channels = reading.nodata, reading.channels
    self._tiling, self._options = reading.tiling, reading.options
    self._bands: FolderBands | None = None
    self._tiles: Tiles | None = None
    self._latest_mask = Latest(self._labels)
    self._contents: list[tuple[str, str, bytes]] = []
    super().__init__(**kwargs)

  def open(self) -> dict[str, list]:
    files = Tree.open(self.manual_dir)
    faults: list[BadExample] = []
    try:
      suffixes = folder_layout.suffixes(self._channels)
      export = find.find(files, self._options, faults.append, suffixes)
      self._tree, self._layout = export.tree, export.layout
      if faults:
        faults += self._layout.without_masks(self._tree)
      self._classes = folder_classes.find(
        self._tree,
        self._layout.used_masks(),
        self._nodata,
        faults.append,
        export.listed,
        by_windows=self._tiling.side > 0 and self._tree.root is not None,
      )
      found = self._tree, self._layout, self._classes
      faults += folder_checks.faults(*found, self.skip_bad)
      if self.skip_bad:
        self.skipped += map(str, export.faults)
      else:
        faults += export.faults
    except BadExample as fault:  # after which one cannot go on
      faults.append(fault)
    if faults:
      raise together(faults)
    self.remarks.extend(export.remarks)
    self.remarks.extend(folder_checks.remarks(*found))
    self.said = report.lines(export, self._classes.names)
    self.dataset = dataclasses.replace(
      self.dataset,
      class_names=self._classes.names,
      colors=self._classes.colors,
      ignore_label=self._classes.ignore_label,
    )
    if self._tiling.side:
      what = self._tree, self._layout, self._channels, self._tiling
      self._tiles = Tiles(*what, faults.append)
      if faults and not self.skip_bad:
        raise together(faults)
      self.skipped += map(str, faults)
      faults.clear()
    else:
      self.remarks.extend(folder_checks.beside(self._tree, self._layout))
    self._find_bands()
    return self._tiles.splits if self._tiles else self._layout.splits

  def _find_bands(self) -> None:
    """Reads all pictures, where channels are asked for."""
    if not self._channels:
      return
    found = folder_bands.find(
      self._tree, self._layout, self._channels, self._tiles
    )
    self.said.extend(found.lines())
    self._bands = found
    if found.dtype:  # else every picture is bad, and says so
      self.dataset = dataclasses.replace(
        self.dataset,
        channels=found.channels,
        image_dtype=found.dtype,
        value_range=found.value_range,
      )

  def _labels(self, name: str) -> np.ndarray:
    """The labels of the whole image `name`."""
    mask = self._layout.mask_of(self._tree, name)
    file, encoded = self._tree.where(mask), self._tree.read(mask)
    self.remarks.extend(checks.mask_remarks(file, encoded))
    return self._classes.labels_of(file, self._classes.decode(file, encoded))

  def _labels_of_tile(self, key: str) -> np.ndarray:
    """The labels of a tile, of which only that part is read if it can be."""
    name, rows, columns = self._tiles.tiles[key]
    path = self._layout.mask_of(self._tree, name)
    file, size = self._tree.where(path), self._tiles.sizes[name]
    with mask_windows.opened(self._tree, path, self._nodata) as windows:
      if windows is not None:
        checks.check_mask_size(file, windows.size, size)
        return self._classes.labels_of(file, windows.read(rows, columns))
    whole = self._latest_mask(name)
    checks.check_mask_size(file, whole.shape, size)
    return whole[rows, columns]

  def _read_tile(self, key: str) -> Example | None:
    """A tile; None if too much of it is ignored."""
    name = self._tiles.tiles[key].raster
    where = self._tree.where(self._layout.images[name])
    file = self._tree.where(self._layout.mask_of(self._tree, name))
    picture = self._bands.check(where, self._tiles.read(key))
    self.remarks.extend(self._bands.remarks(where, picture))
    labels = self._labels_of_tile(key)
    ignored = self.dataset.ignore_label
    if picture.unknown is not None and ignored is not None:
      labels = np.where(picture.unknown, np.uint8(ignored), labels)
    if remark := self._tiling.left_out(where, key, labels, ignored):
      self.remarks.append(remark)
      return None
    size = picture.pixels.shape[:2]
    return Example(where, self._tiles.reference(key), file, labels, size=size)

  def read(self, split: str, key: str) -> Example | None:
    if self._tiles:
      return self._read_tile(key)
    mask = self._layout.mask_of(self._tree, key)
    file, encoded = self._tree.where(mask), self._tree.read(mask)
    decoded = self._classes.decode(file, encoded)
    labels = self._classes.labels_of(file, decoded)
    self.remarks.extend(checks.mask_remarks(file, encoded))
    return self._with_image(split, key, file, labels, encoded)

  def _with_image(
    self,
    split: str,
    key: str,
    file: str,
    labels: np.ndarray,
    mask: bytes = b"",
  ) -> Example:
    """The example of an image and the labels (h, w) or (h, w, classes) of its
    `mask`, the contents of `file` where this is one file."""
    image = self._layout.images[key]
    where, source = self._tree.where(image), self._tree.read(image)
    checks.check_mask_place(file, *map(headers.read_place, (mask, source)))
    self._contents.append((split, key, hashlib.sha256(source).digest()))
    if self._bands is None:
      encoded = checks.upright(source, labels.shape[:2])
      return Example(where, encoded, file, labels, source)
    picture = self._bands.read(where, source)
    self.remarks.extend(self._bands.remarks(where, picture))
    if self._bands.keeps_file(source):
      encoded = checks.upright(source, labels.shape[:2])
      return Example(where, encoded, file, labels, source)
    ignored, size = self.dataset.ignore_label, picture.pixels.shape[:2]
    fits = size == labels.shape[:2]  # else it is refused later
    if fits and picture.unknown is not None and ignored is not None:
      labels = labels.copy()
      labels[picture.unknown] = ignored
    return Example(where, bands.encode(picture.pixels), file, labels, size=size)

  def why_none(self) -> str:
    if self._tiles and not self.skipped:
      share = self._tiling.most_unknown
      return (
        f"more than {share:g} of each tile is ignored (data.tile_nodata, "
        "--tile_nodata of prepare)"
      )
    return super().why_none()

  def all_remarks(self) -> list[Remark]:
    left_out = [Remark("left-out", "", said) for said in self.skipped]
    return [*self.remarks, *left_out, *self._repetitions()]

  def _repetitions(self) -> Iterator[Remark]:
    """Images that are there more than once, byte by byte."""
    first: dict[str, dict[bytes, str]] = {s: {} for s in self._layout.splits}
    for split, key, digest in sorted(self._contents):
      if digest in first[split]:
        other = first[split][digest]
        yield self._repetition("repeated-images", key, other)
      first[split].setdefault(digest, key)
    if self._tiles and self._tiles.splits["train"] == self._tiles.splits["val"]:
      yield Remark("val-inside-train", "", "one raster, which is both")
      return
    train, val = first["train"], first["val"]
    shared = {key: train[d] for d, key in val.items() if d in train}
    if len(shared) == len(val) and all(k == v for k, v in shared.items()):
      if val and train:
        yield Remark("val-inside-train", "", f"{len(val)} images")
      return
    for key, other in shared.items():
      yield self._repetition("image-in-both-splits", key, other)

  def _repetition(self, code: str, key: str, other: str) -> Remark:
    file, other = (self._layout.images[name] for name in (key, other))
    return Remark(code, self._tree.where(file), f"as {self._tree.where(other)}")
