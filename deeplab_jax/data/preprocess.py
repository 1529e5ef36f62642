"""Scaling, padding, cropping and flipping of one image and its label.

Follows the input section of the official implementation (`feature_extractor`
aside, `preprocess_utils.py` and `input_preprocess.py`): every resize is
corner-aligned, bilinear for images and nearest, halves away from zero, for
labels. Images stay uint8, which rounds the reference's float32 to the nearest
integer and moves a quarter of the bytes. NumPy and OpenCV only.
"""

import dataclasses

import cv2
import numpy as np

from deeplab_jax.data.classes import IGNORE

# OpenCV would print a line at each read of a TIFF with tags of its own, such as
# coordinates. What is wrong with a file is found when the data set is built.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Size = tuple[int, int]  # height, width
ValueRange = tuple[tuple[float, float], ...]  # low and high of each channel

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green, blue in grey


@dataclasses.dataclass(frozen=True)
class Crop:
  """One draw of the training augmentation.

  Attributes:
    scaled: the size the image is resized to, before padding and cropping.
    offset: top and left of the crop in the scaled and padded image.
    flip: whether the crop is mirrored left to right.
  """

  scaled: Size
  offset: tuple[int, int]
  flip: bool


def decode_image(encoded: bytes) -> np.ndarray | None:
  """uint8 (h, w, 3) RGB of an image file, pixels as stored: no EXIF turn.

  None if OpenCV does not read such a file.
  """
  return cv2.imdecode(
    np.frombuffer(encoded, np.uint8),
    cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
  )


def filled(image: np.ndarray, color: tuple[float, ...]) -> np.ndarray:
  """Image (h, w, c), `color` where one of floats is no number."""
  if image.dtype.kind != "f":
    return image
  known = np.isfinite(image)
  return image if known.all() else np.where(known, image, np.float32(color))


def resize_bilinear(image: np.ndarray, size: Size) -> np.ndarray:
  """Corner-aligned bilinear resize of (h, w, c) to `size`.

  Output pixel i shows input position i * (in - 1) / (out - 1). Keeps the dtype,
  uint8, uint16, int16 or float32; integers are rounded to nearest.
  """
  return _warp(image, size, (0, 0), size)


def resize_nearest(label: np.ndarray, size: Size) -> np.ndarray:
  """Corner-aligned nearest resize of (h, w) or (h, w, classes) to `size`.

  No new value appears.
  """
  rows, columns = (
    _nearest_indices(n, out, 0, out) for n, out in zip(label.shape, size)
  )
  return label.take(rows, axis=0).take(columns, axis=1)


def range_size(
  size: Size, minimum: int, maximum: int = 0, factor: int = 0
) -> Size:
  """The size that `size` gets so that its short side is `minimum`.

  Where the long side would exceed `maximum` (0: no maximum), the long side
  becomes `maximum` instead. With a `factor` the maximum is lowered, and each
  side raised, to a multiple of `factor` plus 1. Computed in float32, as the
  reference does; ADE20K uses 513, 513, 16.
  """
  if maximum and factor:
    maximum -= (maximum - 1) % factor
  sides = np.array(size, np.float32)
  new = np.floor(sides * (np.float32(minimum) / sides.min()))
  if maximum and new.max() > maximum:
    new = np.floor(sides * (np.float32(maximum) / sides.max()))
  height, width = (int(side) for side in new)
  if factor:
    height += (1 - height) % factor
    width += (1 - width) % factor
  return height, width


