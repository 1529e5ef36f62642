"""The tables with our figures, for a terminal or a Markdown page."""

import json
import pathlib
from collections.abc import Mapping

import rich.box
import rich.table

from deeplab_jax.summary import paper_multiply_adds
from deeplab_jax.tables.published import IMAGE_SIZE, TABLES, Row, Table

NOT_RUN = "not yet run"
_COUNTS = ("B paper", "B exact", "B paper's way", "off")
_NAMES = {
  "miou": "mIoU",
  "top_1_error": "top-1 error",
  "top_5_error": "top-5 error",
}

Results = Mapping[str, Mapping[str, float]]


def load_results(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Reads our own results, one file per row of a table.

  A row's file is `<folder>/<key>.json`, named as `Table.key` says, such as
  `table3_train-16_eval-8_decoder.json`. It holds an object with each measure of
  the table as a fraction: `{"miou": 0.7935}`, or `top_1_error` and
  `top_5_error`. Other fields, such as the command and the hardware, are welcome
  and left alone.

  Args:
    folder: need not exist: then there are no results.

  Returns:
    Fractions by measure, by key.

  Raises:
    ValueError: naming the file, if its name is not a row's or a measure is
      missing or outside 0 to 1.
  """
  measures = {
    table.key(row): table.measures for table in TABLES for row in table.rows
  }
  results = {}
  for path in sorted(folder.glob("*.json")):
    if path.stem not in measures:
      raise ValueError(
        f"{path} is not named after a row of the paper's tables; the names are"
        f" {', '.join(measures)}"
      )
    results[path.stem] = _read(path, measures[path.stem])
  return results


def _read(path, measures):
  content = json.loads(path.read_text())
  for measure in measures:
    value = content.get(measure)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
      raise ValueError(
        f"{path} must hold {measure!r} as a fraction from 0 to 1, got {value!r}"
      )
  return {measure: content[measure] for measure in measures}


def headings(table: Table) -> list[str]:
  """Column headings that go with `cells`."""
  names = [_NAMES[measure] for measure in table.measures]
  figures = [f"{name} {whose}" for name in names for whose in ("paper", "ours")]
  counted = any(row.model for row in table.rows)
  return [*table.columns, *figures, *(_COUNTS if counted else ())]


def cells(table: Table, row: Row, results: Results) -> list[str]:
  """A row as text: labels, the paper's figures and ours, multiply-adds."""
  labels = ["x" if v is True else "" if v is False else v for v in row.labels]
  ours = results.get(table.key(row), {})
  figures = []
  for measure, paper in zip(table.measures, row.figures):
    own = f"{100 * ours[measure]:.2f}" if ours else NOT_RUN
    figures += [f"{paper:.2f}", own]
  return [str(label) for label in labels] + figures + _counts(row)


def _counts(row: Row) -> list[str]:
  """The columns of `_COUNTS`; the last in percent of the paper's figure."""
  if row.model is None:
    return []
  passes = row.passes()
  exact = sum(summary.total for summary in passes) / 1e9
  ours = paper_multiply_adds(passes, IMAGE_SIZE) / 1e9
  if row.multiply_adds is None:
    return ["", f"{exact:.2f}", f"{ours:.2f}", ""]
  off = 100 * (ours / row.multiply_adds - 1)
  return [
    f"{row.multiply_adds:.2f}",
    f"{exact:.2f}",
    f"{ours:.2f}",
    f"{off:+.3f} %",
  ]


def to_rich(table: Table, results: Results) -> rich.table.Table:
  """For `rich.console.Console.print`."""
  text = rich.table.Table(
    title=_title(table), caption=table.note, box=rich.box.SIMPLE_HEAD
  )
  for heading in headings(table):
    text.add_column(heading, justify="right", no_wrap=True)
  for row in table.rows:
    text.add_row(*cells(table, row, results))
  return text


def to_markdown(table: Table, results: Results) -> str:
  """A section of a Markdown page."""
  lines = [headings(table), ["---:"] * len(headings(table))]
  lines += [cells(table, row, results) for row in table.rows]
  body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  note = f"\n{table.note}\n" if table.note else ""
  return f"## {_title(table)}\n\n{body}\n{note}"


def _title(table):
  return f"Table {table.number}. {table.title}"
