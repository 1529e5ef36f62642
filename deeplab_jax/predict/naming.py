"""Which pictures to read, and under which name their results go."""

import collections
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image


class Job(NamedTuple):
  """One picture and the name of its results.

  Attributes:
    source: path of the picture.
    name: relative path of its results, ending in ".png".
  """

  source: pathlib.Path
  name: str


def find_jobs(
  inputs: Iterable[str | os.PathLike], out: str | os.PathLike
) -> list[Job]:
  """The pictures named by `inputs`, each with a name of its own.

  A picture given by its path goes to `<stem>.png`, one found in a folder keeps
  its place in the folder's tree: `<below folder>/<stem>.png`. Where that would
  be the same for several, the ending stays (`<stem>.jpg.png`), and if that does
  not tell them apart either, they are numbered (`<stem>.jpg.2.png`).

  Args:
    inputs: files, taken whatever their name, and folders, searched to any
      depth for files with the ending of a picture.
    out: folder of the results; passed over when searching.

  Raises:
    ValueError: a folder holds no picture.
  """
  out = pathlib.Path(out).resolve()
  found = {}  # the same file may be named twice
  for path in map(pathlib.Path, inputs):
    if path.is_dir():
      found.update((p, p.relative_to(path)) for p in _pictures(path, out))
    else:
      found[path] = pathlib.Path(path.name)
  names = _distinct_names(list(found.values()))
  return [Job(source, name) for source, name in zip(found, names)]


def _pictures(folder: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
  """The pictures below `folder` but not below `out`, in order of name."""
  found = []
  for root, folders, files in os.walk(folder):
    root = pathlib.Path(root)
    folders[:] = [
      name
      for name in folders
      if not name.startswith(".") and (root / name).resolve() != out
    ]
    found += [root / name for name in files if _looks_like_picture(name)]
  if not found:
    raise ValueError(f"no pictures in folder {folder}")
  return sorted(found)


def _looks_like_picture(name: str) -> bool:
  suffix = pathlib.PurePath(name).suffix.lower()
  return not name.startswith(".") and suffix in _suffixes()


@functools.cache
def _suffixes() -> frozenset[str]:
  """Endings of the files that Pillow can open."""
  endings = Image.registered_extensions()
  return frozenset(e for e, kind in endings.items() if kind in Image.OPEN)


def _distinct_names(paths: list[pathlib.Path]) -> Iterator[str]:
  """One name per path, see `find_jobs`; capitals do not tell names apart."""
  short = [path.with_suffix(".png").as_posix() for path in paths]
  counts = collections.Counter(name.casefold() for name in short)
  taken = {name for name, count in counts.items() if count == 1}
  for path, name in zip(paths, short):
    if name.casefold() not in taken:
      name = next(n for n in _long_names(path) if n.casefold() not in taken)
      taken.add(name.casefold())
    yield name


def _long_names(path: pathlib.Path) -> Iterator[str]:
  yield f"{path.as_posix()}.png"
  for number in itertools.count(2):
    yield f"{path.as_posix()}.{number}.png"
