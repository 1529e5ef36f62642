"""A checkpoint on a split: exact counts, figures, pictures, a report."""

from deeplab_jax.evaluate.loop import evaluate, make_protocol
from deeplab_jax.evaluate.report import report
from deeplab_jax.evaluate.results import Detail, Evaluation, ScoredPicture

__all__ = [
  "Detail",
  "Evaluation",
  "ScoredPicture",
  "evaluate",
  "make_protocol",
  "report",
]
