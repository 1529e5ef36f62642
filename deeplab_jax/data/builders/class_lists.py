"""The list of classes that a user's folder may have.

`classes.yaml`, all but `classes` optional:

    classes: {background: [0, 0, 0], road: [128, 64, 128]}
      # or just names; or with numbers, {0: background, 1: road} or the reverse;
      # a class of several colours has a list of them
    ignore_label: 255           # of masks of numbers; null = none
    ignore_color: [224, 224, 192]                            # of colour masks

or `classes.txt`, a name a line. Lines may be numbered as the masks are
(`0: road`), quoted, or end in a comma. A name is the text that stands there:
`no` and `010` are names, which YAML would take for something else.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import Color

_FILE = "classes.yaml"
_NAMES = "classes.txt"
FILES = (_FILE, _NAMES)  # the first that is there counts
_FIELDS = {"classes", "ignore_label", "ignore_color"}
# Lines of classes.txt: with a number in front; quoted, or with a comma behind.
_NUMBERED = re.compile(r"(\d+)\s*[\s:=.,;]\s*(\S.*)")
_QUOTED = re.compile(r"""(["']?)(.*?)\1[,;]?""")
# Plain words of YAML that mean something in a list of classes.
_MEANINGS = {
  "tag:yaml.org,2002:int": r"-?(0|[1-9][0-9]*)",
  "tag:yaml.org,2002:null": r"~|null|Null|NULL|",
}
_MOST_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class ClassList:
  """What the user says of the classes.

  Attributes:
    file: where, for messages.
    names: one per label.
    colors: one per label; None where none is given.
    ignore_label: number of masks that is ignored; None = none.
    says_ignored: whether the user gives the ignore label, else it is 255.
    rgb: label of the code of each colour given, the ignored one among them.
  """

  file: str
  names: tuple[str, ...]
  colors: tuple[Color | None, ...]
  ignore_label: int | None = IGNORE
  says_ignored: bool = False
  rgb: dict[int, int] = dataclasses.field(default_factory=dict)


def read(tree: Tree) -> ClassList | None:
  """The list in the folder `tree`; None if there is none.

  Raises:
    BadExample: it is wrong.
  """
  if _FILE in tree:
    return _from_yaml(tree.where(_FILE), tree.read(_FILE))
  if _NAMES in tree:
    names = _from_lines(tree.where(_NAMES), tree.lines(_NAMES))
    return ClassList(tree.where(_NAMES), names, (None,) * len(names))
  return None


def check_count(file: str, count: int, reason: str = "") -> None:
  """Refuses more classes than 8 bits hold beside the ignored 255."""
  if count > IGNORE:
    raise BadExample(
      file,
      "too-many-classes",
      f"a folder must have at most {IGNORE} classes, got {count}{reason}",
    )


def _from_lines(file: str, lines: Sequence[str]) -> tuple[str, ...]:
  """The names in the lines of classes.txt."""
  comments = [line for line in lines if line.startswith("#")]
  if comments:
    raise _wrong(file, f"must have a class name a line, got {comments[0]!r}")
  found = [_NUMBERED.fullmatch(line) for line in lines]
  if all(found):
    _check_numbers(file, [match[1] for match in found])
    lines = [match[2] for match in found]
  return _names(file, [_QUOTED.fullmatch(line)[2] for line in lines])


class _Loader(yaml.SafeLoader):
  """Refuses keys given twice, and aliases; keeps names as they are written.

  YAML would keep the last of the keys. Aliases, which no list of classes needs,
  let a few lines stand for billions. Of plain words only whole numbers and null
  mean something here.
  """

  def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
    if self.check_event(yaml.AliasEvent):
      raise yaml.YAMLError("aliases (*) are not allowed")
    return super().compose_node(parent, index)

  def resolve(self, kind: type, value: str, implicit: tuple[bool, bool]) -> str:
    if kind is yaml.ScalarNode and implicit[0]:
      for tag, pattern in _MEANINGS.items():
        if re.fullmatch(pattern, value):
          return tag
      return self.DEFAULT_SCALAR_TAG
    return super().resolve(kind, value, implicit)

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False):
    seen = set()
    for key in (str(self.construct_object(key)) for key, _ in node.value):
      if key in seen:
        raise yaml.YAMLError(f"{key} is there twice")
      seen.add(key)
    return super().construct_mapping(node, deep)


