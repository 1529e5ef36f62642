"""Which files of a user's folder are masks of overlapping classes.

Images and splits are those of `folder_layout`. Of the image NAME the masks are
one file of all classes, whose channels, pages or last axis they are:

    masks/NAME.png   masks/NAME.tif   masks/NAME.npy

or a file for each class, in any of these ways:

    masks/CLASS/NAME.png   masks/NAME/CLASS.png   masks/NAME_CLASS.png

NAME may have folders above it, such as train/ and val/, before or behind CLASS.
"""

import collections
import dataclasses
import functools
import unicodedata
from collections.abc import Iterator

from deeplab_jax.data.builders import folder_layout
from deeplab_jax.data.builders.faults import BadExample, Report, refuse
from deeplab_jax.data.builders.trees import File, Tree
from deeplab_jax.messages import printable

ALL = ""
"""Stands for the class of a file that has all of them."""

_LAYOUTS = (
  ("images", "masks"),
  ("JPEGImages", "SegmentationClass"),
  ("img_dir", "ann_dir"),
)
_MASKS = (*folder_layout.SUFFIXES, ".npy")
_BETWEEN = ("_", "-", ".", " ")  # of NAME and CLASS


@dataclasses.dataclass(frozen=True)
class ChannelLayout:
  """The files of a folder.

  Attributes:
    layout: images and splits; its masks are the first file of each image.
    files: of each image, by class; or its only one, by `ALL`.
    patterns: how many files are named in each way.
  """

  layout: folder_layout.Layout
  files: dict[str, dict[str, str]]
  patterns: dict[str, int]

  @property
  def is_by_class(self) -> bool:
    """Whether there is a file for each class."""
    return not any(ALL in files for files in self.files.values())

  def used(self) -> Iterator[tuple[str, str, str]]:
    """Image, class and path of all files of the splits."""
    names = {n for split in self.layout.splits.values() for n in split}
    for name in sorted(names & self.files.keys()):
      for class_name, path in self.files[name].items():
        yield name, class_name, path


def find(
  tree: Tree,
  report: Report = refuse,
  image_suffixes: tuple[str, ...] = folder_layout.SUFFIXES,
) -> ChannelLayout:
  """The layout of the folder `tree`.

  Args:
    tree: the user's files.
    report: gets each fault; what it concerns is left out if it returns.
    image_suffixes: of the files that are images.

  Raises:
    BadExample: there are no images, or no masks; or some files have all classes
      and others one.
  """
  if tree.chosen:
    raise BadExample(
      tree.where(tree.chosen),
      "no-layout",
      "a json given as data.path is not for classes that overlap (task "
      "multilabel); give the folder of images and masks",
    )
  images, masks = _folders(tree)
  names = {
    _composed(path.rpartition(".")[0])
    for path in _with_suffix(tree, images, image_suffixes)
  }
  files: dict[str, dict[str, str]] = collections.defaultdict(dict)
  patterns = collections.Counter()
  for path in _with_suffix(tree, masks, _MASKS):
    match = _match(_composed(path.rpartition(".")[0]), names)
    where = f"{masks}/{path}"
    if match is None:
      report(_without_image(tree, where, images))
      continue
    name, class_name, pattern = match
    if class_name in files[name]:
      report(_duplicate(tree, where, files[name][class_name]))
    files[name][class_name] = where
    patterns[f"{masks}/{pattern}"] += 1
  if not files:
    raise BadExample(
      tree.where(masks),
      "no-layout",
      "must have masks NAME.png, CLASS/NAME.png, NAME/CLASS.png or "
      f"NAME_CLASS.png of the images NAME in {images}/, got none",
    )
  _check_one_kind(tree, files)
  usual = _as_usual(tree, images, masks, files)
  layout = folder_layout.find(usual, report, image_suffixes)
  return ChannelLayout(layout, dict(files), dict(patterns))


def _folders(tree: Tree) -> tuple[str, str]:
  """The folders of images and masks that are there."""
  for images, masks in _LAYOUTS:
    if tree.stems(images, "") and tree.stems(masks, ""):
      return images, masks
  raise BadExample(
    tree.origin,
    "no-layout",
    "must have images/ and masks/, or JPEGImages/ and SegmentationClass/, got "
    "none of them",
  )


def _with_suffix(
  tree: Tree, folder: str, suffixes: tuple[str, ...]
) -> Iterator[str]:
  """Paths below `folder`; hidden files are not meant."""
  for path in tree.stems(folder, ""):
    is_hidden = path.rsplit("/", 1)[-1].startswith(".")
    if path.lower().endswith(suffixes) and not is_hidden:
      yield path


def _match(path: str, names: set[str]) -> tuple[str, str, str] | None:
  """Image, class and pattern of a mask, by its path without suffix."""
  if path in names:
    return path, ALL, "NAME"
  parts = path.split("/")
  for i, part in enumerate(parts[:-1]):
    name = "/".join(parts[:i] + parts[i + 1 :])
    if name in names:
      return name, part, "CLASS/NAME"
  above, _, last = path.rpartition("/")
  if above in names:
    return above, last, "NAME/CLASS"
  for end in range(len(path) - 1, len(path) - len(last), -1):
    name, mark, class_name = path[:end], path[end], path[end + 1 :]
    if mark in _BETWEEN and name in names and class_name:
      return name, class_name, f"NAME{mark}CLASS"
  return None


def _composed(name: str) -> str:
  return unicodedata.normalize("NFC", name)


def _without_image(tree: Tree, path: str, images: str) -> BadExample:
  return BadExample(
    tree.where(path),
    "mask-without-image",
    f"a mask must be called after an image in {images}/, as NAME, CLASS/NAME, "
    "NAME/CLASS or NAME_CLASS, got none",
  )


def _duplicate(tree: Tree, path: str, other: str) -> BadExample:
  return BadExample(
    tree.where(path),
    "duplicate-name",
    f"an image must have one file of a class, got {printable(other)} as well",
  )


def _check_one_kind(tree: Tree, files: dict[str, dict[str, str]]) -> None:
  whole = [f[ALL] for f in files.values() if ALL in f]
  single = [p for f in files.values() for c, p in f.items() if c != ALL]
  if whole and single:
    fewer, other = sorted((whole, single), key=len)
    raise BadExample(
      tree.where(fewer[0]),
      "mixed-masks",
      "masks must be one file of all classes or one of each, got both, such as "
      f"{tree.where(other[0])}",
    )


def _as_usual(
  tree: Tree, images: str, masks: str, files: dict[str, dict[str, str]]
) -> Tree:
  """The folder as if every image with masks had one of its own name."""
  kept = {
    path: File(tree.where(path), functools.partial(tree.read, path))
    for path in tree.stems("", "")
    if not path.startswith(f"{masks}/")
  }
  for name, of_image in files.items():
    first = next(iter(of_image.values()))
    file = File(tree.where(first), functools.partial(tree.read, first))
    kept[f"{masks}/{name}.png"] = file
  return Tree(tree.origin, kept)
