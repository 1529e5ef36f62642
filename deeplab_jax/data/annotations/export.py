"""An annotation export, in the shape in which the folder builder reads any.

A reader of a format lists `Picture`s; `export` makes of them a `Tree` with the
pictures and, for each, a mask: a file of the export, or one that is drawn when
it is read. So whatever reads a folder of images and masks (building, training,
the doctor) reads every format, and cannot read it in another way.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import PIL.Image

from deeplab_jax.data.annotations import drawing
from deeplab_jax.data.annotations.drawing import Drawing, Loss, Shape
from deeplab_jax.data.annotations.files import (
  Files,
  composed,
  png,
  understood,
  upright_size,
  without_suffix,
)
from deeplab_jax.data.annotations.options import AREA, Options
from deeplab_jax.data.builders import folder_layout
from deeplab_jax.data.builders.class_lists import ClassList
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.builders.folder_layout import Layout
from deeplab_jax.data.builders.trees import File, Tree
from deeplab_jax.data.classes import bit_colors
from deeplab_jax.data.datasets import Color
from deeplab_jax.messages import printable


@dataclasses.dataclass(frozen=True)
class Picture:
  """One picture of an export.

  Attributes:
    path: of the picture in the user's folder, or as the annotation names it.
    split: "train", "val", "test", or "" where the export does not say.
    image: the picture; reading it raises if it is not there.
    mask: its mask.
    is_annotated: whether anything is said of it.
  """

  path: str
  split: str
  image: File
  mask: File
  is_annotated: bool = True


@dataclasses.dataclass
class Export:
  """What a folder holds, however it was annotated.

  Attributes:
    title: the format, in words.
    tree: pictures and masks, and the user's list of classes if it counts.
    layout: which of them belong together.
    listed: the classes that the export names; None leaves them to a list in
      `tree`, or to the masks.
    drawings: what was lost, by where it is; filled as masks are read.
    unannotated: how many pictures are without annotation.
    skips_unannotated: whether these are left out.
    blank: what their pixels are taken for otherwise.
    remarks: what may be meant.
    faults: of annotations that belong to no picture.
    lines: what is to be said of the format.
  """

  title: str
  tree: Tree
  layout: Layout
  listed: ClassList | None = None
  drawings: dict[str, Drawn] = dataclasses.field(default_factory=dict)
  unannotated: int = 0
  skips_unannotated: bool = False
  blank: str = "background"
  remarks: tuple[Remark, ...] = ()
  faults: tuple[BadExample, ...] = ()
  lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What drawing one mask lost.

  Attributes:
    file: where the annotations are, for messages.
    losses: of its objects.
    objects: how many of each label.
  """

  file: str
  losses: tuple[Loss, ...]
  objects: collections.Counter[int]


class Painter:
  """Makes masks of what is said of pictures, and remembers what was lost.

  Attributes:
    drawn: what was lost, by where the annotations are.
  """

  def __init__(self, listed: ClassList, options: Options, order: str = AREA):
    """Takes the classes and `options`; `order` is the format's own.

    Raises:
      BadExample: the options order classes that there are not.
    """
    self.drawn: dict[str, Drawn] = {}
    self._order: str | list[int] = options.order or order
    if names := options.classes_in_order:
      unknown = [name for name in names if name not in listed.names]
      if unknown:
        raise BadExample(
          listed.file,
          "wrong-order",
          f"data.order must name classes, which are {', '.join(listed.names)},"
          f" got {unknown[0]!r}",
        )
      self._order = [listed.names.index(name) for name in names]
    colors = listed.colors
    if None in colors or len(set(colors)) < len(colors):
      colors = bit_colors(len(colors))
    self._colors: Sequence[Color] = colors

  def mask(
    self,
    where: str,
    objects: Callable[[], tuple[Sequence[Shape], tuple[int, int]]],
    extra: Sequence[Loss] = (),
  ) -> File:
    """The mask of one picture.

    Args:
      where: its annotations are, for messages.
      objects: gives them, and the height and width of the picture.
      extra: losses that are known already.
    """
    where = printable(where)

    def drawing_of() -> Drawing:
      with understood(where):
        shapes, size = objects()
      return drawing.draw(where, shapes, size, self._order)

    return self.mask_of(where, drawing_of, extra)

  def mask_of(
    self,
    where: str,
    drawing_of: Callable[[], Drawing],
    extra: Sequence[Loss] = (),
  ) -> File:
    """The same of a picture whose labels the format has already."""
    where = printable(where)

    def read() -> bytes:
      with understood(where):
        result = drawing_of()
      losses = (*extra, *result.losses)
      self.drawn[where] = Drawn(where, losses, result.objects)
      return drawing.encode(result.labels, self._colors)

    return File(where, read)


def blank(image: File, color: Color = (0, 0, 0)) -> File:
  """The mask of a picture without annotation: all of it background."""

  def read() -> bytes:
    height, width = upright_size(image.where, image.read())
    return png(PIL.Image.new("RGB", (width, height), color))

  return File(image.where, read)


def locate(files: Files, name: str, split: str, where: str) -> tuple[str, File]:
  """Path and file of the picture that annotations call `name`.

  Reading it is refused if it is not there, or several may be meant.

  Args:
    files: the user's folder.
    name: as in `Files.find`.
    split: of the annotations.
    where: these are, for messages.
  """
  where = printable(where)
  try:
    path = files.find(name, split)
  except BadExample as ambiguous:
    fault = BadExample(where, ambiguous.code, ambiguous.problem)
  else:
    if path is not None:
      return path, files.tree.file(path)
    fault = BadExample(
      where,
      "missing-picture",
      f"the picture {name!r} must be there, got none of that name",
    )

  def refuse() -> bytes:
    raise BadExample(fault.file, fault.code, fault.problem)

  return name, File(where, refuse)


