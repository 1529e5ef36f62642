"""The classes of a user's folder: from a file, or from the masks themselves.

`classes.yaml`, all but `classes` optional:

    classes: {background: [0, 0, 0], road: [128, 64, 128]}   # or just names
    ignore_label: 255           # of indexed masks; null = none
    ignore_color: [224, 224, 192]                            # of colour masks

or `classes.txt`, a name a line; or neither: then indexed masks have the classes
0 to their largest value, 255 being ignored (but masks of 0 and 255 alone are
background and foreground), and each colour of colour masks is a class.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from deeplab_jax.data.builders import checks
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.builders.checks import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.classes import bit_colors
from deeplab_jax.data.datasets import Color

_FILE = "classes.yaml"
_NAMES = "classes.txt"
FILES = (_FILE, _NAMES)  # the first that is there counts
_IGNORE = 255
_FIELDS = {"classes", "ignore_label", "ignore_color"}
_SCALAR = str | int | float


class _UniqueKeys(yaml.SafeLoader):
  """Refuses a key given twice, of which YAML would keep the last."""

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False):
    keys = [self.construct_object(key) for key, _ in node.value]
    for key in keys:
      if keys.count(key) > 1:
        raise yaml.YAMLError(f"{key} is there twice")
    return super().construct_mapping(node, deep)


@dataclasses.dataclass(frozen=True)
class FolderClasses:
  """Classes, and how masks write them.

  Attributes:
    names: one per label.
    colors: one per label.
    ignore_label: as in `DatasetInfo`.
    values: label of each value of an indexed mask.
    rgb: label of each colour (r * 65536 + g * 256 + b) of a colour mask; empty
      where no colours are known.
  """

  names: tuple[str, ...]
  colors: tuple[Color, ...]
  ignore_label: int | None
  values: dict[int, int]
  rgb: dict[int, int]

  def labels_of(self, tree: Tree, path: str) -> np.ndarray:
    """Labels (h, w) of one mask."""
    file = tree.where(path)
    mask = checks.decode_mask(file, tree.read(path))
    if mask.ndim == 3 and self.rgb:
      return _of_colors(file, mask, self.rgb)
    if mask.ndim == 3 and _is_grey(mask):
      mask = mask[..., 0]
    if mask.ndim == 3:
      raise BadExample(
        file,
        "colour-mask",
        f"a mask of colours needs {_FILE} with the colour of each class, got "
        "none; write it, or index the mask",
      )
    if not self.values:
      raise BadExample(
        file,
        "mixed-masks",
        "masks must be all in colours or all indexed, got both; convert one "
        "kind",
      )
    return checks.remap(file, mask, self.values)


def find(tree: Tree, masks: Sequence[str]) -> FolderClasses:
  """The classes of the folder `tree` whose masks are the files `masks`.

  Raises:
    ValueError: a list of classes is wrong, or none can be inferred.
  """
  if _FILE in tree:
    return _from_yaml(tree.where(_FILE), tree.read(_FILE))
  names = tuple(tree.lines(_NAMES)) if _NAMES in tree else None
  if names is not None:
    _check_names(tree.where(_NAMES), names)
  found = _values(tree, masks)
  if found.mostly_colors and names is None:
    return _from_colors(tree, found.colors)
  if found.indices == {0, _IGNORE} and len(names or "ab") == 2:
    names = names or ("background", "foreground")
    return _indexed(names, bit_colors(2), None, {0: 0, _IGNORE: 1})
  if names is None:
    largest = max(found.indices - {_IGNORE}, default=0)
    _check_count(tree.origin, largest + 1)
    names = tuple(f"class_{i}" for i in range(largest + 1))
  return _indexed(names, _palette(tree, masks[:1], len(names)), _IGNORE)


def _palette(tree: Tree, masks: Sequence[str], count: int) -> tuple[Color, ...]:
  """The first colours of the masks' palette, if they have one, else VOC's."""
  for mask in masks:
    colors = checks.palette(tree.read(mask))[:count]
    if len(set(colors)) == count:
      return colors
  return bit_colors(count)


def _indexed(
  names: tuple[str, ...],
  colors: tuple[Color, ...],
  ignore_label: int | None,
  values: dict[int, int] | None = None,
) -> FolderClasses:
  """Classes whose masks hold labels, or else the given values."""
  if values is None:
    values = {label: label for label in range(len(names))}
    if ignore_label is not None:
      values[ignore_label] = ignore_label
  return FolderClasses(names, colors, ignore_label, values, {})


def _from_colors(tree: Tree, codes: set[int]) -> FolderClasses:
  """A class for each colour of the masks, in the order of the codes."""
  if len(codes) > _IGNORE:
    raise BadExample(
      tree.origin,
      "too-many-colours",
      f"masks of colours must have at most {_IGNORE} of them, got "
      f"{len(codes)}; were they resized with smoothing? Write {_FILE}, or "
      "export them again",
    )
  ordered = sorted(codes)
  colors = tuple(tuple(code.to_bytes(3)) for code in ordered)
  names = tuple(f"color_{code:06x}" for code in ordered)
  rgb = {code: label for label, code in enumerate(ordered)}
  return FolderClasses(names, colors, _IGNORE, {}, rgb)


def _from_yaml(file: str, text: bytes) -> FolderClasses:
  fields = _fields(file, text)
  classes = fields["classes"]
  names = tuple(str(name) for name in classes)
  _check_names(file, names)
  if not isinstance(classes, dict):
    classes = dict.fromkeys(classes)
  colors = [
    None if color is None else _color(file, name, color)
    for name, color in classes.items()
  ]
  ignore_label = fields.get("ignore_label", _IGNORE)
  if ignore_label is not None and ignore_label not in range(256):
    raise _wrong(
      file, f"ignore_label must be 0..255 or null, got {ignore_label!r}"
    )
  drawn = tuple(a or b for a, b in zip(colors, bit_colors(len(names))))
  indexed = _indexed(names, drawn, ignore_label)
  rgb: dict[int, int] = {}
  for label, color in enumerate(colors):
    if color is not None:
      _check_new(file, names[label], color, rgb)
      rgb[_code(color)] = label
  if "ignore_color" in fields:
    if ignore_label is None:
      raise _wrong(
        file,
        "ignore_label must be 0..255 where there is an ignore_color, got null",
      )
    color = _color(file, "ignore_color", fields["ignore_color"])
    _check_new(file, "ignore_color", color, rgb)
    rgb[_code(color)] = ignore_label
  return dataclasses.replace(indexed, rgb=rgb)


def _fields(file: str, text: bytes) -> dict[str, Any]:
  """The contents of the YAML file, with known keys and a list of classes."""
  try:
    fields = yaml.load(text, _UniqueKeys)
  except yaml.YAMLError as error:
    raise _wrong(file, f"must be YAML ({error})") from error
  if (
    not isinstance(fields, dict)
    or not isinstance(fields.get("classes"), dict | list)
    or not fields["classes"]
    or not all(isinstance(name, _SCALAR) for name in fields["classes"])
    or fields.keys() - _FIELDS
  ):
    raise _wrong(
      file,
      "must have classes, a list of names or a name: [r, g, b] each, and may "
      f"have ignore_label and ignore_color, got {fields!r:.200}",
    )
  return fields


def _color(file: str, name: str, color: Any) -> Color:
  if (
    not isinstance(color, list)
    or len(color) != 3
    or not all(value in range(256) for value in color)
  ):
    raise _wrong(
      file, f"the colour of {name} must be [r, g, b] of 0..255, got {color!r}"
    )
  return tuple(color)


def _check_names(file: str, names: Sequence[str]) -> None:
  if not names:
    raise _wrong(file, "must have a class name a line, got none")
  _check_count(file, len(names))
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise _wrong(
      file, f"each class must have a name of its own, got {twice[0]} twice"
    )


def _check_new(file: str, name: str, color: Color, rgb: dict) -> None:
  if _code(color) in rgb:
    raise _wrong(file, f"each colour must be used once, got {name}'s twice")


def _check_count(file: str, count: int) -> None:
  if count > _IGNORE:  # labels are stored in 8 bits, and 255 is for ignored
    raise BadExample(
      file,
      "too-many-classes",
      f"a folder must have at most {_IGNORE} classes, got {count}; merge some",
    )


def _wrong(file: str, problem: str) -> BadExample:
  """A fault of the list of classes."""
  return BadExample(file, "wrong-class-list", problem)


@dataclasses.dataclass(frozen=True)
class _Values:
  """What all masks together hold.

  Attributes:
    indices: of indexed and grey masks.
    colors: codes of the colours of the others.
    mostly_colors: whether the others are the more.
  """

  indices: set[int]
  colors: set[int]
  mostly_colors: bool


def _values(tree: Tree, masks: Sequence[str]) -> _Values:
  indices: set[int] = set()
  colors: set[int] = set()
  surplus = 0
  for is_index, values in in_order(functools.partial(_values_of, tree), masks):
    (indices if is_index else colors).update(values)
    surplus += -1 if is_index else 1
  if all(code >> 8 == code & 0xFFFF for code in colors):  # grey, saved as RGB
    return _Values(indices | {code & 0xFF for code in colors}, set(), False)
  return _Values(indices, colors, surplus > 0)


def _values_of(tree: Tree, path: str) -> tuple[bool, list[int]]:
  """Whether one mask is indexed, and the values or colours it has.

  Nothing of a mask that cannot be decoded: the build will say so.
  """
  try:
    mask = checks.decode_mask(tree.where(path), tree.read(path))
  except BadExample:
    return True, []
  if mask.ndim == 2:
    return True, np.unique(mask).tolist()
  return False, np.unique(codes_of(mask)).tolist()


def codes_of(mask: np.ndarray) -> np.ndarray:
  """r * 65536 + g * 256 + b of colours (h, w, 3)."""
  return mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _code(color: Color) -> int:
  return int.from_bytes(bytes(color))


def _is_grey(mask: np.ndarray) -> bool:
  return bool((mask == mask[..., :1]).all())


def _of_colors(file: str, mask: np.ndarray, rgb: dict[int, int]) -> np.ndarray:
  """Labels (h, w) of a mask of colours."""
  codes = codes_of(mask)
  wrong = sorted(set(np.unique(codes).tolist()) - rgb.keys())
  if wrong:
    found = ", ".join(str(tuple(code.to_bytes(3))) for code in wrong[:5])
    raise BadExample(
      file,
      "unlisted-colour",
      f"colours must be the {len(rgb)} that {_FILE} lists, got {found}"
      f"{', ...' if wrong[5:] else ''}; add them, or export the mask without "
      "smoothing",
    )
  return checks.remap(file, codes, rgb)
