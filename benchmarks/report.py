"""The results of a benchmark as a Markdown table and as JSON."""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import roofline
from benchmarks.timing import Case, Comparison, Result

_HEADINGS = (
  "case",
  "program",
  "median ms",
  "p10 ms",
  "images/s",
  "ratio",
  "ratio, p10",
  "start s",
  "peak MiB",
  "temporary MiB",
  "differs by",
)


def table(comparisons: Sequence[Comparison]) -> str:
  """One Markdown table per part, with a row per program or layer."""
  tables = []
  for part in dict.fromkeys(case.part for case, _ in comparisons):
    chosen = [(case, found) for case, found in comparisons if case.part == part]
    if part == "roofline":
      headings, rows = roofline.HEADINGS, [roofline.row(*c) for c in chosen]
    else:
      headings = _HEADINGS
      rows = [_row(c, result, found) for c, found in chosen for result in found]
    title = part.replace("_", " ").capitalize()
    tables.append(f"## {title}\n\n{markdown(headings, rows)}")
  return "\n\n".join(tables)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table; the first column, names, to the left."""
  lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(case: Case, result: Result, results: list[Result]) -> list[str]:
  name = str(case)
  if result.error:
    return [name, result.contender, result.error, *[""] * 8]
  reference = results[0]
  ratios = ["", ""]
  if result is not reference and not reference.error and result.seconds:
    ratios = [
      f"{reference.percentile(q) / result.percentile(q):.2f}" for q in (50, 10)
    ]
  return [
    name,
    result.contender,
    digits(1e3 * result.percentile(50)),
    digits(1e3 * result.percentile(10)),
    digits(case.batch / result.percentile(50)),
    *ratios,
    "" if result.start_seconds is None else f"{result.start_seconds:.1f}",
    *map(_mebibytes, (result.memory, result.temporaries)),
    "" if result.difference is None else f"{result.difference:.1e}",
  ]


def digits(value: float) -> str:
  """Three digits, or all before the point; nothing of what was not timed."""
  if np.isnan(value):
    return ""
  return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _mebibytes(count: int | None) -> str:
  return "" if count is None else f"{count / 2**20:.0f}"


def write(
  folder: pathlib.Path, facts: dict[str, Any], comparisons: list[Comparison]
) -> str:
  """Writes `benchmark.md` and `benchmark.json`; returns the former."""
  folder.mkdir(parents=True, exist_ok=True)
  text = "\n\n".join([_facts(facts), table(comparisons)]) + "\n"
  (folder / "benchmark.md").write_text(text)
  rows = [
    dataclasses.asdict(case) | dataclasses.asdict(result) | _percentiles(result)
    for case, results in comparisons
    for result in results
  ]
  (folder / "benchmark.json").write_text(_json(facts, rows))
  return text


def _json(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
  """`{"facts": ..., "results": [...]}`, a row a line."""
  lines = ",\n".join(map(json.dumps, rows))
  return f'{{"facts": {json.dumps(facts)},\n"results": [\n{lines}\n]}}\n'


def _percentiles(result: Result) -> dict[str, float]:
  if not result.seconds:
    return {}
  return {"median": result.percentile(50), "p10": result.percentile(10)}


def _facts(facts: dict[str, Any]) -> str:
  versions = ", ".join(f"{n} {v}" for n, v in facts["versions"].items())
  dirty = " with uncommitted changes" if facts["uncommitted changes"] else ""
  device = facts["accelerator"] or facts["cpu"]
  paragraphs = [
    f"# Benchmark of {facts['date']}",
    f"{device}; {facts['threads']} of {facts['cores']} cores; {versions}; "
    f"commit {facts['commit']}{dirty}; {facts['rounds']} rounds of "
    f"{facts['calls']} calls, each after {facts['warm']} uncounted; load "
    f"{facts['load before']} before and {facts['load after']} after.",
    "A ratio is the time of the first program of a case, jax's, over that of "
    "the line: below 1, jax is faster.",
  ]
  return "\n\n".join(
    textwrap.fill(paragraph, 80, break_on_hyphens=False)
    for paragraph in paragraphs
  )
