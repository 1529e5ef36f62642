"""What a prepared split holds: the name and a digest of each example.

Builders write it beside the records, whose bytes nobody then has to read to see
whether two states of a data set differ, and in which examples.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

Entry = tuple[str, str]


def entry(record: Mapping[str, Any]) -> Entry:
  """The name of a record, and what changes with its image or its label."""
  label = record["label"]
  encoded = label if isinstance(label, bytes) else str(label).encode()
  digest = hashlib.blake2b(record["image"], digest_size=6)
  digest.update(encoded)
  return record["name"], digest.hexdigest()


def write(folder: pathlib.Path, split: str, entries: list[Entry]) -> None:
  """Stores the entries of `split`, in the order of its records."""
  _path(folder, split).write_text(json.dumps(entries))


def read(folder: pathlib.Path, split: str) -> list[Entry] | None:
  """The entries of `split`; None if its builder was too old to write them."""
  path = _path(folder, split)
  if not path.is_file():
    return None
  return [(name, digest) for name, digest in json.loads(path.read_text())]


def _path(folder: pathlib.Path, split: str) -> pathlib.Path:
  return folder / f"examples-{split}.json"
