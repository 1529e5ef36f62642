"""Any user's own folder of images and masks whose classes overlap.

`channel_layout` says which files belong together, `channel_classes` what the
classes are and what numbers of masks mean.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from deeplab_jax.data import headers
from deeplab_jax.data.builders import (
  channel_classes,
  channel_layout,
  channel_masks,
  checks,
  folder,
  folder_checks,
  folder_layout,
)
from deeplab_jax.data.builders.channel_classes import ChannelClasses
from deeplab_jax.data.builders.faults import BadExample, Remark, together
from deeplab_jax.data.builders.segmentation import Example
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import DATASETS, DatasetInfo


class FolderMultilabel(folder.Folder, skip_registration=True):
  """As `Folder`; a label has a plane for each class."""

  name = "folder"

  def open(self) -> dict[str, list]:
    self._tree = Tree.open(self.manual_dir)
    faults: list[BadExample] = []
    try:
      suffixes = folder_layout.suffixes(self._channels)
      layout = channel_layout.find(self._tree, faults.append, suffixes)
      faults += layout.layout.without_masks(self._tree)
      self._masks = channel_classes.find(
        self._tree, layout, self._nodata, faults.append
      )
      if not faults:
        faults += nothing_there(self._tree, self._masks)
    except BadExample as fault:  # after which one cannot go on
      faults.append(fault)
    if faults:
      raise together(faults)
    self._layout = layout.layout
    self.said = self._layout.lines()
    self.remarks.extend(remarks(self._tree, self._masks))
    self.dataset = info(self._masks)
    self._find_bands()
    return self._layout.splits

  def read(self, split: str, key: str) -> Example:
    file = self._tree.where(self._layout.mask_of(self._tree, key))
    labels = self._masks.read(self._tree, key)
    check_place(self._tree, self._masks, key)
    return self._with_image(split, key, file, labels)

  def encode_mask(
    self, file: str, mask: np.ndarray, size: tuple[int, int]
  ) -> bytes:
    check_size(file, mask, size)
    return channel_masks.encode(file, mask)


def info(classes: ChannelClasses) -> DatasetInfo:
  """Facts about the data set of these classes."""
  return dataclasses.replace(
    DATASETS["folder"],
    class_names=classes.names,
    colors=classes.colors,
    ignore_label=IGNORE,
    multilabel=True,
  )


def check_size(file: str, mask: np.ndarray, size: tuple[int, int]) -> None:
  """Refuses a mask (h, w, classes) of another size than its image."""
  if mask.shape[:2] != size:
    raise BadExample(
      file,
      "mask-size",
      f"a mask must have the size of its image, {size[1]}x{size[0]}, got "
      f"{mask.shape[1]}x{mask.shape[0]}",
    )


def check_place(tree: Tree, classes: ChannelClasses, name: str) -> None:
  """Refuses masks of the image `name` at another place on earth than it."""
  image = tree.read(classes.layout.layout.images[name])
  for path in classes.layout.files[name].values():
    if path.lower().endswith((".tif", ".tiff")):
      places = map(headers.read_place, (tree.read(path), image))
      checks.check_mask_place(tree.where(path), *places)


def by_split(classes: ChannelClasses) -> dict[str, np.ndarray]:
  """Pixels int64 (classes, 3) of each split: absent, present, ignored."""
  return {
    split: sum(
      map(classes.pixels, names), np.zeros((len(classes.names), 3), np.int64)
    )
    for split, names in classes.layout.layout.splits.items()
  }


def nothing_there(tree: Tree, classes: ChannelClasses) -> Iterator[BadExample]:
  """Training masks without any class, of which nothing can be learnt."""
  there = by_split(classes)
  if classes.counts and not there["train"][:, 1].any():
    yield BadExample(
      tree.origin,
      "nothing-there",
      "masks of train must have pixels of a class, got none",
    )


def remarks(tree: Tree, classes: ChannelClasses) -> Iterator[Remark]:
  """What may be meant, and is to be said."""
  yield from classes.remarks()
  layout, pixels = classes.layout.layout, by_split(classes)
  yield from folder_checks.beside(tree, layout)
  absent = sum(p[:, 1] for p in pixels.values()) == 0
  if absent.any():
    yield Remark("class-absent", "", _names(classes, absent))
  for split, other in (("train", "val"), ("val", "train")):
    gone = (pixels[split][:, 1] == 0) & (pixels[other][:, 1] > 0)
    if gone.any():
      yield Remark(f"class-missing-in-{split}", "", _names(classes, gone))
  if layout.like_splits:
    yield Remark("split-folders", "", ", ".join(layout.like_splits))
  for name in layout.unlisted():
    yield Remark("unlisted-images", tree.where(layout.images[name]), "")


def _names(classes: ChannelClasses, chosen: np.ndarray) -> str:
  return ", ".join(n for n, is_one in zip(classes.names, chosen) if is_one)
