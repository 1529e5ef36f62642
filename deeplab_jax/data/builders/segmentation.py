"""The base of the builders of segmentation data sets."""

import abc
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from deeplab_jax.data.builders import checks, masks
from deeplab_jax.data.builders.base import Builder, Record
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.messages import printable


@dataclasses.dataclass(frozen=True)
class Example:
  """One image with its labels, as a builder reads it.

  Attributes:
    image_file: where the image came from, for messages.
    image: the encoded image.
    mask_file: where the mask came from, for messages.
    mask: (h, w) train ids, any integer dtype; None = nothing is labelled.
    source: the image as its file has it, where `image` is not that.
    size: height and width of an image that `data.bands` stores; None of others,
      which are decoded to be checked.
  """

  image_file: str
  image: bytes
  mask_file: str = ""
  mask: np.ndarray | None = None
  source: bytes = b""
  size: tuple[int, int] | None = None


class SegmentationBuilder(Builder, skip_registration=True):
  """Records of an encoded image, its labels as an 8-bit PNG, and a name."""

  @property
  def features(self) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(),
        "label": tfds.features.Image(shape=(None, None, 1)),
        "name": tfds.features.Text(),
      }
    )

  @abc.abstractmethod
  def read(self, split: str, key: Any) -> Example | None:
    """Reads the example `key`, its name, of `split`; None leaves it out."""

  def encode(self, split: str, key: Any) -> tuple[Record, tuple] | None:
    example = self.read(split, key)
    if example is None:
      return None
    image, size = example.image, example.size
    if size is None:
      image = checks.quiet(image)
      size = checks.image_size(example.image_file, image)
    mask = example.mask
    if mask is None:
      mask = np.full(size, self.dataset.ignore_label)
    label = self.encode_mask(example.mask_file, mask, size)
    if example.size is None:
      source = example.source or example.image
      self.remarks.extend(checks.remarks(example.image_file, source))
    name = printable(key)
    return {"image": image, "label": label, "name": name}, size

  def encode_mask(
    self, file: str, mask: np.ndarray, size: tuple[int, int]
  ) -> bytes:
    """The PNG of a mask, which is checked against the size of its image."""
    checks.check_pair(file, mask, size, self.dataset)
    return masks.encode(mask)


def read_pair(tree: Tree, image: str, mask: str) -> Example:
  """The example of an image file and an indexed or grey mask file."""
  return Example(
    tree.where(image),
    tree.read(image),
    tree.where(mask),
    masks.read_labels(tree.where(mask), tree.read(mask)),
  )
