"""The classes of exports whose masks are drawn, and the label of each."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence

from deeplab_jax.data.annotations.files import Files, composed
from deeplab_jax.data.builders import class_lists
from deeplab_jax.data.builders.class_lists import ClassList, check_count
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import Color

_IGNORED = "__ignore__"  # LabelMe's name for it
_LABELS = "labels.txt"  # LabelMe's list
# As users, LabelMe and Supervisely's tools call it.
_BACKGROUNDS = ("background", "_background_", "__background__", "__bg__")
_CALLED = "background"


def class_list(
  file: str,
  names: Sequence[str],
  colors: Sequence[Color | None] = (),
  *,
  has_background: bool = True,
) -> tuple[ClassList, list[int]]:
  """The classes of an export whose masks are drawn, and the label of each.

  Args:
    file: where they are named, for messages.
    names: of the classes; one of them may be the background.
    colors: of the classes, where they are given.
    has_background: whether pixels of no object are a class, which is then
      label 0, and called "background" if none of `names` is.

  Raises:
    BadExample: there are none, too many, or two of one name.
  """
  names = [composed(str(name)).strip() for name in names]
  colors = list(colors) or [None] * len(names)
  found = [i for i, n in enumerate(names) if n.lower() in _BACKGROUNDS]
  order = list(range(len(names)))
  if found:
    order.remove(found[0])
    order.insert(0, found[0])
    if names[found[0]].startswith("_"):
      names[found[0]] = _CALLED
  added = int(has_background and not found)
  ordered = [_CALLED] * added + [names[i] for i in order]
  painted = [(0, 0, 0)] * added + [colors[i] for i in order]
  twice = [n for n, count in collections.Counter(ordered).items() if count > 1]
  if twice or not names or not all(names):
    got = f"{twice[0]} twice" if twice else "a class without name"
    raise BadExample(
      file,
      "wrong-class-list",
      f"each class must have a name of its own, got {got if names else 'none'}",
    )
  check_count(file, len(ordered))
  labels = [added + order.index(i) for i in range(len(names))]
  listed = ClassList(
    file, tuple(ordered), tuple(painted), IGNORE, says_ignored=True
  )
  return listed, labels


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

  Raises:
    BadExample: there are no names, or lists are wrong.
  """
  colors = colors or {}
  own = class_lists.read(files.tree)
  if own is not None:
    where, names = own.file, own.names
    colors = {n: c for n, c in zip(own.names, own.colors) if c}
  elif _LABELS in files.tree:
    where, names = files.tree.where(_LABELS), files.tree.lines(_LABELS)
  elif not is_ordered:
    names = sorted({composed(name).strip() for name in names})
    if not names:
      raise BadExample(
        where, "no-objects", "must have an object of a class, got none"
      )
  names = [composed(name).strip() for name in names]
  names = [name for name in names if name != _IGNORED]
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