def export(
  title: str,
  files: Files,
  pictures: Sequence[Picture],
  options: Options,
  *,
  listed: ClassList | None = None,
  painter: Painter | None = None,
  lists: Iterable[str] = (),
  faults: Sequence[BadExample] = (),
  lines: tuple[str, ...] = (),
  blank: str = "background",
) -> Export:
  """The export of some pictures.

  Of a picture that is listed again in its split only the first entry is kept;
  the others are faults.

  Args:
    title: the format, in words.
    files: the user's folder.
    pictures: all of them.
    options: what is to be done with pictures without annotation.
    listed: see `Export`.
    painter: what draws the masks.
    lists: paths of files of the folder that say more of the classes.
    faults, lines, blank: see `Export`.

  Raises:
    BadExample: there is no picture.
  """
  again = _repeated(files, pictures)
  pictures = [p for i, p in enumerate(pictures) if i not in again]
  without = [p for p in pictures if not p.is_annotated]
  skips = options.unannotated == "skip"
  kept = [p for p in pictures if p.is_annotated] if skips else pictures
  if not kept:
    got = f"{len(without)} without" if without else "none"
    raise BadExample(
      files.tree.origin,
      "no-pictures",
      f"{title} must have annotated pictures, got {got}",
    )
  kept = _by_lists(files, kept)
  names = _names([p.path for p in kept])
  images, masks, contents = {}, {}, {}
  for name, picture in zip(names, kept):
    suffix = picture.path.rpartition("/")[2].rpartition(".")[2]
    images[name], masks[name] = f"images/{name}.{suffix}", f"masks/{name}.png"
    contents[images[name]] = picture.image
    contents[masks[name]] = picture.mask
  for path in lists:
    contents[path] = files.tree.file(path)
  splits, is_drawn = _splits(names, kept)
  layout = Layout(images, masks, splits, {}, [], [], True, is_drawn=is_drawn)
  return Export(
    title,
    Tree(files.tree.origin, contents),
    layout,
    listed,
    {} if painter is None else painter.drawn,
    len(without),
    skips,
    blank,
    tuple(_unlisted(files, pictures)),
    (*faults, *again.values()),
    lines,
  )


def _repeated(
  files: Files, pictures: Sequence[Picture]
) -> dict[int, BadExample]:
  """The faults of pictures that are listed before in their split, by index.

  Entries of one file, such as the rows of a table, are pictures of their own.
  """
  first: dict[tuple[str, str], Picture] = {}
  faults = {}
  for index, picture in enumerate(pictures):
    if picture.path not in files.tree:
      continue
    other = first.setdefault((picture.split, picture.path), picture)
    if other is not picture:
      faults[index] = BadExample(
        picture.mask.where,
        "repeated-picture",
        f"a picture must be listed once, got it in {other.mask.where} as well",
      )
  return faults


def _by_lists(files: Files, pictures: Sequence[Picture]) -> list[Picture]:
  """The pictures with the splits of train.txt and val.txt, if there are any.

  Raises:
    BadExample: a list names a picture that is not there.
  """
  lists = [s for s in ("train", "val") if f"{s}.txt" in files.tree]
  if not lists:
    return list(pictures)
  splits = {}
  for split in lists:
    for line in files.tree.lines(f"{split}.txt"):
      path = files.find(line)
      if path is None:
        raise BadExample(
          files.tree.where(f"{split}.txt"),
          "wrong-list",
          f"must list images that are there, got {line!r}",
        )
      splits[path] = split
  if len(lists) == 1:  # the others are the rest
    other = "val" if lists == ["train"] else "train"
    return [
      dataclasses.replace(p, split=splits.get(p.path, other)) for p in pictures
    ]
  return [
    dataclasses.replace(p, split=splits[p.path])
    for p in pictures
    if p.path in splits
  ]


def _names(paths: Sequence[str]) -> list[str]:
  """A name for each path: below the folder that all share, without suffix."""
  paths = [composed(path).replace("\\", "/").lstrip("/") for path in paths]
  folders = [path.split("/")[:-1] for path in paths]
  alike = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders))
  shared = len(list(alike))
  below = ["/".join(path.split("/")[shared:]) for path in paths]
  counts = collections.Counter(map(without_suffix, below))
  names = [
    without_suffix(path) if counts[without_suffix(path)] == 1 else path
    for path in below
  ]
  again = collections.Counter()
  for index, name in enumerate(names):  # one picture listed several times
    again[name] += 1
    if again[name] > 1:
      names[index] = f"{name} ({again[name]})"
  return names


def _splits(
  names: Sequence[str], pictures: Sequence[Picture]
) -> tuple[dict[str, list[str]], bool]:
  """Names of each split, as the export has them; whether some are drawn."""
  found = {"train": [], "val": [], "test": []}
  for name, picture in zip(names, pictures):
    found[picture.split or "train"].append(name)
  is_drawn = not found["train"] or not found["val"]
  if is_drawn:
    rest = found["train"] or found["val"] or found.pop("test")
    found |= folder_layout.draw_splits(rest)
  found = {split: listed for split, listed in found.items() if listed}
  return found, is_drawn


def _unlisted(files: Files, pictures: Sequence[Picture]) -> Iterable[Remark]:
  """Pictures of which the annotations say nothing at all."""
  used = {picture.path for picture in pictures}
  used |= {printable(picture.mask.where) for picture in pictures}
  for path in files.pictures:
    where = files.tree.where(path)
    if path not in used and where not in used:
      yield Remark("unlisted-images", where, "")
