"""From images to label maps: any size, scales, mirror images, tiles."""

import os
from typing import Any

from deeplab_jax.checkpoints import load_variables
from deeplab_jax.inference.fusion import (
  label_dtype,
  logits_fn,
  predict_fn,
  scaled_size,
)
from deeplab_jax.inference.segmenter import Segmenter
from deeplab_jax.models import for_inference

__all__ = [
  "Segmenter",
  "label_dtype",
  "load",
  "logits_fn",
  "predict_fn",
  "scaled_size",
]


def load(
  path: str | os.PathLike,
  output_stride: int | None = None,
  dtype: str | None = None,
  **options: Any,
) -> Segmenter:
  """A segmenter of a stored model.

  Args:
    path: a workdir, a step in it, its `best`, or an imported model directory.
    output_stride: 8, 16 or 32 in place of the stored model's.
    dtype: "float32" or "bfloat16", which the network computes in; None takes
      what it was trained in. A CPU without instructions for bfloat16 takes
      longer in it.
    **options: further arguments of `Segmenter`, such as `scales` and `flip`.

  Raises:
    ValueError: nothing to load at `path`, or a wrong argument.
  """
  model, variables, facts = load_variables(path)
  model = for_inference(model, output_stride, dtype)
  return Segmenter.from_model_json(model, variables, facts, **options)
