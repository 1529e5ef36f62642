"""The proof beside a file: that it computes what `Segmenter` computes.

A file is run in its runtime on drawn scenes and on noise, of sizes that are
odd, smaller than the network's stride and, if the file takes any number of
pictures, two at once. Labels are held against those of `Segmenter`, logits
against the network's definition: the picture alone, padded to its crop, nothing
folded, no canvas.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from deeplab_jax.data.builders import scenes
from deeplab_jax.export.job import Job, Opened, Size
from deeplab_jax.models import DeepLab, preprocess, resize_bilinear

TOLERANCE = 1e-4
"""Of a logit, relative to the largest; of the two largest probabilities, below
which a label may differ; of a probability, where there are no logits."""


class Sample(NamedTuple):
  """Some pictures of one size.

  Attributes:
    kind: "scene" or "noise".
    images: (b, h, w, channels) of the network's dtype.
  """

  kind: str
  images: np.ndarray


def samples(job: Job) -> Iterator[Sample]:
  """The pictures that a file is tried on, always the same."""
  random = np.random.default_rng(0)
  sizes = _sizes(job)
  for i, size in enumerate(sizes):
    count = 2 if i == 1 or len(sizes) == 1 else 1
    scene = np.stack([_scene(random, size) for _ in range(count)])
    yield Sample("scene", _as_taken(job.model, scene))
    noise = random.integers(0, 256, (count, *size, 3), np.uint8)
    yield Sample("noise", _as_taken(job.model, noise))


def _as_taken(model: DeepLab, images: np.ndarray) -> np.ndarray:
  """RGB of 8 bits (b, h, w, 3) as pictures that `model` takes."""
  channels = [i % 3 for i in range(model.channels)]
  images = images[..., channels]
  if not model.value_range:
    return images
  low, high = np.transpose(model.value_range)
  values = low + images / 255 * (high - low)
  return values.astype(model.image_dtype)


def _sizes(job: Job) -> tuple[Size, ...]:
  """Three sizes: below the stride, odd, and beyond the least crop."""
  if job.sizes:
    return job.sizes
  stride, least = job.model.output_stride, job.protocol.least_crop
  beyond = max(161, least[0] + stride + 3), max(129, least[1] + 2 * stride - 6)
  return (stride - 3, stride - 1), (97, 131), beyond


def _scene(random: np.random.Generator, size: Size) -> np.ndarray:
  image, _ = scenes.draw(random)
  return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def measure(job: Job, opened: Opened) -> dict[str, Any]:
  """Holds a file against the network that it was made of.

  Args:
    job: what was exported.
    opened: the file.

  Returns:
    What a certificate says about it, as JSON holds it; "passed" among it.
  """
  pictures = []
  for sample in samples(job):
    found, behind = opened.run(sample.images), opened.behind(sample.images)
    for i, image in enumerate(sample.images):
      facts = {"kind": sample.kind, "size": list(image.shape[:2])}
      facts["batch"] = len(sample.images)
      # Which GPUs and TPUs would multiply in fewer bits.
      with jax.default_matmul_precision("float32"):
        pictures.append(facts | _compare(job, image, found[i], behind[i]))
  return _summary(pictures)


def _compare(
  job: Job, image: np.ndarray, found: np.ndarray, behind: np.ndarray
) -> dict[str, Any]:
  """Differences of one picture, and what there is to compare."""
  wanted = job.segmenter.outputs(image, "labels", "probabilities")
  labels, clear = labels_of(job, found), _clear(job, wanted["probabilities"])
  if labels.shape != clear.shape:
    raise ValueError(f"a picture of {clear.shape} has labels {labels.shape}")
  differs = labels != wanted["labels"]
  facts = {
    "pixels": int(labels.size),
    "labels_differing": int(differs.sum()),
    "clear_labels_differing": int((differs & clear).sum()),
    "clear_pixels": int(clear.sum()),
  }
  compared = {job.behind: [behind]}
  if job.output != "labels":
    compared.setdefault(job.output, []).append(found)
  if "probabilities" in compared:
    facts["probability_difference"] = max(
      _distance(array, wanted["probabilities"])
      for array in compared["probabilities"]
    )
  if "logits" in compared:
    logits = definition(job, image)
    facts["largest_logit"] = float(np.abs(logits).max())
    largest = max(_distance(array, logits) for array in compared["logits"])
    facts["logit_difference"] = largest / max(facts["largest_logit"], 1e-30)
  return facts


def labels_of(job: Job, found: np.ndarray) -> np.ndarray:
  """The labels that follow from what a file gives, whatever that is."""
  if job.output == "labels":
    return found
  if job.thresholds is None:
    return found.argmax(-1)
  if job.output == "logits":
    found = 1 / (1 + np.exp(-found.astype(np.float64)))
  least = np.asarray(job.thresholds, np.float32)
  return (found >= least).astype(np.uint8)


def _clear(job: Job, probabilities: np.ndarray) -> np.ndarray:
  """Where no difference within the tolerance can make another label."""
  if job.thresholds is not None:
    return np.abs(probabilities - np.float32(job.thresholds)) > TOLERANCE
  if probabilities.shape[-1] == 1:
    return np.ones(probabilities.shape[:2], bool)
  top = np.sort(probabilities, axis=-1)
  return top[..., -1] - top[..., -2] > TOLERANCE


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
  """The largest difference; as large as can be where one is no number."""
  distance = np.abs(found.astype(np.float64) - wanted).max()
  return float(distance) if np.isfinite(distance) else sys.float_info.max


def definition(job: Job, image: np.ndarray) -> np.ndarray:
  """Logits (h, w, classes) of one picture, the plain way."""
  height, width = image.shape[:2]
  crop = job.protocol.crop((height, width), job.model.crop_stride)
  model = job.model
  padded = np.zeros((1, *crop, model.channels), np.float32)
  inputs = preprocess(image, model.backbone, model.value_range)
  padded[0, :height, :width] = inputs
  logits = _network(job.model, job.protocol.scales[0])(job.variables, padded)
  return np.asarray(logits)[0, :height, :width]


@functools.lru_cache(maxsize=2)
def _network(model: Any, scale: float) -> Callable:
  """The jitted network, its logits resized to its input."""

  @jax.jit
  def apply(variables, images):
    size = images.shape[1:3]
    half = model.half_pixel
    scaled = [
      int(np.ceil(side * scale)) if half else int((side - 1) * scale + 1)
      for side in size
    ]
    logits = model.apply(variables, resize_bilinear(images, scaled, half))
    if scale < 1:
      stride = model.logits_stride
      coarse = [-(-side // stride) for side in size]
      logits = resize_bilinear(logits, coarse, half)
    return resize_bilinear(logits, size, half)

  return apply


def _summary(pictures: list[dict[str, Any]]) -> dict[str, Any]:
  """The worst of all pictures, and whether it is good enough."""

  def worst(name):
    found = [picture[name] for picture in pictures if name in picture]
    return max(found, default=None)

  def total(name):
    return sum(picture[name] for picture in pictures)

  facts = {
    "worst_logit_difference": worst("logit_difference"),
    "worst_probability_difference": worst("probability_difference"),
    "pixels": total("pixels"),
    "labels_differing": total("labels_differing"),
    "clear_labels_differing": total("clear_labels_differing"),
    "clear_pixels": total("clear_pixels"),
  }
  is_good = facts["clear_labels_differing"] == 0 and all(
    map(_is_near, pictures)
  )
  return {
    "tolerance": TOLERANCE,
    **facts,
    "passed": is_good,
    "pictures": pictures,
  }


def _is_near(picture: dict[str, Any]) -> bool:
  """Whether what was compared of a picture is within the tolerance."""
  # What a logit within it can do to a probability.
  allowed = TOLERANCE * max(1, picture.get("largest_logit", 0) / 2)
  return (
    picture.get("logit_difference", 0) <= TOLERANCE
    and picture.get("probability_difference", 0) <= allowed
  )


def line(facts: dict[str, Any]) -> str:
  """What a certificate says, on one line."""
  parts = []
  if facts["worst_logit_difference"] is not None:
    worst = facts["worst_logit_difference"]
    parts.append(f"logits within {worst:.1e} of the largest")
  if facts["worst_probability_difference"] is not None:
    worst = facts["worst_probability_difference"]
    parts.append(f"probabilities within {worst:.1e}")
  count, total = facts["labels_differing"], facts["pixels"]
  parts.append(f"{count} of {total} labels differ from Segmenter's")
  parts.append(f"{facts['clear_labels_differing']} of them clear")
  verdict = "passed" if facts["passed"] else "FAILED"
  return f"certificate {verdict}: {', '.join(parts)}"
