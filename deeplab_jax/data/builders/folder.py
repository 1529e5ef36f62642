"""Any user's own folder of images and masks, without code.

`folder_layout` says which files belong together, `folder_classes` what the
classes are.
"""

import dataclasses
from typing import Any

from deeplab_jax.data.builders import (
  checks,
  folder_checks,
  folder_classes,
  folder_layout,
)
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree


class Folder(SegmentationBuilder, skip_registration=True):
  """Keys are the paths of the images in their folder, without suffix."""

  name = "folder"

  def __init__(self, *, nodata: float | None = None, **kwargs: Any):
    self._nodata = nodata
    super().__init__(**kwargs)

  def open(self) -> dict[str, list]:
    self._tree = Tree.open(self.manual_dir)
    self._layout = folder_layout.find(self._tree)
    self._classes = folder_classes.find(
      self._tree, self._layout.used_masks(), self._nodata
    )
    found = self._tree, self._layout, self._classes
    for fault in folder_checks.faults(*found, self.skip_bad):
      raise fault
    self.remarks.extend(folder_checks.remarks(*found))
    self.dataset = dataclasses.replace(
      self.dataset,
      class_names=self._classes.names,
      colors=self._classes.colors,
      ignore_label=self._classes.ignore_label,
    )
    return self._layout.splits

  def read(self, split: str, key: str) -> Example:
    image = self._layout.images[key]
    mask = self._layout.mask_of(self._tree, key)
    file = self._tree.where(mask)
    decoded = self._classes.decode(file, self._tree.read(mask))
    labels = self._classes.labels_of(file, decoded)
    encoded = checks.upright(self._tree.read(image), labels.shape)
    return Example(self._tree.where(image), encoded, file, labels)
