"""ImageNet (ILSVRC 2012), 1000 classes, for pretraining backbones.

Labels are 0..999 in the order of the sorted WordNet ids. From the two official
tar files, or from folders `train/<wnid>/` and `val/<wnid>/` (or `val/` with
the 50000 files as the tar has them, whose labels TFDS knows).
"""

import tensorflow_datasets as tfds

from deeplab_jax.data.builders import checks
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.data.builders.base import Builder, Record
from deeplab_jax.data.builders.faults import BadExample

_PAGE = "https://www.image-net.org/download-images.php"
_ARCHIVES = {  # Checksums as TFDS has them, imagenet2012/checksums.tsv.
  "train": Archive(
    file="ILSVRC2012_img_train.tar",
    url=_PAGE,
    folder="train",
    checksum="sha256:"
    "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
    login=True,
  ),
  "val": Archive(
    file="ILSVRC2012_img_val.tar",
    url=_PAGE,
    folder="val",
    checksum="sha256:"
    "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
    login=True,
  ),
}
_NUMBERED = "ILSVRC2012_val_"


class Imagenet2012(Builder, skip_registration=True):
  """Records of an encoded image, its label and a name."""

  name = "imagenet2012"

  @property
  def features(self) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=self.dataset.class_names),
        "name": tfds.features.Text(),
      }
    )

  def open(self) -> dict[str, list]:
    self._trees = {
      split: self.find(source, split, required=not self.partial)
      for split, source in _ARCHIVES.items()
    }
    self._labels = {
      wnid: label for label, wnid in enumerate(self.dataset.class_names)
    }
    numbered = tfds.core.tfds_path(
      "datasets/imagenet2012/validation_labels.txt"
    )
    self._numbered = numbered.read_text().split()
    return {
      split: tree.stems(split, ".JPEG")
      for split, tree in self._trees.items()
      if tree is not None
    }

  def encode(self, split: str, key: str) -> tuple[Record, tuple]:
    tree, path = self._trees[split], f"{split}/{key}.JPEG"
    image = tree.read(path)
    size = checks.image_size(tree.where(path), image)
    label = self._label(tree.where(path), key)
    return {"image": image, "label": label, "name": key}, size

  def _label(self, file: str, key: str) -> int:
    """Label of "<wnid>/<name>", or of "ILSVRC2012_val_<number>"."""
    if key.startswith(_NUMBERED):
      wnid = self._numbered[int(key.removeprefix(_NUMBERED)) - 1]
    else:
      wnid = key.split("/")[0]
    if wnid not in self._labels:
      raise BadExample(
        file,
        "unknown-class",
        "its folder must be one of the 1000 WordNet ids of ILSVRC 2012, got "
        f"{wnid}",
      )
    return self._labels[wnid]
