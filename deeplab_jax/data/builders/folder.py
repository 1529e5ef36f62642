"""Any user's own folder of images and masks, without code.

`folder_layout` says which files belong together, `folder_classes` what the
classes are.
"""

import dataclasses

from deeplab_jax.data.builders import checks, folder_classes, folder_layout
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree


class Folder(SegmentationBuilder, skip_registration=True):
  """Keys are the paths of the images in their folder, without suffix."""

  name = "folder"

  def open(self) -> dict[str, list]:
    self._tree = Tree.open(self.manual_dir)
    self._layout = folder_layout.find(self._tree)
    self._classes = folder_classes.find(self._tree, self._layout.used_masks())
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
    labels = self._classes.labels_of(self._tree, mask)
    encoded = checks.upright(self._tree.read(image), labels.shape)
    return Example(
      self._tree.where(image), encoded, self._tree.where(mask), labels
    )