def _from_yaml(file: str, text: bytes) -> ClassList:
  fields = _fields(file, text)
  classes = _numbered(file, fields["classes"])
  names = _names(file, map(str, classes))
  if not isinstance(classes, dict):
    classes = dict.fromkeys(classes)
  shades = [
    [] if color is None else _colors(file, name, color)
    for name, color in classes.items()
  ]
  colors = tuple(found[0] if found else None for found in shades)
  ignore_label = fields.get("ignore_label", IGNORE)
  if ignore_label is not None and not _is_byte(ignore_label):
    raise _wrong(
      file, f"ignore_label must be 0..255 or null, got {ignore_label!r}"
    )
  rgb: dict[int, int] = {}
  for label, found in enumerate(shades):
    for color in found:
      _add_color(file, names[label], color, rgb, label)
  if "ignore_color" in fields:
    _check_ignore_color(file, ignore_label, rgb)
    color = _color(file, "ignore_color", fields["ignore_color"])
    _add_color(file, "ignore_color", color, rgb, ignore_label)
  says_ignored = "ignore_label" in fields
  return ClassList(file, names, colors, ignore_label, says_ignored, rgb)


def _numbered(
  file: str, classes: dict[Any, Any] | list[Any]
) -> dict[Any, Any] | list[Any]:
  """The names in their order if each has its number, before it or behind it."""
  if not isinstance(classes, dict):
    return classes
  if all(isinstance(name, str) for name in classes.values()):
    numbers = sorted(map(str, classes), key=lambda n: (len(n), n))
    if not all(number.isdecimal() for number in numbers):
      return classes
    _check_numbers(file, numbers)
    by_number = {int(number): name for number, name in classes.items()}
    return [by_number[number] for number in range(len(by_number))]
  if set(map(str, classes.values())) != set(map(str, range(len(classes)))):
    return classes  # these may be greys, which are to be written as colours
  return sorted(classes, key=lambda name: int(classes[name]))


def _fields(file: str, text: bytes) -> dict[str, Any]:
  """The contents of the YAML file, with known keys and a list of classes."""
  if len(text) > _MOST_BYTES:
    raise _wrong(file, f"must be a list of classes, got {len(text)} bytes")
  try:
    fields = yaml.load(text, _Loader)
  except (yaml.YAMLError, ValueError, RecursionError) as error:
    reason = " ".join(f"{error}".split())[:300] or type(error).__name__
    raise _wrong(file, f"must be YAML ({reason})") from error
  if (
    not isinstance(fields, dict)
    or not isinstance(fields.get("classes"), dict | list)
    or not fields["classes"]
    or not all(isinstance(name, str | int) for name in fields["classes"])
    or fields.keys() - _FIELDS
  ):
    raise _wrong(
      file,
      "must have classes, a list of names in the order of their numbers or a "
      "name: [r, g, b] each, and may have ignore_label and ignore_color, got "
      f"{fields!r:.200}",
    )
  return fields


def _colors(file: str, name: str, colors: Any) -> list[Color]:
  """The colours of a class: one, or a list of several."""
  is_list = isinstance(colors, list) and colors
  if is_list and all(isinstance(color, list) for color in colors):
    return [_color(file, name, color) for color in colors]
  return [_color(file, name, colors)]


def _color(file: str, name: str, color: Any) -> Color:
  if (
    not isinstance(color, list)
    or len(color) != 3
    or not all(map(_is_byte, color))
  ):
    raise _wrong(
      file,
      f"the colour of {name} must be [r, g, b] of 0..255, got {color!r:.200}; "
      "without colours, classes are a list of names in the order of their "
      "numbers",
    )
  return tuple(color)


def _check_numbers(file: str, numbers: Sequence[str]) -> None:
  """Refuses numbers of classes that are not those of the masks."""
  if [int(number) for number in numbers] != list(range(len(numbers))):
    raise _wrong(
      file,
      "numbers of classes must be those of the masks, from 0 on, got "
      f"{', '.join(numbers[:5])}",
    )


def _is_byte(value: Any) -> bool:
  return type(value) is int and value in range(256)  # no bool, which is an int


def _names(file: str, names: Iterable[str]) -> tuple[str, ...]:
  """`names` in the form in which they are compared, each its own."""
  names = tuple(unicodedata.normalize("NFC", name).strip() for name in names)
  if not all(names) or not names:
    raise _wrong(file, "must have a class name a line, got none")
  check_count(file, len(names))
  if all(name.isdecimal() for name in names):
    _check_numbers(file, names)
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise _wrong(
      file, f"each class must have a name of its own, got {twice[0]} twice"
    )
  return names


def _add_color(
  file: str, name: str, color: Color, rgb: dict[int, int], label: int
) -> None:
  code = masks.code_of(color)
  if code in rgb:
    raise _wrong(file, f"each colour must be used once, got {name}'s twice")
  rgb[code] = label


def _check_ignore_color(
  file: str, ignore_label: int | None, rgb: dict[int, int]
) -> None:
  if ignore_label is None:
    raise _wrong(
      file,
      "ignore_label must be 0..255 where there is an ignore_color, got null",
    )
  if not rgb:
    raise _wrong(
      file, "an ignore_color needs the colours of the classes, got only names"
    )


def _wrong(file: str, problem: str) -> BadExample:
  """A fault of the list of classes."""
  return BadExample(file, "wrong-class-list", problem)
