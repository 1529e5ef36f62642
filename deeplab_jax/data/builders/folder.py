"""Any user's own folder of images and masks, without code.

Either `images/` and `masks/`, or VOC's `JPEGImages/` and `SegmentationClass/`;
a mask has the path of its image, but for the suffix. Optional: `train.txt` and
`val.txt` (in the folder or in `ImageSets/Segmentation/`), a name a line, else a
tenth of the images is for validation; and what `folder_classes` reads.
"""

import dataclasses
import hashlib

from deeplab_jax.data.builders import checks, folder_classes
from deeplab_jax.data.builders.checks import BadExample
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.builders.voc_layout import MARKER

_LAYOUTS = (("images", "masks"), ("JPEGImages", "SegmentationClass"))
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SPLITS = ("train", "val")


class Folder(SegmentationBuilder, skip_registration=True):
  """Keys are the paths of the images in their folder, without suffix."""

  name = "folder"

  def open(self) -> dict[str, list]:
    self._tree = Tree.open(self.manual_dir)
    self._images, self._masks = _pairs(self._tree)
    splits = _splits(self._tree, list(self._images))
    used = {name for names in splits.values() for name in names}
    masks = [self._masks[name] for name in sorted(used & self._masks.keys())]
    self._classes = folder_classes.find(self._tree, masks)
    self.dataset = dataclasses.replace(
      self.dataset,
      class_names=self._classes.names,
      colors=self._classes.colors,
      ignore_label=self._classes.ignore_label,
    )
    return splits

  def read(self, split: str, key: str) -> Example:
    image = self._images[key]
    if key not in self._masks:
      raise BadExample(
        f"{self._tree.where(image)}: an image must have a mask of its name, "
        "got none; add it, or list the images to use in train.txt and val.txt"
      )
    mask = self._masks[key]
    labels = self._classes.labels_of(self._tree, mask)
    encoded = checks.upright(self._tree.read(image), labels.shape)
    return Example(
      self._tree.where(image), encoded, self._tree.where(mask), labels
    )


def _pairs(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
  """Files of the images and of the masks, by name."""
  for images, masks in _LAYOUTS:
    found = _by_name(tree, images), _by_name(tree, masks)
    if all(found):
      break
  else:
    raise ValueError(
      f"{tree.origin}: must have images/ and masks/, or JPEGImages/ and "
      f"SegmentationClass/, with files that end in {', '.join(_SUFFIXES)}"
    )
  lonely = sorted(found[1].keys() - found[0].keys())
  if lonely:
    raise ValueError(
      f"{tree.where(found[1][lonely[0]])}: a mask must have an image of its "
      f"name in {images}/, got none ({len(lonely)} such masks); add the image "
      "or remove the mask"
    )
  return found


def _by_name(tree: Tree, folder: str) -> dict[str, str]:
  files: dict[str, str] = {}
  for path in tree.stems(folder, ""):
    name, suffix = path.rsplit(".", 1) if "." in path else (path, "")
    if f".{suffix.lower()}" not in _SUFFIXES:
      continue
    if name in files:
      raise ValueError(
        f"{tree.where(f'{folder}/{path}')}: a name must have one file, got "
        f"{files[name]} as well; rename or remove one"
      )
    files[name] = f"{folder}/{path}"
  return files


def _splits(tree: Tree, names: list[str]) -> dict[str, list[str]]:
  """Names of train and val: as listed, else drawn by a hash of the name."""
  lists = {split: _listed(tree, split, names) for split in _SPLITS}
  if lists["train"] is None and lists["val"] is None:
    count = max(len(names) // 10, 1)
    lists["val"] = sorted(sorted(names, key=_hash)[:count])
  for split, other in (_SPLITS, _SPLITS[::-1]):
    if lists[split] is None:
      rest = sorted(set(names) - set(lists[other]))
      lists[split] = rest or list(lists[other])  # of a single image, both
  return lists


def _hash(name: str) -> str:
  return hashlib.sha256(name.encode()).hexdigest()


def _listed(tree: Tree, split: str, names: list[str]) -> list[str] | None:
  """Names in `<split>.txt`; None without such a file."""
  known = set(names)
  for path in (f"{split}.txt", f"{MARKER}/{split}.txt"):
    if path not in tree:
      continue
    listed = [_name(line) for line in tree.lines(path)]
    unknown = [name for name in listed if name not in known]
    if unknown or not listed:
      raise BadExample(
        f"{tree.where(path)}: must list images that are there, got "
        f"{unknown[0] if unknown else 'no line'}; correct the list"
      )
    return listed
  return None


def _name(line: str) -> str:
  """A line of a list is a name, with or without its suffix."""
  for suffix in _SUFFIXES:
    if line.lower().endswith(suffix):
      return line[: -len(suffix)]
  return line
