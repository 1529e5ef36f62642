"""The evaluation protocol: how a picture is brought before a network.

A picture's labels depend on the model, the picture and the fields of `Protocol`
alone. Prediction and evaluation lay pictures out here, and nowhere else.
"""

import argparse
import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deeplab_jax.inference.tiles import Span, windows

Size = tuple[int, int]

_SMALLEST_CANVAS = 257
_DENOMINATORS = (1, 2, 4)
_COARSEST_STRIDE = 32


class Window(NamedTuple):
  """A part of a picture that the network sees at once.

  Attributes:
    rows: where it starts, and which pixels it decides.
    columns: the same across.
    crop: height and width that it is padded to at the bottom and right.
    canvas: what many such crops can share, where that is possible.
    is_whole: whether the picture is seen in this one window.
  """

  rows: Span
  columns: Span
  crop: Size
  canvas: Size
  is_whole: bool


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What the labels of a picture depend on beside model and picture.

  A picture is padded at the bottom and right to at least `least_crop`, and
  beyond that no more than the network's strides need: to a multiple of its
  output stride plus 1, or not at all if the network takes pictures as they are
  (`DeepLab.crop_stride`). With scales it is a multiple of so much that each
  scaled crop is one, too. Of more than `max_pixels`, it is cut into windows.

  Attributes:
    scales: multiples of 1/4 whose probabilities are averaged.
    flip: whether to average over the mirror images, too.
    least_crop: height and width that pictures are padded to at least; the size
      of the official evaluation for released weights, (1, 1) for others.
    max_pixels: larger crops are cut into windows, see `tiles`.
    tile: side of a window, a multiple of 32 (with scales in halves 64, in
      quarters 128) plus 1.
  """

  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  least_crop: Size = (1, 1)
  max_pixels: int = 2049 * 2049
  tile: int = 1025

  def __post_init__(self):
    scales = self.scales
    if not scales or not all(map(_is_scale, scales)):
      raise ValueError(
        f"scales must be positive multiples of 1/4, got {tuple(scales)}"
      )
    if len(self.least_crop) != 2 or min(self.least_crop) < 1:
      raise ValueError(
        "least_crop (evaluation_size, data.eval_size) must be a positive "
        f"(height, width), got {self.least_crop}"
      )
    grain = self.grain(_COARSEST_STRIDE)
    if self.tile <= grain or (self.tile - 1) % grain:
      raise ValueError(
        f"tile must be a multiple of {grain} plus 1, got {self.tile}"
      )
    if self.max_pixels < 1:
      raise ValueError(f"max_pixels must be positive, got {self.max_pixels}")

  def crop(self, size: Size, crop_stride: int) -> Size:
    """Height and width that a picture of `size` is padded to."""
    if not crop_stride:
      height, width = map(max, size, self.least_crop)
      return height, width
    grain = self.grain(crop_stride)
    height, width = (
      max(least, -(-(side - 1) // grain) * grain + 1)
      for side, least in zip(size, self.least_crop)
    )
    return height, width

  def windows(self, size: Size, crop_stride: int) -> list[Window]:
    """What the network sees of a picture of `size`: all of it, or windows."""
    crop = self.crop(size, crop_stride)
    tile, canvas = crop, tuple(map(_bucket, crop))
    if math.prod(crop) > self.max_pixels:
      tile, canvas = (
        tuple(min(side, self.tile) for side in sides)
        for sides in (crop, canvas)
      )
    grain = self.grain(_COARSEST_STRIDE)
    cut = windows(size, tile, margin=self.tile // 8, grain=grain)
    return [
      Window(
        rows,
        columns,
        (
          min(tile[0], crop[0] - rows.start),
          min(tile[1], crop[1] - columns.start),
        ),
        canvas,
        tile == crop,
      )
      for rows, columns in cut
    ]

  def fits_a_canvas(self, crop: Size, crop_stride: int) -> bool:
    """Whether a larger canvas can hold `crop` without changing the answer."""
    if not crop_stride:
      return False
    grain = self.grain(crop_stride)
    return all((side - 1) % grain == 0 for side in crop)

  def grain(self, stride: int) -> int:
    """Crops are multiples of it plus 1, so that `stride` divides every scaled
    crop less 1."""
    return stride * next(
      n
      for n in _DENOMINATORS
      if all(scale * n % 1 == 0 for scale in self.scales)
    )


def _is_scale(value: Any) -> bool:
  return isinstance(value, numbers.Real) and value > 0 and value * 4 % 1 == 0


def stored_least_crop(facts: Mapping[str, Any]) -> Size:
  """The least crop that a `model.json` of content `facts` holds."""
  size = (facts.get("evaluation") or {}).get("crop_size") or (1, 1)
  return tuple(size)


def stored_class_names(
  facts: Mapping[str, Any], num_classes: int
) -> tuple[str, ...]:
  """Names of the classes that a `model.json` holds; numbers if it has none."""
  names = (facts.get("dataset") or {}).get("class_names")
  return tuple(names or (f"class {i}" for i in range(num_classes)))


def stored_thresholds(facts: Mapping[str, Any]) -> tuple[float, ...] | None:
  """The thresholds that a `model.json` of content `facts` holds.

  None of a model whose classes exclude each other.
  """
  found = facts.get("thresholds")
  return None if found is None else tuple(found)


def checked_thresholds(
  thresholds: Sequence[float] | None, num_classes: int
) -> tuple[float, ...] | None:
  """`thresholds` as numbers, or None.

  Raises:
    ValueError: they are not one for each class, between 0 and 1.
  """
  if thresholds is None:
    return None
  found = tuple(thresholds)
  are_numbers = all(isinstance(t, int | float) for t in found)
  if len(found) != num_classes or not (
    are_numbers and all(0 < t <= 1 for t in found)
  ):
    raise ValueError(
      f"thresholds must be {num_classes} numbers above 0, at most 1, one per "
      f"class, got {found}"
    )
  return tuple(map(float, found))


def scales_argument(text: str) -> tuple[float, ...]:
  """Scales of a command line, such as 0.75,1,1.25; `Protocol` checks them.

  Raises:
    argparse.ArgumentTypeError: `text` is no such list.
  """
  try:
    return tuple(map(float, text.split(",")))
  except ValueError:
    message = f"must be numbers with commas, such as 0.75,1,1.25; got {text!r}"
    raise argparse.ArgumentTypeError(message) from None


def _bucket(side: int) -> int:
  """The next of the canvas sides 257, 385, 513, 769, 1025, 1537, ..."""
  length = _SMALLEST_CANVAS - 1
  while length < side - 1:
    is_power = length & (length - 1) == 0
    length = length * 3 // 2 if is_power else length * 4 // 3
  return length + 1
