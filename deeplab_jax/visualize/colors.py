"""From class numbers to colours: palettes, indexed PNG files, overlays."""

import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from deeplab_jax import atomic
from deeplab_jax.data.classes import IGNORE

Colors = Sequence[tuple[int, int, int]]


def voc_colormap(num_colors: int = 256) -> np.ndarray:
  """The colour map of PASCAL VOC, uint8 (num_colors, 3).

  The bits of the class number, three at a time, become the bits of red, green
  and blue, highest first.
  """
  number = np.arange(num_colors)[:, None]
  color = np.zeros((num_colors, 3), int)
  for bit in range(8):
    color |= (number >> (3 * bit + np.arange(3)) & 1) << (7 - bit)
  return color.astype(np.uint8)


def palette(colors: Colors) -> np.ndarray:
  """At least 256 colours, uint8 (n, 3): `colors`, then VOC's colour map.

  So the ignore label 255 is VOC's pale (224, 224, 192).
  """
  table = voc_colormap(max(256, len(colors)))
  table[: len(colors)] = colors
  return table


def to_8_bits(
  image: np.ndarray, value_range: Sequence[Sequence[float]] = ()
) -> np.ndarray:
  """`image` (h, w, channels) with its range of values brought to 0..255.

  Args:
    image: of any numbers; 0 where one is none.
    value_range: lowest and highest value of each channel; () is 0..255.

  Returns:
    uint8 of the same shape.
  """
  if image.dtype == np.uint8 and not value_range:
    return image
  channels = image.shape[2]
  low, high = np.float32(value_range or ((0, 255),) * channels).T
  shares = (image.astype(np.float32) - low) / (high - low)
  shares = np.clip(np.nan_to_num(shares, nan=0.0), 0, 1)
  return np.rint(255 * shares).astype(np.uint8)


def viewable(
  image: np.ndarray, value_range: Sequence[Sequence[float]] = ()
) -> np.ndarray:
  """What there is to see of `image` (h, w, channels): uint8 RGB (h, w, 3).

  The first three channels as red, green and blue, or the first one as grey; see
  `to_8_bits`.
  """
  image = to_8_bits(image, value_range)
  channels = image.shape[2]
  if channels == 3:
    return image
  return image[..., [0, 1, 2] if channels > 3 else [0, 0, 0]]


def colorize(labels: np.ndarray, colors: Colors) -> np.ndarray:
  """Paints `labels`, integers (h, w), as uint8 RGB (h, w, 3).

  Of overlapping classes, (h, w, classes) of 0 and 1, the mean colour of those
  that are there; black where none is, pale where all are 255.
  """
  if labels.ndim == 2:
    return palette(colors)[labels]
  there = (labels == 1).astype(np.float32)
  paint = there @ np.asarray(colors, np.float32).reshape(-1, 3)
  paint /= np.maximum(there.sum(-1, keepdims=True), 1)
  paint = np.rint(paint).astype(np.uint8)
  paint[(labels == IGNORE).all(-1)] = palette(colors)[IGNORE]
  return paint


def overlay(
  image: np.ndarray, labels: np.ndarray, colors: Colors, opacity: float = 0.55
) -> np.ndarray:
  """Lays the colours of `labels` (h, w) over `image`, uint8 RGB (h, w, 3).

  Of overlapping classes, see `colorize`; where none is, the image shows.
  """
  paint = colorize(labels, colors)
  mixed = cv2.addWeighted(image, 1 - opacity, paint, opacity, 0)
  if labels.ndim == 2:
    return mixed
  return np.where((labels == 1).any(-1, keepdims=True), mixed, image)


def classes_in(labels: np.ndarray, num_classes: int) -> list[int]:
  """The classes that occur in labels (h, w), or (h, w, classes)."""
  if labels.ndim == 3:
    return np.flatnonzero((labels == 1).any((0, 1))).tolist()
  return [c for c in np.unique(labels).tolist() if c < num_classes]


def label_picture(labels: np.ndarray, colors: Colors) -> Image.Image:
  """A Pillow picture whose pixel values are the class numbers themselves.

  Args:
    labels: uint8 or uint16 (h, w).
    colors: one per class; left out of 16-bit pictures, which have no palette.

  Returns:
    an indexed 8-bit picture, or a grey 16-bit one for uint16 labels.
  """
  if labels.dtype == np.uint16:
    return Image.fromarray(labels)
  if labels.dtype != np.uint8:
    raise ValueError(f"labels must be uint8 or uint16, got {labels.dtype}")
  picture = Image.fromarray(labels).convert("L")
  picture.putpalette(palette(colors).tobytes())
  return picture


def write_label_png(
  path: str | os.PathLike, labels: np.ndarray, colors: Colors
) -> None:
  """Writes `labels`, uint8 or uint16 (h, w), as a PNG of class numbers."""
  picture = label_picture(labels, colors)
  with atomic.replacing(path) as partial:
    picture.save(partial, "PNG")
