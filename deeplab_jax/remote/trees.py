"""Whole folders to and from an object store, several files at a time.

A folder can neither appear nor vanish at once. It is whole once the file is
there that goes up last, and what a kill leaves is marked as unfinished.
"""

import os
import pathlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from deeplab_jax.remote.address import Address

_THREADS = 16
UNFINISHED = "unfinished"
"""The object that is in a folder while it is uploaded or removed."""


def upload(folder: pathlib.Path, target: Address, last: str) -> None:
  """Puts the files of a folder below `target`, that named `last` in the end.

  Whoever finds `last` there finds all. Until then there is `UNFINISHED`.
  """
  names = [
    pathlib.Path(parent, name).relative_to(folder).as_posix()
    for parent, _, files in os.walk(folder)
    for name in files
  ]

  def put(name: str) -> None:
    (target / name).write_bytes((folder / name).read_bytes())

  (target / UNFINISHED).write_bytes(b"1")
  _all(put, (name for name in names if name != last))
  put(last)
  (target / UNFINISHED).unlink()


def download(
  source: Address, names: Iterable[str], folder: pathlib.Path
) -> None:
  """Reads the objects of these names below `source` into `folder`.

  Raises:
    FileNotFoundError: one is not there.
  """

  def get(name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((source / name).read_bytes())

  _all(get, names)


def remove_tree(target: Address, last: str) -> None:
  """Removes all below `target`; it is `UNFINISHED` before `last` is gone."""
  names = target.below()
  if not names:
    return
  (target / UNFINISHED).write_bytes(b"1")
  for name in [last] if last in names else []:
    (target / name).unlink()
  _all(lambda name: (target / name).unlink(), (n for n in names if n != last))
  (target / UNFINISHED).unlink()


def copy_tree(source: Address, target: Address) -> None:
  """Copies all below `source`."""

  def copy(name: str) -> None:
    (target / name).write_bytes((source / name).read_bytes())

  _all(copy, source.below())


def _all(function: Callable[[str], None], names: Iterable[str]) -> None:
  """Calls `function` with each name; raises the first error, after all."""
  with ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(function, names))
