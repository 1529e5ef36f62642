"""The files of an export: pictures by any way of naming them, and documents.

Tools name a picture by its path from some folder, by the name alone, by a URL,
or with the backslashes of Windows. It is found by the longest end of the path
that only one picture has.
"""

from __future__ import annotations

import binascii
import collections
import contextlib
import functools
import io
import json
import re
import unicodedata
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import PIL.ExifTags

from deeplab_jax.data import headers
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree, is_document

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SPLITS = {
  **dict.fromkeys(("train", "training", "trn"), "train"),
  **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
  **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_LOOKED_AT = 8  # documents of a folder that are read to recognise a format
_LIKELY = re.compile(
  r"coco|instances|panoptic|annotation|result|export|project|meta|train|val"
  r"|test",
  re.IGNORECASE,
)

_UNLIKE = (
  *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
  *(RecursionError, zlib.error, binascii.Error),
)


class Files:
  """A user's folder, as the readers of formats look at it.

  Attributes:
    tree: all files.
    paths: of all but hidden ones, sorted.
    pictures: paths of the pictures, sorted.
    broken: faults of documents that are no JSON, of those read, by path.
  """

  def __init__(
    self, tree: Tree, is_image: Callable[[str], bool] = lambda path: True
  ):
    """Looks at `tree`, whose pictures that are no `is_image` are masks."""
    self.tree = tree
    self.paths = [p for p in tree.stems("", "") if not _is_hidden(p)]
    self.pictures = [p for p in self.paths if is_picture(p) and is_image(p)]
    self.broken: dict[str, BadExample] = {}
    self._most: int | None = _LOOKED_AT
    self._ends: list[dict[str, list[str]]] = []
    self._stems: dict[str, list[str]] | None = None

  def json(self, path: str) -> Any:
    """What a JSON file holds.

    Raises:
      BadExample: it is none.
    """
    try:
      return json.loads(self.tree.read(path))
    except (ValueError, RecursionError) as error:
      raise BadExample(
        self.tree.where(path), "not-json", f"must be JSON ({error})"
      ) from error

  @functools.cached_property
  def documents(self) -> dict[str, Any]:
    """What some JSON files of each folder hold, by path: the likeliest ones."""
    by_folder = collections.defaultdict(list)
    for path in self._jsons:
      by_folder[path.rpartition("/")[0]].append(path)
    found = {}
    for paths in by_folder.values():
      paths.sort(key=lambda p: not _LIKELY.search(p.rpartition("/")[2]))
      for path in paths[: self._most]:
        found[path] = self._document(path)
    return found

  def look_at_all(self) -> bool:
    """Has `documents` be all, as none of the likeliest told a format; whether
    there are more."""
    looked_at, self._most = len(self.documents), None
    del self.documents
    return len(self._jsons) > looked_at

  def alike(self, fits: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Path and contents of every JSON file that fits.

    Looks into the folders in which one does, of those that were looked at.
    """
    known = self.documents
    folders = {
      p.rpartition("/")[0] for p, value in known.items() if fits(value)
    }
    for path in self._jsons:
      if path.rpartition("/")[0] in folders:
        value = known[path] if path in known else self._document(path)
        if fits(value):
          yield path, value

  def broken_beside(self, paths: Iterable[str]) -> list[BadExample]:
    """The faults of broken documents that belong to those of `paths`: they lie
    in one folder with them, or have the name of one in another folder."""
    parts = [path.rpartition("/") for path in paths]
    folders = {folder for folder, _, _ in parts}
    names = {name for _, _, name in parts}
    return [
      fault
      for path, fault in self.broken.items()
      if path.rpartition("/")[0] in folders or path.rpartition("/")[2] in names
    ]

  @functools.cached_property
  def _jsons(self) -> list[str]:
    """Paths of what may be JSON."""
    return [path for path in self.paths if is_document(path)]

  def _document(self, path: str) -> Any:
    """What a JSON file holds; None if it is none, which is noted."""
    try:
      return self.json(path)
    except BadExample as fault:
      is_meant = path.lower().endswith(".json")
      if is_meant or self.tree.read(path).lstrip()[:1] == b"{":
        self.broken[path] = fault
      return None

  def ending(self, *ends: str) -> list[str]:
    """Paths of the files whose path ends so, whatever the case, sorted."""
    return [p for p in self.paths if p.lower().endswith(ends)]

  def of_stem(self, stem: str) -> list[str]:
    """The pictures that are called so, but for the suffix."""
    if self._stems is None:
      self._stems = collections.defaultdict(list)
      for path in self.pictures:
        self._stems[without_suffix(path)].append(path)
    return self._stems.get(stem, [])

  def find(self, name: str, split: str = "") -> str | None:
    """The picture that an annotation calls `name`; None if there is none.

    The name may lack its suffix, and differ in small and capital letters from
    all pictures; one that has it comes first.

    Args:
      name: a path, a name or a URL.
      split: of the annotation, which decides between several.

    Raises:
      BadExample: several fit equally well.
    """
    if not self._ends:
      self._ends = [collections.defaultdict(list) for _ in range(2)]
      for path in self.pictures:
        for end in _ends(composed(path)):
          self._add(self._ends[0], end, path)
          self._add(self._ends[1], without_suffix(end), path)
    for spelled in _spellings(name):
      for end in (*_ends(spelled), *map(_folded, _ends(spelled))):
        whole, without = (found.get(end, []) for found in self._ends)
        paths = whole or without
        if len(paths) > 1:
          paths = [p for p in paths if split_of(p) == split] or paths
        if len(paths) > 1:
          raise BadExample(
            self.tree.where(paths[0]),
            "ambiguous-picture",
            f"an annotation must name one picture, got {name!r}, which may be "
            f"{paths[1]} as well",
          )
        if paths:
          return paths[0]
    return None

  def _add(self, ends: dict[str, list[str]], end: str, path: str) -> None:
    for name in (end, _folded(end)):
      ends[name].append(path)


def split_of(path: str, is_document: bool = False) -> str:
  """The split that the folders of a file are named after; "" for none.

  Args:
    path: of the file.
    is_document: whether the name of the file itself counts as well, as that
      of instances_train2017.json.
  """
  *folders, name = path.split("/")
  for part in [*folders, name] if is_document else folders:
    for word in re.split(r"[^a-z]+", part.lower()):
      if word in _SPLITS:
        return _SPLITS[word]
  return ""


@contextlib.contextmanager
def understood(where: str) -> Iterator[None]:
  """Refuses annotations that are not as their format says.

  Raises:
    BadExample: the values within are of another kind, or not there.
  """
  try:
    yield
  except BadExample:
    raise
  except KeyError as error:
    raise BadExample(
      where, "bad-annotation", f"must have {error}, got none"
    ) from error
  except _UNLIKE as error:
    raise BadExample(
      where, "bad-annotation", f"must be as its format says, got {error}"
    ) from error


def upright_size(file: str, encoded: bytes) -> tuple[int, int]:
  """Height and width of a picture as tools show it, turned by its EXIF tag.

  Raises:
    BadExample: it is no picture.
  """
  try:
    picture = headers.open_picture(encoded)
    turn = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1)
  except Exception as error:  # whatever a decoder makes of broken bytes
    if (header := headers.read(encoded)) is not None:
      return header.size  # of channels that only `data.bands` reads, unturned
    raise BadExample(
      file, "undecodable", "cannot be decoded as an image"
    ) from error
  width, height = picture.size
  return (width, height) if turn in range(5, 9) else (height, width)


def is_picture(path: str) -> bool:
  """Whether the suffix is one of pictures."""
  return path.lower().endswith(PICTURES)


def composed(text: str) -> str:
  """The form of Unicode in which names are compared: NFC."""
  return unicodedata.normalize("NFC", text)


def without_suffix(path: str) -> str:
  """A path without the suffix of its file."""
  folder, slash, name = path.rpartition("/")
  return folder + slash + (name.rpartition(".")[0] or name)


def png(picture: Any) -> bytes:
  """A picture of Pillow's as a PNG file, packed for speed."""
  file = io.BytesIO()
  picture.save(file, "PNG", compress_level=1)
  return file.getvalue()


def _is_hidden(path: str) -> bool:
  return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _folded(name: str) -> str:
  """What a name is found by whatever the case; never a name itself."""
  return f"{name.casefold()}/"


def _ends(path: str) -> Iterator[str]:
  """The path, and what is left without each folder in front."""
  parts = [part for part in path.split("/") if part not in ("", ".", "..")]
  for start in range(len(parts)):
    yield "/".join(parts[start:])


def _spellings(name: str) -> Iterator[str]:
  """A name as it is, then as a path of Windows, then as a URL."""
  name = composed(name)
  yield name
  if "\\" in name:
    name = name.replace("\\", "/")
    yield name
  url = urllib.parse.urlsplit(name)
  wanted = urllib.parse.parse_qs(url.query).get("d", [url.path])[0]
  wanted = urllib.parse.unquote(wanted).replace("\\", "/")
  if wanted != name:
    yield composed(wanted)
