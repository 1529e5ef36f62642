"""Classes of formats in which every object says the name of its class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deeplab_jax.data.annotations.export import class_list
from deeplab_jax.data.annotations.files import Files, composed
from deeplab_jax.data.builders import class_lists
from deeplab_jax.data.builders.class_lists import ClassList
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import Color

_IGNORED = "__ignore__"  # LabelMe's name for it
_LABELS = "labels.txt"  # LabelMe's list


def named_classes(
  files: Files,
  where: str,
  names: Iterable[str],
  colors: Mapping[str, Color] | None = None,
  *,
  is_ordered: bool = False,
) -> tuple[ClassList, dict[str, int]]:
  """The list of classes, and the label of each name.

  The user's own list (classes.yaml, classes.txt or labels.txt) says which
  classes there are, and their order. Else they are those that objects have.

  Args:
    files: the user's folder.
    where: names come from, for messages.
    names: of the classes of all objects, or of a list of the format.
    colors: of some of them.
    is_ordered: whether `names` are a list, whose order counts.
  """
  colors = colors or {}
  own = class_lists.read(files.tree)
  if own is not None:
    where, names = own.file, own.names
    colors = {n: c for n, c in zip(own.names, own.colors) if c}
  elif _LABELS in files.tree:
    where, names = files.tree.where(_LABELS), files.tree.lines(_LABELS)
  elif not is_ordered:
    names = sorted(set(names))
  names = [composed(name) for name in names if name != _IGNORED]
  listed, labels = class_list(where, names, [colors.get(n) for n in names])
  return listed, dict(zip(names, labels)) | {_IGNORED: IGNORE}


def label_of(where: str, name: str, labels: Mapping[str, int]) -> int:
  """The label of a class.

  Raises:
    BadExample: it is none of those listed.
  """
  label = labels.get(composed(name).strip())
  if label is None:
    known = [known for known in labels if known != _IGNORED]
    raise BadExample(
      where,
      "unknown-category",
      f"the class must be one of {', '.join(known[:20])}"
      f"{', ...' if known[20:] else ''}, got {name!r}",
    )
  return label
