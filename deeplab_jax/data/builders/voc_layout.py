"""The folder layout of PASCAL VOC's segmentation task, shared by data sets.

`JPEGImages/<name>.jpg`, `SegmentationClass/<name>.png` (indexed) and
`ImageSets/Segmentation/<split>.txt`, one name a line.
"""

from deeplab_jax.data.builders.segmentation import Example, read_pair
from deeplab_jax.data.builders.trees import Tree

MARKER = "ImageSets/Segmentation"


def names(tree: Tree, split: str) -> list[str]:
  """Names of the images of `split`, in the order of its list."""
  return tree.lines(f"{MARKER}/{split}.txt")


def image_file(name: str) -> str:
  return f"JPEGImages/{name}.jpg"


def read(tree: Tree, name: str) -> Example:
  """Image and labels of `name`."""
  return read_pair(tree, image_file(name), f"SegmentationClass/{name}.png")
