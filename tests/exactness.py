"""Remembers how far tests on golden files were from them, and tabulates it.

`make exactness` runs those tests and writes `docs/exactness.md`.
"""

import pathlib
from typing import NamedTuple

_TABLE = """\
| golden file | quantity | worst error | tolerance |
| --- | --- | --- | --- |
"""


class Row(NamedTuple):
  """One line of the table."""

  file: str
  quantity: str
  error: float
  tolerance: float


class Exactness:
  """Holds errors to tolerances; keeps the worst of each file and quantity."""

  def __init__(self):
    self._worst: dict[tuple[str, str], Row] = {}

  def check(
    self, file: str, quantity: str, error: float, tolerance: float
  ) -> None:
    """Fails if `error` exceeds `tolerance`; NaN does."""
    key = (file, quantity)
    if key not in self._worst or not error <= self._worst[key].error:
      self._worst[key] = Row(file, quantity, float(error), tolerance)
    assert error <= tolerance, f"{file}, {quantity}: {error} > {tolerance}"

  def write(self, path: pathlib.Path) -> None:
    """Writes the table over the one in `path`; the prose before it stays.

    So do the rows of what was not compared, such as for want of torch.
    """
    text = path.read_text() if path.exists() else ""
    prose, _, table = text.partition(_TABLE)
    rows = {_key(line): line for line in table.splitlines()}
    for row in self._worst.values():
      line = (
        f"| {row.file} | {row.quantity} | {row.error:.1e} | "
        f"{row.tolerance:.0e} |"
      )
      rows[_key(line)] = line
    lines = [line for _, line in sorted(rows.items())]
    path.write_text(prose + _TABLE + "\n".join(lines) + "\n")


def _key(line: str) -> tuple[str, ...]:
  """File and quantity of a line of the table."""
  return tuple(line.split(" | ")[:2])
