"""The splits that YOLO's data.yaml names: folders, or lists of pictures.

Its paths are those of the machine where it was written, so they are looked for
below any folder; without the folders that all of them share if that fails.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from deeplab_jax.data.annotations.files import Files, split_of
from deeplab_jax.data.builders.faults import BadExample

_SPLITS = ("train", "val", "test")
_LIST = ".txt"
_Parts = tuple[str, ...]  # of a path


@dataclasses.dataclass(frozen=True)
class Splits:
  """What data.yaml says.

  Attributes:
    named: the split of each picture in what it names, by path.
    faults: of its lists.
    lines: what is to be said.
  """

  named: dict[str, str]
  faults: list[BadExample]
  lines: tuple[str, ...]

  def of(self, picture: str) -> str | None:
    """The split of a picture; "" for none in particular, None for one that is
    not used, as it is in nothing that is named."""
    if picture in self.named or not self.named:
      return self.named.get(picture, split_of(picture))
    split = split_of(picture)
    return None if split in {"", *self.named.values()} else split


def find(files: Files, fields: dict[str, Any], where: str) -> Splits:
  """The splits of the pictures.

  Args:
    files: the user's folder.
    fields: of data.yaml.
    where: it is, for messages.
  """
  fields = {"val": fields.get("validation")} | fields
  places = {split: _places(fields.get(split)) for split in _SPLITS}
  every = [place for found in places.values() for place in found]
  shared = _shared([place[:-1] for place in every])
  for cut in (0, shared):
    faults: list[BadExample] = []
    found = {
      split: [_pictures(files, place[cut:], faults) for place in of_split]
      for split, of_split in places.items()
    }
    if any(any(each) for each in found.values()):
      break
  named, twice = _named(places, found)
  lines = [
    f"{split} of {where} is not there: {'/'.join(place)}"
    for split in ("train", "val")
    for place, pictures in zip(places[split], found[split])
    if named and not pictures
  ]
  if twice:
    lines.append(
      f"{twice} pictures are in train and in val alike, as {where} says: they "
      "are taken for train"
    )
  return Splits(named, faults, tuple(lines))


def _named(
  places: dict[str, list[_Parts]], found: dict[str, list[list[str]]]
) -> tuple[dict[str, str], int]:
  """The split of each picture, and how many are in train and val alike.

  A list counts more than a folder, and a folder more than one around it.
  """
  named: dict[str, tuple[tuple[bool, int], str]] = {}
  twice = set()
  for split, of_split in found.items():
    for place, pictures in zip(places[split], of_split):
      rank = place[-1].lower().endswith(_LIST), len(place)
      for picture in pictures:
        before, other = named.get(picture, ((False, 0), ""))
        if rank > before:
          named[picture] = rank, split
        elif rank == before and (other, split) == ("train", "val"):
          twice.add(picture)
  return {picture: split for picture, (_, split) in named.items()}, len(twice)


def _places(entry: Any) -> list[_Parts]:
  """The folders or lists of an entry, as parts of their paths."""
  found = []
  for place in entry if isinstance(entry, list) else [entry]:
    if isinstance(place, str):
      parts = place.replace("\\", "/").split("/")
      found.append(tuple(p for p in parts if p not in ("", ".", "..")))
  return [parts for parts in found if parts]


def _shared(folders: list[_Parts]) -> int:
  """How many of the first parts all have."""
  count = 0
  while folders and len({folder[: count + 1] for folder in folders}) == 1:
    if count == len(folders[0]):
      break
    count += 1
  return count


def _pictures(
  files: Files, place: _Parts, faults: list[BadExample]
) -> list[str]:
  """The pictures in a folder, or in a list."""
  path = "/".join(place)
  if not path.lower().endswith(_LIST):
    return [p for p in files.pictures if f"/{path}/" in f"/{p}"]
  lists = [p for p in files.paths if f"/{p}".endswith(f"/{path}")]
  found = []
  for line in files.tree.lines(lists[0]) if lists else []:
    try:
      picture, got = files.find(line), repr(line)
    except BadExample as several:
      picture, got = None, several.problem
    if picture is None:
      faults.append(
        BadExample(
          files.tree.where(lists[0]),
          "wrong-list",
          f"must list images that are there, got {got}",
        )
      )
    else:
      found.append(picture)
  return found
