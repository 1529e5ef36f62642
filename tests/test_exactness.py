"""The table of docs/exactness.md is kept up to date row by row."""

import pytest

from tests.exactness import Exactness


def test_rows_of_what_was_not_compared_stay(tmp_path):
  table = tmp_path / "exactness.md"
  table.write_text("Prose.\n\n")
  first, second = Exactness(), Exactness()
  first.check("b.npz", "logits", 3e-6, 1e-4)
  first.check("a.npz", "logits", 1e-6, 1e-4)
  first.check("a.npz", "logits", 2e-6, 1e-4)
  first.write(table)
  second.check("b.npz", "labels", 0, 0)
  second.check("b.npz", "logits", 4e-6, 1e-4)
  with pytest.raises(AssertionError, match=r"c\.npz, logits: nan > 1"):
    second.check("c.npz", "logits", float("nan"), 1)
  second.write(table)
  assert table.read_text().splitlines() == [
    "Prose.",
    "",
    "| golden file | quantity | worst error | tolerance |",
    "| --- | --- | --- | --- |",
    "| a.npz | logits | 2.0e-06 | 1e-04 |",
    "| b.npz | labels | 0.0e+00 | 0e+00 |",
    "| b.npz | logits | 4.0e-06 | 1e-04 |",
    "| c.npz | logits | nan | 1e+00 |",
  ]
