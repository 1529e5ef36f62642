"""What a network costs: multiply-adds, parameters, activation bytes.

From shapes alone: nothing runs and nothing is allocated. `multiply_adds` gives
the exact count, `paper_multiply_adds` what the paper's tables would print.
"""

from deeplab_jax.summary.counting import Layer, Summary, multiply_adds
from deeplab_jax.summary.paper import evaluation_passes, paper_multiply_adds

__all__ = [
  "Layer",
  "Summary",
  "evaluation_passes",
  "multiply_adds",
  "paper_multiply_adds",
]
