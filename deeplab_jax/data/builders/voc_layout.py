"""The folder layout of PASCAL VOC's segmentation task, shared by data sets.

`JPEGImages/<name>.jpg`, `SegmentationClass/<name>.png` (indexed) and
`ImageSets/Segmentation/<split>.txt`, one name a line.
"""

from deeplab_jax.data.builders import checks
from deeplab_jax.data.builders.segmentation import Example
from deeplab_jax.data.builders.trees import Tree

MARKER = "ImageSets/Segmentation"


def names(tree: Tree, split: str) -> list[str]:
  """Names of the images of `split`, in the order of its list."""
  return tree.lines(f"{MARKER}/{split}.txt")


def read(tree: Tree, name: str) -> Example:
  """Image and labels of `name`."""
  image = f"JPEGImages/{name}.jpg"
  mask = f"SegmentationClass/{name}.png"
  return Example(
    tree.where(image),
    tree.read(image),
    tree.where(mask),
    checks.read_mask(tree.where(mask), tree.read(mask)),
  )
