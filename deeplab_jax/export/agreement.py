"""What a certificate says of files that round: how many labels they change.

No bound is promised for weights of 16 or 8 bits. So their labels are counted
against those of `Segmenter` on a user's pictures or, without, on drawn ones;
and against true labels where the pictures come with some.
"""

from typing import Any

import numpy as np

from deeplab_jax.export import certificate
from deeplab_jax.export.job import Job, Opened
from deeplab_jax.metrics import confusion_matrix_numpy, mean_iou


def measure(job: Job, opened: Opened) -> dict[str, Any]:
  """Counts what a file of lower precision changes.

  Args:
    job: what was exported.
    opened: the file.

  Returns:
    What a certificate says about it, as JSON holds it: "labels_changed" of
    "pixels", "mean_iou_with_segmenter", whose labels are then the truth, and
    with masks "mean_iou", "mean_iou_of_segmenter" and "mean_iou_lost".
  """
  # Of classes that overlap, labels are yes and no, of all classes together.
  size = 2 if job.thresholds is not None else job.model.num_classes
  agreed, found_right, wanted_right = np.zeros((3, size, size), np.int64)
  pictures, masks = job.pictures
  if not pictures:
    pictures = [image for s in certificate.samples(job) for image in s.images]
    masks = [None] * len(pictures)
  for image, mask in zip(pictures, masks, strict=True):
    found = certificate.labels_of(job, opened.run(image[None])[0])
    wanted = job.segmenter(image)
    agreed += confusion_matrix_numpy(wanted, found, size)
    if mask is not None:
      found_right += confusion_matrix_numpy(mask, found, size)
      wanted_right += confusion_matrix_numpy(mask, wanted, size)
  pixels = int(agreed.sum())
  facts = {
    "pictures": len(pictures),
    "pictures_are": "of --calibrate" if job.pictures.images else "drawn, noise",
    "pixels": pixels,
    "labels_changed": pixels - int(np.trace(agreed)),
    "mean_iou_with_segmenter": mean_iou(agreed),
  }
  if found_right.any():
    facts["mean_iou"] = mean_iou(found_right)
    facts["mean_iou_of_segmenter"] = mean_iou(wanted_right)
    lost = facts["mean_iou_of_segmenter"] - facts["mean_iou"]
    facts["mean_iou_lost"] = lost
  return {"passed": True, **facts}


def line(facts: dict[str, Any]) -> str:
  """What a certificate says, on one line."""
  share = 100 * facts["labels_changed"] / facts["pixels"]
  parts = [
    f"{share:.2f} % of {facts['pixels']} labels differ from Segmenter's on "
    f"{facts['pictures']} pictures ({facts['pictures_are']})",
    f"mean IoU with its labels {100 * facts['mean_iou_with_segmenter']:.2f} %",
  ]
  if "mean_iou" in facts:
    parts.append(
      f"mean IoU with the masks {100 * facts['mean_iou']:.2f} %, Segmenter's "
      f"{100 * facts['mean_iou_of_segmenter']:.2f} %"
    )
  return f"certificate of lower precision: {', '.join(parts)}"
