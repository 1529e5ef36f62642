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
    """Writes the table over the one in `path`; the prose before it stays."""
    prose = path.read_text().partition(_TABLE)[0] if path.exists() else ""
    lines = [
      f"| {row.file} | {row.quantity} | {row.error:.1e} | {row.tolerance:.0e} |"
      for _, row in sorted(self._worst.items())
    ]
    path.write_text(prose + _TABLE + "\n".join(lines) + "\n")
