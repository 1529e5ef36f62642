"""Which format a folder is in, by what its files hold, and what it holds."""

from __future__ import annotations

import dataclasses
from types import ModuleType

from deeplab_jax.data.annotations import (
  coco,
  cvat,
  label_studio,
  labelme,
  others,
  panoptic,
  parquet,
  roboflow,
  supervisely,
  yolo,
)
from deeplab_jax.data.annotations.export import Export, blank
from deeplab_jax.data.annotations.files import Files
from deeplab_jax.data.annotations.options import DEFAULT, Options
from deeplab_jax.data.builders import folder_layout
from deeplab_jax.data.builders.faults import BadExample, Report, refuse
from deeplab_jax.data.builders.trees import Tree

Suffixes = tuple[str, ...]

_MASKS = "masks"
_MOST_AROUND = 4  # folders around all others, less 1: VOCdevkit/VOC2012
_READERS: dict[str, ModuleType] = {
  "coco": coco,
  "panoptic": panoptic,
  "yolo": yolo,
  "roboflow": roboflow,
  "labelme": labelme,
  "cvat": cvat,
  "label_studio": label_studio,
  "supervisely": supervisely,
  "parquet": parquet,
}
# Formats whose masks lie in folders as users' own do.
_OF_MASKS = ("roboflow", "cvat", "panoptic")
# Formats of which one document lists all pictures.
_OF_DOCUMENTS = ("coco", "panoptic", "label_studio")


def find(
  tree: Tree,
  options: Options = DEFAULT,
  report: Report = refuse,
  suffixes: Suffixes = folder_layout.SUFFIXES,
) -> Export:
  """What the folder `tree` holds.

  Args:
    tree: the user's files.
    options: how they are to be read.
    report: gets each fault of a folder of images and masks; what it concerns
      is left out if it returns.
    suffixes: of files that are images, where masks lie beside them.

  Raises:
    BadExample: it is in no known format, or in several.
  """
  if tree.chosen:
    return _chosen(tree, options)
  tree = _unwrapped(tree, suffixes)
  files = Files(tree)
  name = options.format or _recognised(files, suffixes)
  if name == _MASKS:
    return _native(tree, options, report, suffixes)
  reader = _READERS[name]
  if not (reader.fits(files) or (files.look_at_all() and reader.fits(files))):
    raise _unlike(files, reader.TITLE)
  return reader.read(files, options)


def _chosen(tree: Tree, options: Options) -> Export:
  """The pictures of the one document that `data.path` is."""
  files = Files(tree)
  for name in _OF_DOCUMENTS:
    if options.format in ("", name) and _READERS[name].fits(files):
      return _READERS[name].read(files, options)
  files.documents  # noqa: B018 (looks for a broken one)
  for fault in files.broken.values():
    raise fault
  titles = ", ".join(_READERS[name].TITLE for name in _OF_DOCUMENTS)
  raise BadExample(
    tree.where(tree.chosen),
    "unread-format",
    f"a json given as data.path must be one that lists pictures ({titles}), "
    f"{f'{options.format} as data.format says, ' * bool(options.format)}"
    "got another: give its folder",
  )


def _unwrapped(tree: Tree, suffixes: Suffixes) -> Tree:
  """Without folders around images and masks, as unpacking leaves them."""
  inner = tree
  for _ in range(_MOST_AROUND):
    if folder_layout.is_there(inner, suffixes):
      return inner
    tops = {path.partition("/")[0] for path in inner.stems("", "")}
    tops = {top for top in tops if not top.startswith((".", "__MACOSX"))}
    if len(tops) != 1:
      break
    inner = inner.inside(tops.pop())
  return tree


def _native(
  tree: Tree, options: Options, report: Report, suffixes: Suffixes
) -> Export:
  """Images and masks as they lie."""
  layout = folder_layout.find(tree, report, suffixes)
  without = sorted(layout.images.keys() - layout.masks.keys())
  if not options.unannotated or not without:
    return Export("", tree, layout)
  skips = options.unannotated == "skip"
  if skips:
    layout = dataclasses.replace(
      layout,
      splits={
        split: [name for name in names if name in layout.masks]
        for split, names in layout.splits.items()
      },
    )
  else:
    blanks = {
      f"{name}, without mask": blank(tree.file(layout.images[name]))
      for name in without
    }
    tree = tree | Tree(tree.origin, blanks)
    masks = layout.masks | dict(zip(without, blanks))
    layout = dataclasses.replace(layout, masks=masks)
  return Export(
    "", tree, layout, unannotated=len(without), skips_unannotated=skips
  )


def _recognised(files: Files, suffixes: Suffixes) -> str:
  """The one format that the files are in."""
  found = [name for name, reader in _READERS.items() if reader.fits(files)]
  is_native = folder_layout.is_there(files.tree, suffixes)
  if not found and not is_native and files.look_at_all():
    found = [name for name, reader in _READERS.items() if reader.fits(files)]
  of_masks = bool(set(found) & set(_OF_MASKS))
  if not of_masks and is_native:
    found.append(_MASKS)
  if len(found) > 1:
    titles = [
      _READERS[name].TITLE if name in _READERS else "images and masks"
      for name in found
    ]
    choices = " or ".join(f"--config.data.format={name}" for name in found)
    raise BadExample(
      files.tree.origin,
      "several-formats",
      f"a folder must be in one format, got {' and '.join(titles)}: choose "
      f"with {choices} (prepare: --format)",
    )
  if not found and files.broken:
    raise next(iter(files.broken.values()))
  if not found:
    for fault_of in (yolo.without_names, parquet.without_masks, others.fault):
      if (fault := fault_of(files)) is not None:
        raise fault
  return found[0] if found else _MASKS


def _unlike(files: Files, title: str) -> BadExample:
  """The fault of a folder that is not in the format that is asked for."""
  files.documents  # noqa: B018 (looks for broken ones)
  for fault in files.broken.values():
    return fault
  return BadExample(
    files.tree.origin,
    "no-layout",
    f"must hold {title}, as data.format says, got none",
  )
