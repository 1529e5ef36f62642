"""Which files of a user's folder are images, masks and lists of splits.

Either `images/` and `masks/`, or VOC's `JPEGImages/` and `SegmentationClass/`;
a mask has the path of its image, but for the suffix. Optional: `train.txt` and
`val.txt` (in the folder or in `ImageSets/Segmentation/`), a name a line, else a
tenth of the images is for validation.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable

from deeplab_jax.data.builders.checks import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.builders.voc_layout import MARKER

_LAYOUTS = (("images", "masks"), ("JPEGImages", "SegmentationClass"))
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SPLITS = ("train", "val")

Report = Callable[[BadExample], None]


def refuse(fault: BadExample) -> None:
  """Stops at the first fault."""
  raise fault


@dataclasses.dataclass(frozen=True)
class Layout:
  """The files, by the name that an image and its mask share.

  Attributes:
    images: path of each image.
    masks: path of each mask.
    splits: names of "train" and of "val".
    drawn: whether the splits were drawn, for want of lists.
  """

  images: dict[str, str]
  masks: dict[str, str]
  splits: dict[str, list[str]]
  drawn: bool

  def used_masks(self) -> list[str]:
    """Paths of the masks of all splits, sorted by name."""
    used = {name for names in self.splits.values() for name in names}
    return [self.masks[name] for name in sorted(used & self.masks.keys())]

  def mask_of(self, tree: Tree, name: str) -> str:
    """Path of the mask of image `name`.

    Raises:
      BadExample: there is none.
    """
    if name not in self.masks:
      raise BadExample(
        tree.where(self.images[name]),
        "image-without-mask",
        "an image must have a mask of its name, got none; add it, or list the "
        "images to use in train.txt and val.txt",
      )
    return self.masks[name]


def find(tree: Tree, report: Report = refuse) -> Layout:
  """The layout of the folder `tree`.

  Args:
    tree: the user's files.
    report: gets each fault; what it concerns is left out if it returns.

  Raises:
    BadExample: there are no images, or no masks.
  """
  images, masks = _pairs(tree, report)
  names = list(images)
  lists = {split: _listed(tree, split, names, report) for split in _SPLITS}
  drawn = lists["train"] is None and lists["val"] is None
  return Layout(images, masks, _splits(names, lists), drawn)


def _pairs(tree: Tree, report: Report) -> tuple[dict[str, str], dict[str, str]]:
  """Files of the images and of the masks, by name."""
  for images, masks in _LAYOUTS:
    found = _by_name(tree, images, report), _by_name(tree, masks, report)
    if all(found):
      break
  else:
    raise BadExample(
      tree.origin,
      "no-layout",
      "must have images/ and masks/, or JPEGImages/ and SegmentationClass/, "
      f"with files that end in {', '.join(_SUFFIXES)}, got {_contents(tree)}; "
      "rename the folders, convert the files, or give another data.path",
    )
  for name in sorted(found[1].keys() - found[0].keys()):
    report(
      BadExample(
        tree.where(found[1][name]),
        "mask-without-image",
        f"a mask must have an image of its name in {images}/, got none; add "
        "the image or remove the mask",
      )
    )
  return found


def _contents(tree: Tree) -> str:
  """What is there instead, such as "pictures/*.gif (12)"."""
  kinds = collections.Counter(
    f"{path.rpartition('/')[0] or '.'}/*.{path.rpartition('.')[2]}"
    for path in tree.stems("", "")
  )
  found = [f"{kind} ({count})" for kind, count in kinds.most_common(6)]
  return ", ".join(found) or "no file"


def _by_name(tree: Tree, folder: str, report: Report) -> dict[str, str]:
  files: dict[str, str] = {}
  for path in tree.stems(folder, ""):
    name, suffix = path.rsplit(".", 1) if "." in path else (path, "")
    is_hidden = path.rsplit("/", 1)[-1].startswith(".")  # as macOS leaves
    if is_hidden or f".{suffix.lower()}" not in _SUFFIXES:
      continue
    if name in files:
      report(
        BadExample(
          tree.where(f"{folder}/{path}"),
          "duplicate-name",
          f"a name must have one file, got {files[name]} as well; rename or "
          "remove one",
        )
      )
    files[name] = f"{folder}/{path}"
  return files


def _splits(
  names: list[str], lists: dict[str, list[str] | None]
) -> dict[str, list[str]]:
  """Names of train and val: as listed, else drawn by a hash of the name."""
  lists = dict(lists)
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


def _listed(
  tree: Tree, split: str, names: list[str], report: Report
) -> list[str] | None:
  """Names in `<split>.txt`; None without such a file."""
  known = set(names)
  for path in (f"{split}.txt", f"{MARKER}/{split}.txt"):
    if path in tree:
      try:
        listed = [_name(line) for line in tree.lines(path)]
      except BadExample as fault:
        report(fault)
        return None
      unknown = [name for name in listed if name not in known]
      for found in unknown or ([] if listed else ["no line"]):
        report(
          BadExample(
            tree.where(path),
            "wrong-list",
            f"must list images that are there, got {found}; correct the list",
          )
        )
      return [name for name in listed if name in known]
  return None


def _name(line: str) -> str:
  """A line of a list is a name, with or without its suffix."""
  for suffix in _SUFFIXES:
    if line.lower().endswith(suffix):
      return line[: -len(suffix)]
  return line
