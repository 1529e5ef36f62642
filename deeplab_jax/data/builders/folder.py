"""Any user's own folder of images and masks, without code.

`annotations.find` says what format it is in, `folder_layout` which files of one
of images and masks belong together, `folder_classes` what the classes are.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from deeplab_jax.data.annotations import find, report
from deeplab_jax.data.annotations.options import DEFAULT, Options
from deeplab_jax.data.builders import checks, folder_checks, folder_classes
from deeplab_jax.data.builders.faults import BadExample, Remark, together
from deeplab_jax.data.builders.segmentation import Example, SegmentationBuilder
from deeplab_jax.data.builders.trees import Tree


class Folder(SegmentationBuilder, skip_registration=True):
  """Keys are the paths of the images in their folder, without suffix."""

  name = "folder"

  def __init__(
    self,
    *,
    nodata: float | None = None,
    options: Options = DEFAULT,
    **kwargs: Any,
  ):
    self._nodata, self._options = nodata, options
    self._contents: list[tuple[str, str, bytes]] = []
    super().__init__(**kwargs)

  def open(self) -> dict[str, list]:
    files = Tree.open(self.manual_dir)
    faults: list[BadExample] = []
    try:
      export = find.find(files, self._options, faults.append)
      self._tree, self._layout = export.tree, export.layout
      if faults:
        faults += self._layout.without_masks(self._tree)
      self._classes = folder_classes.find(
        self._tree,
        self._layout.used_masks(),
        self._nodata,
        faults.append,
        export.listed,
      )
      found = self._tree, self._layout, self._classes
      faults += folder_checks.faults(*found, self.skip_bad)
      if self.skip_bad:
        self.skipped += map(str, export.faults)
      else:
        faults += export.faults
    except BadExample as fault:  # after which one cannot go on
      faults.append(fault)
    if faults:
      raise together(faults)
    self.remarks.extend(export.remarks)
    self.remarks.extend(folder_checks.remarks(*found))
    self.said = report.lines(export, self._classes.names)
    self.dataset = dataclasses.replace(
      self.dataset,
      class_names=self._classes.names,
      colors=self._classes.colors,
      ignore_label=self._classes.ignore_label,
    )
    return self._layout.splits

  def read(self, split: str, key: str) -> Example:
    image = self._layout.images[key]
    mask = self._layout.mask_of(self._tree, key)
    file = self._tree.where(mask)
    decoded = self._classes.decode(file, self._tree.read(mask))
    labels = self._classes.labels_of(file, decoded)
    source = self._tree.read(image)
    self._contents.append((split, key, hashlib.sha256(source).digest()))
    self.remarks.extend(checks.mask_remarks(file, self._tree.read(mask)))
    encoded = checks.upright(source, labels.shape)
    return Example(self._tree.where(image), encoded, file, labels, source)

  def all_remarks(self) -> list[Remark]:
    left_out = [Remark("left-out", "", said) for said in self.skipped]
    return [*self.remarks, *left_out, *self._repetitions()]

  def _repetitions(self) -> Iterator[Remark]:
    """Images that are there more than once, byte by byte."""
    first: dict[str, dict[bytes, str]] = {s: {} for s in self._layout.splits}
    for split, key, digest in sorted(self._contents):
      if digest in first[split]:
        other = first[split][digest]
        yield self._repetition("repeated-images", key, other)
      first[split].setdefault(digest, key)
    train, val = first["train"], first["val"]
    shared = {key: train[d] for d, key in val.items() if d in train}
    if len(shared) == len(val) and all(k == v for k, v in shared.items()):
      if val and train:
        yield Remark("val-inside-train", "", f"{len(val)} images")
      return
    for key, other in shared.items():
      yield self._repetition("image-in-both-splits", key, other)

  def _repetition(self, code: str, key: str, other: str) -> Remark:
    file, other = (self._layout.images[name] for name in (key, other))
    return Remark(code, self._tree.where(file), f"as {self._tree.where(other)}")
