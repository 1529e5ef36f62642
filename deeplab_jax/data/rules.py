"""By which rules kinds of files become labels, as names of built data sets and
published ones have it.

What was built or published by other rules is not taken for what would be built
now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from deeplab_jax.data.builders import trees

# Raise a number when files of the kind become other labels than before.
_RULES = {"exports": 4, "TIFFs": 2, "numbered splits": 1}
_DOCUMENTS = (".parquet", ".csv", ".yaml", ".yml", "labelmap.txt")
_OWN = ("classes.yaml",)  # which folders of images and masks have
_TIFFS = (".tif", ".tiff")
# Folders of images and masks that are called as a split with a number.
_SPLITS = re.compile(r"(^|/)(train|val|test)[a-z]*[-_ ]?\d+/", re.IGNORECASE)
_WORDS = re.compile(rf"({'|'.join(_RULES)}), rules \d+")
# What is said of an export first.
_TITLE = re.compile(r".+, \d+ images, \d+ classes( and background)?")


def rules_of(paths: Iterable[str]) -> list[str]:
  """The rules of the kinds that there are among some files."""
  paths = list(paths)
  names = [path.lower().rpartition("/")[2] for path in paths]
  # Texts of YOLO are called as their pictures.
  texts = {name.removesuffix(".txt") for name in names if name[-4:] == ".txt"}
  others = (name.rpartition(".")[0] for name in names if name[-4:] != ".txt")
  kinds = {
    "exports": any(map(_is_document, names)) or not texts.isdisjoint(others),
    "TIFFs": any(name.endswith(_TIFFS) for name in names),
    "numbered splits": any(map(_SPLITS.search, paths)),
  }
  return [_words(kind) for kind in _RULES if kinds[kind]]


def _is_document(name: str) -> bool:
  is_one = name.endswith(_DOCUMENTS) or trees.is_document(name)
  return is_one and name not in _OWN


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
