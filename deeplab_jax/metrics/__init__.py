"""Segmentation metrics from integer counts, so that sums are exact.

A split is measured by adding the counts of its images, in any order and over
any number of devices; ratios are taken once, at the end, in float64.
"""

from deeplab_jax.metrics.boundary import (
  border_bands,
  boundary_counts,
  boundary_distance,
  boundary_iou,
  contour_strip,
  mean_boundary_iou,
  trimap_bands,
  trimap_counts,
  trimap_curve,
)
from deeplab_jax.metrics.calibration import (
  calibration_counts,
  calibration_error,
  reliability,
)
from deeplab_jax.metrics.confusion import (
  confusion_matrix,
  confusion_matrix_numpy,
  frequency_weighted_accuracy,
  iou_per_class,
  mean_accuracy,
  mean_iou,
  mean_iou_labelled,
  pixel_accuracy,
)
from deeplab_jax.metrics.overlapping import (
  best_thresholds,
  level_counts,
  mean_of_known,
  outcome_counts,
  outcome_iou,
  outcome_precision,
  outcome_recall,
  outcomes_at,
)

__all__ = [
  "best_thresholds",
  "border_bands",
  "boundary_counts",
  "boundary_distance",
  "boundary_iou",
  "calibration_counts",
  "calibration_error",
  "confusion_matrix",
  "confusion_matrix_numpy",
  "contour_strip",
  "frequency_weighted_accuracy",
  "iou_per_class",
  "level_counts",
  "mean_accuracy",
  "mean_boundary_iou",
  "mean_iou",
  "mean_iou_labelled",
  "mean_of_known",
  "outcome_counts",
  "outcome_iou",
  "outcome_precision",
  "outcome_recall",
  "outcomes_at",
  "pixel_accuracy",
  "reliability",
  "trimap_bands",
  "trimap_counts",
  "trimap_curve",
]
