"""What is wrong, or may be, with a folder's classes and splits as a whole.

All is counted before anything is built, so it costs nothing to say it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from deeplab_jax.data import headers
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.builders.folder_classes import FILES, FolderClasses
from deeplab_jax.data.builders.folder_layout import Layout
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE

_SHOWN = 10  # names that a message lists
_NEAR = 12  # of 0..255, in every channel: colours that look the same
# Files that are called as lists of classes, of images, or of both.
_LIKE_LISTS = re.compile(
  r"([^/]*/)?(class(es)?|labels?|names|categories|palette|colou?rs?|(class|label"
  r"|colou?r)e?s?[ _-]?(names?|list|dict|map|colou?rs?)|train(ing)?"
  r"|val(id|idation)?|dev|eval|splits?|(?P<test>test))"
  r"\.(txt|lst|csv|tsv|json|ya?ml)",
  re.IGNORECASE,
)


def faults(
  tree: Tree, layout: Layout, classes: FolderClasses, skip_bad: bool = False
) -> Iterator[BadExample]:
  """Labels from which nothing can be learnt, or which mean something else.

  None where masks have faults of their own, which come first, unless `skip_bad`
  leaves these out.
  """
  if set(layout.used_masks()) - classes.counts.keys() and not skip_bad:
    return
  counts = _by_split(layout, classes)
  pixels = sum(counts.values())
  listed = classes.listed
  absent = _absent(classes, pixels)
  if listed and not listed.says_ignored and absent and classes.ignores_pixels:
    yield BadExample(
      listed.file,
      "absent-while-ignored",
      f"every class listed must occur where pixels are {IGNORE}, got no pixel "
      f"of {_names(classes, absent)}",
    )
  yield from _mixed(tree, layout, classes)
  yield from _near_colours(tree, layout, classes)
  present = np.flatnonzero(_labelled(classes, pixels)).tolist()
  if len(present) == 1:
    name = _names(classes, present)
    for path in layout.used_masks():
      yield BadExample(
        tree.where(path),
        "one-class",
        f"masks must have two classes or more, got only {name} in all",
      )
  for split, of_split in counts.items():
    if of_split.any() and not _labelled(classes, of_split).any():
      yield BadExample(
        tree.origin, "split-all-ignored", f"no pixel of {split} is labelled"
      )


def _mixed(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[BadExample]:
  """Masks of 0 and 255 beside such of 0 and 1, with which 255 is ignored."""
  says_ignored = classes.listed is not None and classes.listed.says_ignored
  by_number = classes.ignores_pixels and not classes.by_color
  if len(classes.names) != 2 or not by_number or says_ignored:
    return
  counts = {p: classes.counts.get(p) for p in layout.used_masks()}
  known = {path: c for path, c in counts.items() if c is not None and c[0]}
  ones = [path for path, c in known.items() if c[1]]
  white = [path for path, c in known.items() if c[IGNORE]]
  if not ones or set(ones) & set(white):
    return
  for path in white:
    yield BadExample(
      tree.where(path),
      "mixed-masks",
      f"masks must write {classes.names[1]} alike, got 255, and 1 in "
      f"{tree.where(ones[0])}; if 255 is to be ignored, say so with "
      "ignore_label: 255 in classes.yaml",
    )


def _near_colours(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[BadExample]:
  """Classes made of colours as compression or rounding makes them."""
  if not classes.infers_colors:
    return
  colors = np.array(classes.colors, int)
  apart = np.abs(colors[:, None] - colors).max(-1)
  pairs = np.argwhere(np.triu(apart <= _NEAR, 1)).tolist()
  labels = sorted({label for pair in pairs for label in pair})
  for path in layout.used_masks():
    if path in classes.counts and classes.counts[path][labels].any():
      yield BadExample(
        tree.where(path),
        "near-colours",
        f"colours of classes must differ by more than {_NEAR} of 0..255, got "
        f"{len(pairs)} pairs that do not, such as "
        f"{_names(classes, pairs[0])}",
      )


def _unread_lists(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[Remark]:
  """Files that may be meant as lists, but have another name or place."""
  read = {"train.txt", "val.txt"}
  if classes.listed:
    read.update([name for name in FILES if name in tree][:1])
  for path in tree.stems("", ""):
    found = _LIKE_LISTS.fullmatch(path)
    if found and path not in read and not (found["test"] and layout.listed):
      yield Remark("unread-lists", tree.where(path), "")


def remarks(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[Remark]:
  """What may be meant, and is to be said."""
  yield from classes.remarks
  yield from _unread_lists(tree, layout, classes)
  for path in layout.unread:
    yield Remark("unread-files", tree.where(path), "")
  if layout.like_splits:
    yield Remark("split-folders", "", ", ".join(layout.like_splits))
  if classes.infers_colors:
    yield Remark("colour-classes", "", f"{len(classes.names)} colours")
  counts = _by_split(layout, classes)
  absent = _absent(classes, sum(counts.values()))
  if absent and len(absent) < len(classes.names):
    code = "class-absent" if classes.listed else "gaps-in-ids"
    yield Remark(code, "", _names(classes, absent))
  for split, other in (("train", "val"), ("val", "train")):
    gone = _labelled(classes, counts[split]) == 0
    gone &= _labelled(classes, counts[other]) > 0
    if gone.any() and counts[split].any():
      names = _names(classes, np.flatnonzero(gone).tolist())
      yield Remark(f"class-missing-in-{split}", "", names)
  yield from _ignored(tree, layout, classes)
  for name in layout.unlisted():
    yield Remark("unlisted-images", tree.where(layout.images[name]), "")
  for name, file in layout.matched.items():
    other = tree.where(layout.images[name])
    yield Remark("matched-names", tree.where(file), f"with {other}")


def beside(tree: Tree, layout: Layout) -> Iterator[Remark]:
  """Files beside TIFFs that say where nothing is known, as GDAL writes them.

  They are read where rasters are cut into tiles, and not otherwise.
  """
  for path in layout.images.values():
    if not path.lower().endswith((".tif", ".tiff")):
      continue
    mask, facts = f"{path}.msk", f"{path}.aux.xml"
    if mask in tree:
      yield Remark("nodata-beside", tree.where(mask), "")
    if facts in tree and b"<NoDataValue" in tree.read(facts):
      header = headers.read_place(tree.read(path))
      if header and header.nodata is None:
        yield Remark("nodata-beside", tree.where(facts), "")


def _ignored(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[Remark]:
  """Masks without a labelled pixel; all, where most pixels are ignored."""
  of_all = np.zeros(2, np.int64)
  for path in layout.used_masks():
    if path in classes.counts:
      labelled = _labelled(classes, classes.counts[path]).sum()
      of_all += labelled, classes.counts[path].sum() - labelled
      if not labelled:
        yield Remark("all-ignored", tree.where(path), "")
  if of_all[1] > of_all[0]:
    share = of_all[1] / of_all.sum()
    yield Remark("mostly-ignored", "", f"{share:.0%} of the pixels")


def _by_split(layout: Layout, classes: FolderClasses) -> dict[str, np.ndarray]:
  """Pixels (256,) of each label, by split."""
  return {
    split: sum(
      (
        classes.counts[layout.masks[name]]
        for name in names
        if layout.masks.get(name) in classes.counts
      ),
      np.zeros(256, np.int64),
    )
    for split, names in layout.splits.items()
  }


def _labelled(classes: FolderClasses, pixels: np.ndarray) -> np.ndarray:
  """`pixels` (num_classes,) of the classes, 0 of an ignored one."""
  labelled = pixels[: len(classes.names)].copy()
  if classes.ignore_label is not None:
    labelled[classes.ignore_label : classes.ignore_label + 1] = 0
  return labelled


def _absent(classes: FolderClasses, pixels: np.ndarray) -> list[int]:
  """Labels of the classes without a pixel, but for an ignored one."""
  absent = np.flatnonzero(_labelled(classes, pixels) == 0).tolist()
  return [label for label in absent if label != classes.ignore_label]


def _names(classes: FolderClasses, labels: Sequence[int]) -> str:
  names = ", ".join(f"{classes.names[v]} ({v})" for v in labels[:_SHOWN])
  return names + (", ..." if labels[_SHOWN:] else "")
