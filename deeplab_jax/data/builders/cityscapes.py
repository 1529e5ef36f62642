"""Cityscapes: fine and coarse masks, dataset ids mapped to the 19 train ids.

Fine: `train_fine`, `val_fine`, `test_fine` (images only). Coarse, where its
archives are given: `train_coarse` holds the coarse masks of the train and the
train_extra folder, `val_coarse` those of val.
"""

import dataclasses

from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.segmentation import (
  Example,
  SegmentationBuilder,
  read_pair,
)
from deeplab_jax.data.classes import CITYSCAPES_IDS, IGNORE

_PAGE = "https://www.cityscapes-dataset.com/downloads"


def _archive(name: str) -> Archive:
  return Archive(file=f"{name}.zip", url=_PAGE, login=True)


_IMAGES = _archive("leftImg8bit_trainvaltest")
_FINE = _archive("gtFine_trainvaltest")
_EXTRA_IMAGES = _archive("leftImg8bit_trainextra")
_COARSE = _archive("gtCoarse")

# Ids 0 to 33 occur in masks; those that are no class are ignored.
_TRAIN_IDS = dict.fromkeys(range(34), IGNORE) | {
  dataset_id: train_id for train_id, dataset_id in enumerate(CITYSCAPES_IDS)
}
_FOLDERS = {
  "train_fine": ("gtFine", ("train",)),
  "val_fine": ("gtFine", ("val",)),
  "test_fine": ("gtFine", ("test",)),
  "train_coarse": ("gtCoarse", ("train", "train_extra")),
  "val_coarse": ("gtCoarse", ("val",)),
}


class Cityscapes(SegmentationBuilder, skip_registration=True):
  """Keys are "<folder>/<city>/<frame>", as in the archives."""

  name = "cityscapes"

  def open(self) -> dict[str, list]:
    self._tree = self.find(_IMAGES, "leftImg8bit") | self.find(_FINE, "gtFine")
    for source, marker in (
      (_EXTRA_IMAGES, "leftImg8bit"),
      (_COARSE, "gtCoarse"),
    ):
      coarse = self.find(source, marker, required=False)
      if coarse is not None:
        self._tree |= coarse
    return {
      split: [
        f"{folder}/{frame}"
        for folder in folders
        for frame in self._tree.stems(
          f"{kind}/{folder}", f"_{kind}_labelIds.png"
        )
      ]
      for split, (kind, folders) in _FOLDERS.items()
    }

  def read(self, split: str, key: str) -> Example:
    kind, _ = _FOLDERS[split]
    image = f"leftImg8bit/{key}_leftImg8bit.png"
    if split == "test_fine":
      return Example(self._tree.where(image), self._tree.read(image))
    example = read_pair(self._tree, image, f"{kind}/{key}_{kind}_labelIds.png")
    mask = masks.remap(example.mask_file, example.mask, _TRAIN_IDS)
    return dataclasses.replace(example, mask=mask)
