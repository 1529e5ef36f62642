"""The paper's tables 1 to 5, its figures beside ours."""

from deeplab_jax.tables.published import TABLES, Row, Table
from deeplab_jax.tables.table_text import (
  cells,
  headings,
  load_results,
  to_markdown,
  to_rich,
)

__all__ = [
  "TABLES",
  "Row",
  "Table",
  "cells",
  "headings",
  "load_results",
  "to_markdown",
  "to_rich",
]
