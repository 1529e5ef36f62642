"""By which rules kinds of files become labels, as names of built data sets and
published ones have it.

What was built or published by other rules is not taken for what would be built
now.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable

# Raise a number when files of the kind become other labels than before.
_RULES = {"exports": 3, "TIFFs": 1}
_DOCUMENTS = (".json", ".parquet", ".csv", ".yaml", ".yml", "labelmap.txt")
_OWN = ("classes.yaml",)  # which folders of images and masks have
_TIFFS = (".tif", ".tiff")
_WORDS = re.compile(rf"({'|'.join(_RULES)}), rules \d+")
# What is said of an export first.
_TITLE = re.compile(r".+, \d+ images, \d+ classes( and background)?")


def rules_of(paths: Iterable[str]) -> list[str]:
  """The rules of the kinds that there are among some files."""
  places = [pathlib.PurePosixPath(path.lower()) for path in paths]
  # Texts of YOLO are called as their pictures.
  stems = {place.stem for place in places if place.suffix != ".txt"}
  kinds = {kind for place in places for kind in _kinds(place, stems)}
  return [_words(kind) for kind in _RULES if kind in kinds]


def _kinds(place: pathlib.PurePosixPath, stems: set[str]) -> Iterable[str]:
  name = place.name
  is_text = place.suffix == ".txt" and place.stem in stems
  is_document = name.endswith(_DOCUMENTS) and name not in _OWN
  if is_document or is_text or name.isdecimal():
    yield "exports"
  if name.endswith(_TIFFS):
    yield "TIFFs"


def _words(kind: str) -> str:
  return f"{kind}, rules {_RULES[kind]}"


def published(reading: str, paths: Iterable[str]) -> str:
  """How files are read, in words, as it is published.

  Args:
    reading: as `Reading` says it.
    paths: of the user's files.
  """
  return ", ".join([reading, *rules_of(paths)])


def as_now(reading: str, was: str, said: Iterable[str]) -> str:
  """What `published` would say now of what is published.

  Args:
    reading: what is asked for, as `Reading` says it.
    was: what `published` said; before there were rules, `reading` alone.
    said: of the data set, which tells exports of that time.
  """
  kinds = {found[1] for found in _WORDS.finditer(was)}
  if any(map(_TITLE.fullmatch, said)):
    kinds.add("exports")
  return ", ".join([reading, *(_words(k) for k in _RULES if k in kinds)])
