"""Lists of the images of a split: a name a line, or as other projects do."""

import unicodedata
from collections.abc import Mapping

from deeplab_jax.data.builders.faults import BadExample, Report
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.builders.voc_layout import MARKER
from deeplab_jax.messages import printable

_SHOWN = 5  # lines of a list that a message names


def read(
  tree: Tree,
  split: str,
  images: Mapping[str, str],
  masks: Mapping[str, str],
  suffixes: tuple[str, ...],
  report: Report,
) -> list[str] | None:
  """Names in `<split>.txt`, in its order; None without such a file.

  It is in the folder or in `ImageSets/Segmentation/`. A line is the name or the
  path of an image, with or without its suffix. The path of its mask may follow,
  after a space, a tab or a comma. Folders end in a slash or in a backslash.

  Args:
    tree: the user's files.
    split: "train" or "val".
    images: path of each image, by name.
    masks: path of each mask, by the name of its image.
    suffixes: that images and masks may have.
    report: gets the fault of a list that is empty, is no text, or has lines
      that are no images; without these lines it counts if `report` returns.
  """
  for path in (f"{split}.txt", f"{MARKER}/{split}.txt"):
    if path not in tree:
      continue
    try:
      lines = tree.lines(path)
    except BadExample as fault:
      report(fault)
      return None
    by_path = [_by_path(files, suffixes) for files in (images, masks)]
    names = [_name(line, *by_path, suffixes) for line in lines]
    unknown = [line for line, name in zip(lines, names) if name is None]
    if unknown or not lines:
      found = printable(", ".join(unknown[:_SHOWN])) or "no line"
      more = f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else ""
      report(
        BadExample(
          tree.where(path),
          "wrong-list",
          f"must list images that are there, got {found}{more}",
        )
      )
    return [name for name in names if name is not None]
  return None


def _by_path(
  files: Mapping[str, str], suffixes: tuple[str, ...]
) -> dict[str, str]:
  """Names by what a list may call their files; a name goes before a path."""
  by_path = {_stem(path, suffixes): name for name, path in files.items()}
  return by_path | {name: name for name in files}


def _name(
  line: str,
  images: Mapping[str, str],
  masks: Mapping[str, str],
  suffixes: tuple[str, ...],
) -> str | None:
  """The name of the image that a line means; None if it means none."""
  for text in (line, line.replace("\\", "/").removeprefix("./")):
    name = images.get(_stem(text, suffixes))
    if name is not None:
      return name
    for separator in ("\t", ",", " "):
      image, _, mask = (
        _stem(word.strip().removeprefix("./"), suffixes)
        for word in text.partition(separator)
      )
      name = images.get(image)
      if name is not None and masks.get(mask) == name:
        return name
  return None


def _stem(text: str, suffixes: tuple[str, ...]) -> str:
  """A name or path without the suffix of a picture, as names are compared."""
  text = unicodedata.normalize("NFC", text)
  for suffix in suffixes:
    if text.lower().endswith(suffix):
      return text[: -len(suffix)]
  return text
