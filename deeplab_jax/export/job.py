"""What is to be exported: a stored network and how it looks at pictures."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.checkpoints import items, load_variables
from deeplab_jax.checkpoints.model_directory import read_description
from deeplab_jax.export.calibration import Pictures, read
from deeplab_jax.export.program import OUTPUTS, crop_of
from deeplab_jax.inference import Segmenter
from deeplab_jax.inference.protocol import (
  Protocol,
  stored_least_crop,
  stored_thresholds,
)
from deeplab_jax.models import DeepLab, for_inference

Size = tuple[int, int]
PRECISIONS = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True)
class Job:
  """One file to be.

  Attributes:
    model: the network. Files compute in float32.
    variables: its `{"params", "batch_stats"}`.
    facts: content of its `model.json`.
    protocol: how pictures are brought before it.
    output: of `OUTPUTS`.
    sizes: heights and widths of the pictures that it takes; () for any.
    precision: of its numbers: "float32", "float16" or "int8".
    pictures: of `sizes[0]`, to calibrate with and to say what a lower precision
      changes.
  """

  model: DeepLab
  variables: Any
  facts: Mapping[str, Any]
  protocol: Protocol
  output: str = "labels"
  sizes: tuple[Size, ...] = ()
  precision: str = "float32"
  pictures: Pictures = dataclasses.field(default_factory=Pictures)

  @property
  def behind(self) -> str:
    """What labels are the largest of: logits, or, if several views are
    averaged, their probabilities."""
    is_one_view = len(self.protocol.scales) == 1 and not self.protocol.flip
    return "logits" if is_one_view else "probabilities"

  @property
  def thresholds(self) -> tuple[float, ...] | None:
    """Of a model whose classes overlap: see `Segmenter`."""
    return stored_thresholds(self.facts)

  @functools.cached_property
  def segmenter(self) -> Segmenter:
    """What the file is held against."""
    return Segmenter.from_model_json(
      self.model,
      self.variables,
      self.facts,
      scales=self.protocol.scales,
      flip=self.protocol.flip,
    )

  @functools.cached_property
  def weights_sha256(self) -> str:
    """Of names, types, shapes and numbers of the variables."""
    return items.digest(self.variables)

  def metadata(self) -> dict[str, Any]:
    """What a file says about itself, as JSON holds it."""
    model, segmenter = self.model, self.segmenter
    overlap = self.thresholds is not None
    return {
      "class_names": list(segmenter.class_names),
      "colors": [list(map(int, color)) for color in segmenter.colors],
      "license": self.facts.get("license"),
      "source": self.facts.get("source"),
      "backbone": model.backbone,
      "head": model.head,
      "output_stride": model.output_stride,
      "output": self.output,
      "precision": self.precision,
      "scales": list(self.protocol.scales),
      "flip": self.protocol.flip,
      "least_crop": list(self.protocol.least_crop),
      "channels": model.channels,
      "image_dtype": model.image_dtype,
      "value_range": [list(pair) for pair in model.value_range],
      "preprocessing": _preprocessing(model),
      "weights_sha256": self.weights_sha256,
      **({"thresholds": list(self.thresholds)} if overlap else {}),
    }


def _preprocessing(model: DeepLab) -> str:
  """What a user has to do to a picture."""
  kind = model.image_dtype + (" RGB" if _takes_rgb(model) else "")
  shape = f"(batch, height, width, {model.channels})"
  return f"none: pictures are {kind} {shape}, as decoded"


def _takes_rgb(model: DeepLab) -> bool:
  return (model.channels, model.image_dtype) == (3, "uint8")


class Opened(NamedTuple):
  """A file, ready to look at pictures, (b, h, w, channels).

  Attributes:
    run: gives what the file gives.
    behind: gives `Job.behind`, float32 (b, h, w, num_classes), computed with
      the weights in the file.
    parts: what the file consists of, such as "129 nodes".
  """

  run: Callable[[np.ndarray], np.ndarray]
  behind: Callable[[np.ndarray], np.ndarray]
  parts: str


def read_job(
  checkpoint: str | os.PathLike,
  *,
  output: str = "labels",
  sizes: Sequence[Size] = (),
  scales: Sequence[float] = (1.0,),
  flip: bool = False,
  output_stride: int | None = None,
  precision: str | None = None,
  calibrate: str | os.PathLike | None = None,
) -> Job:
  """Reads a stored network, and checks what is asked for before.

  Args:
    checkpoint: as `deeplab_jax.load` takes it.
    output: of `OUTPUTS`.
    sizes: heights and widths of pictures; () for any.
    scales: multiples of 1/4 whose probabilities are averaged.
    flip: whether to average over mirror images, too.
    output_stride: 8, 16 or 32 in place of the stored one.
    precision: of `PRECISIONS`; by default int8 with `calibrate`, else float32.
    calibrate: a folder of pictures, see `calibration.read`.

  Raises:
    ValueError: an argument is wrong, or nothing usable is there.
  """
  if output not in OUTPUTS:
    raise ValueError(
      f"output must be one of {', '.join(OUTPUTS)}; got {output}"
    )
  precision = _precision(precision, calibrate)
  model, facts = read_description(checkpoint)
  if not isinstance(model, DeepLab):
    raise ValueError(f"{checkpoint} must hold a segmenter, got a classifier")
  model = for_inference(model, output_stride, "float32")
  protocol = Protocol(tuple(scales), flip, stored_least_crop(facts))
  if output == "logits" and (len(protocol.scales) > 1 or flip):
    raise ValueError(
      "output logits is of one view; several scales or mirror images have "
      "their probabilities averaged: give output probabilities"
    )
  sizes = tuple(dict.fromkeys(tuple(size) for size in sizes))
  check_sizes(sizes, model, protocol)
  _, variables, facts = load_variables(checkpoint)
  if calibrate is not None and not _takes_rgb(model):
    raise ValueError(
      "--calibrate is for networks that take RGB of 8 bits, got one for "
      f"{model.channels} channels of {model.image_dtype}"
    )
  pictures = Pictures() if calibrate is None else read(calibrate, sizes[0])
  if (
    stored_thresholds(facts) is not None
  ):  # masks/ would have one class a pixel
    pictures = pictures._replace(masks=(None,) * len(pictures.images))
  return Job(
    model, variables, facts, protocol, output, sizes, precision, pictures
  )


def _precision(
  precision: str | None, calibrate: str | os.PathLike | None
) -> str:
  """What is meant by two arguments of `read_job`."""
  if precision is None:
    return "float32" if calibrate is None else "int8"
  if precision not in PRECISIONS:
    raise ValueError(
      f"precision must be one of {', '.join(PRECISIONS)}; got {precision}"
    )
  if precision == "int8" and calibrate is None:
    raise ValueError("precision int8 needs pictures: give --calibrate FOLDER")
  if precision == "float32" and calibrate is not None:
    raise ValueError("precision float32 has no use for --calibrate")
  return precision


def check_sizes(
  sizes: Sequence[Size], model: DeepLab, protocol: Protocol
) -> None:
  """Raises ValueError for sizes that a file cannot be of."""
  for size in sizes:
    if len(size) != 2 or min(size) < 1:
      raise ValueError(f"size must be a positive HxW, got {size}")
    crop = crop_of(size, protocol, model.crop_stride)
    if crop[0] * crop[1] > protocol.max_pixels:
      raise ValueError(
        f"size {size[0]}x{size[1]} has more than {protocol.max_pixels} pixels, "
        "which are labelled in windows; a file sees its picture whole: export "
        "the size of a window, such as --size 1025x1025, and cut pictures"
      )
