"""ADE20K scene parsing, 150 classes and 0 = not labelled."""

from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.segmentation import (
  Example,
  SegmentationBuilder,
  read_pair,
)

_ARCHIVE = Archive(
  file="ADEChallengeData2016.zip",
  url="https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
  # As GluonCV has it, scripts/datasets/ade20k.py.
  checksum="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(SegmentationBuilder, skip_registration=True):
  """Reads `images/` and `annotations/` of ADEChallengeData2016."""

  name = "ade20k"

  def open(self) -> dict[str, list]:
    self._tree = self.find(_ARCHIVE, "annotations")
    return {
      split: self._tree.stems(f"annotations/{folder}", ".png")
      for split, folder in _FOLDERS.items()
    }

  def read(self, split: str, key: str) -> Example:
    folder = _FOLDERS[split]
    return read_pair(
      self._tree,
      f"images/{folder}/{key}.jpg",
      f"annotations/{folder}/{key}.png",
    )
