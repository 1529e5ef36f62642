"""What is wrong, or may be, with a folder's classes and splits as a whole.

All is counted before anything is built, so it costs nothing to say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.builders.folder_classes import FolderClasses
from deeplab_jax.data.builders.folder_layout import Layout
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE

_SHOWN = 10  # names that a message lists


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


def remarks(
  tree: Tree, layout: Layout, classes: FolderClasses
) -> Iterator[Remark]:
  """What may be meant, and is to be said."""
  yield from classes.remarks
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
  for name in layout.unlisted():
    yield Remark("unlisted-images", tree.where(layout.images[name]), "unused")
  train, val = map(set, (layout.splits["train"], layout.splits["val"]))
  if train != val:
    for name in sorted(train & val):
      yield Remark("listed-in-both", tree.where(layout.images[name]), "in both")
  for name, file in layout.matched.items():
    other = tree.where(layout.images[name])
    yield Remark("matched-names", tree.where(file), f"with {other}")


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
