"""PASCAL VOC 2012 segmentation, with the extra masks of SBD.

`train_aug` (train + sbd, 10582 images) is VOC's train split and every image of
SBD (B. Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011)
that is in neither VOC's train nor its val split. VOC's own masks win: SBD's are
used only for images that VOC does not label.
"""

import io
from collections.abc import Collection

import numpy as np
import scipy.io

from deeplab_jax.data.builders import voc_layout
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree

_VOC = Archive(
  file="VOCtrainval_11-May-2012.tar",
  # The page of the challenge gives http; this is the same group's host.
  url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/"
  "VOCtrainval_11-May-2012.tar",
  # As TFDS has it, url_checksums/voc.txt.
  checksum="sha256:"
  "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
_VOC_TEST = Archive(
  file="VOC2012test.tar",
  url="http://host.robots.ox.ac.uk:8080/eval/downloads/VOC2012test.tar",
  checksum="sha256:"
  "f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
  login=True,
)
_SBD = Archive(
  file="benchmark.tgz",
  url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
  "semantic_contours/benchmark.tgz",
  # As torchvision has it, prototype/datasets/_builtin/sbd.py.
  checksum="sha256:"
  "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
)
_SBD_MASKS = "dataset/cls"


class Voc2012(SegmentationBuilder, skip_registration=True):
  """Splits train, val, sbd and, if VOC2012test.tar is there, test."""

  name = "voc2012"

  def open(self) -> dict[str, list]:
    self._voc = self.find(_VOC, voc_layout.MARKER)
    self._sbd = self.find(_SBD, _SBD_MASKS, required=not self.partial)
    test_list = f"{voc_layout.MARKER}/test.txt"
    self._test = self.find(_VOC_TEST, test_list, required=False)
    train, val = (voc_layout.names(self._voc, s) for s in ("train", "val"))
    sbd = self._sbd.stems(_SBD_MASKS, ".mat") if self._sbd else []
    return {
      "train": train,
      "val": val,
      "sbd": sbd_only(sbd, train, val),
      "test": voc_layout.names(self._test, "test") if self._test else [],
    }

  def read(self, split: str, key: str) -> Example:
    if split in ("train", "val"):
      return voc_layout.read(self._voc, key)
    tree = self._test if split == "test" else self._voc
    image = voc_layout.image_file(key)
    image_file, encoded = tree.where(image), tree.read(image)
    if split == "test":
      return Example(image_file, encoded)
    mask = f"{_SBD_MASKS}/{key}.mat"
    mask_file = self._sbd.where(mask)
    return Example(image_file, encoded, mask_file, _sbd_labels(self._sbd, mask))


def sbd_only(
  sbd: Collection[str], train: Collection[str], val: Collection[str]
) -> list[str]:
  """Names of SBD's images that VOC does not label, sorted."""
  return sorted(set(sbd) - set(train) - set(val))


def _sbd_labels(tree: Tree, path: str) -> np.ndarray:
  """Labels (h, w) of 0..20 in SBD's MATLAB struct GTcls."""
  encoded = tree.read(path)
  try:
    contents = scipy.io.loadmat(io.BytesIO(encoded))
    return np.asarray(contents["GTcls"]["Segmentation"][0, 0])
  except Exception as error:  # whatever SciPy makes of broken bytes
    raise BadExample(
      tree.where(path),
      "undecodable",
      f"must hold GTcls.Segmentation ({error!r})",
    ) from error