def resize_to_range(
  image: np.ndarray,
  label: np.ndarray,
  minimum: int,
  maximum: int = 0,
  factor: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Resizes image (h, w, c) and label (h, w) to `range_size`; 0 leaves them."""
  if not minimum:
    return image, label
  size = range_size(label.shape[:2], minimum, maximum, factor)
  return resize_bilinear(image, size), resize_nearest(label, size)


def draw_scale(
  rng: np.random.Generator, minimum: float, maximum: float, step: float
) -> float:
  """A scale uniform over minimum, minimum + step, ..., maximum.

  A `step` that does not divide the interval is lengthened until it does, or to
  no step at all, which leaves the minimum; official `get_random_scale`. With
  `step` 0 uniform over the whole interval.
  """
  if not step:
    return rng.uniform(minimum, maximum)
  steps = int((maximum - minimum) / step * (1 + 1e-9))
  step = (maximum - minimum) / max(steps, 1)
  return minimum + step * rng.integers(steps + 1)


def scaled_size(size: Size, scale: float) -> Size:
  """`size` times `scale`, truncated, in float32 as the reference does."""
  height, width = (
    max(int(np.float32(side) * np.float32(scale)), 1) for side in size
  )
  return height, width


def draw_crop(
  rng: np.random.Generator,
  size: Size,
  crop_size: Size,
  *,
  min_scale: float,
  max_scale: float,
  scale_step: float,
  flip: bool,
) -> Crop:
  """Draws scale, crop position and mirroring for an image of `size`."""
  scaled = scaled_size(size, draw_scale(rng, min_scale, max_scale, scale_step))
  top, left = (
    int(rng.integers(max(side - crop, 0) + 1))
    for side, crop in zip(scaled, crop_size)
  )
  return Crop(scaled, (top, left), flip and bool(rng.random() < 0.5))


def take_crop(
  image: np.ndarray,
  label: np.ndarray,
  crop: Crop,
  crop_size: Size,
  padding_value: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:
  """Scales, pads, crops and mirrors in one pass over the output's pixels.

  Args:
    image: (h, w, c), of a dtype that `resize_bilinear` takes.
    label: uint8 (h, w), or (h, w, classes) of overlapping ones.
    crop: where to cut.
    crop_size: size of the result.
    padding_value: colour right of and below a scaled image that is smaller than
      the crop; rounded. Labels are padded with `IGNORE`.

  Returns:
    image (*crop_size, c) of the same dtype and label uint8, crop_size or with
    classes behind. Equal to resizing the whole image in float32, padding,
    cutting and mirroring, but for the rounding.
  """
  out_image, out_label = blank(
    crop_size, padding_value, image.dtype, label.shape[2:]
  )
  height, width = (
    min(out, scaled - start)
    for out, scaled, start in zip(crop_size, crop.scaled, crop.offset)
  )
  window = np.s_[:height, :width]
  out_image[window] = _warp(image, crop.scaled, crop.offset, (height, width))
  rows, columns = (
    _nearest_indices(n, scaled, start, count)
    for n, scaled, start, count in zip(
      label.shape, crop.scaled, crop.offset, (height, width)
    )
  )
  out_label[window] = label.take(rows, axis=0).take(columns, axis=1)
  if crop.flip:
    return mirror(out_image, 1), mirror(out_label, 1)
  return out_image, out_label


def mirror(array: np.ndarray, code: int) -> np.ndarray:
  """An image or label mirrored left to right (`code` 1) or upside down (0).

  OpenCV would drop the last axis of (h, w, 1).
  """
  return cv2.flip(array, code).reshape(array.shape)


def jitter_colors(
  rng: np.random.Generator,
  image: np.ndarray,
  strengths: tuple[float, float, float],
  value_range: ValueRange = (),
) -> np.ndarray:
  """Draws brightness, contrast and saturation anew; not in the reference.

  Args:
    rng: draws each factor uniformly from 1 - strength to 1 + strength.
    image: (h, w, c), RGB or any other channels.
    strengths: of brightness, contrast, saturation, 0 to 1; 0 = unchanged.
    value_range: lowest and highest value of each channel, which stand for black
      and white; () is 0 and 255.

  Returns:
    the same shape and dtype: the image times the brightness, its distance to
    grey times the saturation, its distance to its mean grey times the contrast.
    Grey is the luma of RGB, the mean of any other channels.
  """
  if not any(strengths):
    return image
  brightness, contrast, saturation = rng.uniform(
    np.subtract(1, strengths), np.add(1, strengths)
  )
  count = image.shape[2]
  luma = _LUMA if count == 3 else np.full(count, 1 / count)
  low, high = np.transpose(value_range or ((0.0, 255.0),) * count)
  unit = (high - low) / 255
  means = (_channel_means(image) - low) / unit
  colors = saturation * np.eye(count) + (1 - saturation) * np.tile(
    luma, (count, 1)
  )
  mean = (1 - contrast) * brightness * (luma @ means)
  factors, added = contrast * brightness * colors, np.full(count, mean)
  if value_range:  # the same of (image - low) / unit
    factors = unit[:, None] * factors / unit
    added = low - factors @ low + unit * added
  matrix = np.column_stack([factors, added])
  return cv2.transform(image, matrix).reshape(image.shape)


def _channel_means(image: np.ndarray) -> np.ndarray:
  """Of (h, w, c): (c,); OpenCV's, which is fast, takes four channels."""
  count = image.shape[2]
  if count <= 4:
    return np.array(cv2.mean(image)[:count])
  return image.mean((0, 1), np.float64)


def pad(
  image: np.ndarray,
  label: np.ndarray,
  size: Size,
  padding_value: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:
  """Pads (h, w, c) and (h, w, ...) at the right and the bottom to `size`."""
  out_image, out_label = blank(
    size, padding_value, image.dtype, label.shape[2:]
  )
  height, width = label.shape[:2]
  out_image[:height, :width] = image
  out_label[:height, :width] = label
  return out_image, out_label


def blank(
  size: Size,
  padding_value: tuple[float, ...],
  dtype: np.typing.DTypeLike = np.uint8,
  classes: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
  """An image (*size, c) of padding only, and its label, all `IGNORE`.

  The label has a last axis of as many planes as `classes` says, if it does.
  """
  row = np.tile(as_color(padding_value, dtype), (size[1], 1))
  image = np.empty((*size, len(padding_value)), dtype)
  image[:] = row  # whole rows: ten times faster than pixel by pixel
  return image, np.full((*size, *classes), IGNORE, np.uint8)


def as_color(
  value: tuple[float, ...], dtype: np.typing.DTypeLike
) -> np.ndarray:
  """A value (c,) as images of `dtype` have it; rounded for integers."""
  if np.dtype(dtype).kind != "f":
    value = np.rint(value)
  return np.asarray(value).astype(dtype)


def _warp(
  image: np.ndarray, scaled: Size, offset: tuple[int, int], size: Size
) -> np.ndarray:
  """The window `size` at `offset` of `image` resized to `scaled`."""
  step_y, step_x = (pixel_step(n, out) for n, out in zip(image.shape, scaled))
  top, left = offset
  matrix = np.array([[step_x, 0, step_x * left], [0, step_y, step_y * top]])
  warped = cv2.warpAffine(
    image,
    matrix,
    size[::-1],
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
  return warped.reshape(*size, *image.shape[2:])  # a single channel's axis


def _nearest_indices(n: int, out: int, start: int, count: int) -> np.ndarray:
  """Input indices (of n) for outputs start, ..., start + count - 1 (of out)."""
  position = np.arange(start, start + count, dtype=np.float32)
  position *= np.float32(pixel_step(n, out))
  return np.minimum(np.floor(position + np.float32(0.5)).astype(int), n - 1)


def pixel_step(n: int, out: int) -> float:
  """Input pixels per output pixel when the corners are aligned."""
  return (n - 1) / (out - 1) if out > 1 else 0.0
