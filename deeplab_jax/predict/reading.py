"""Any picture file as the 8-bit RGB array that a network takes."""

import math
import os

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pictures may be as large as memory allows: see `_check_size`.
Image.MAX_IMAGE_PIXELS = None

_WHITE = (255, 255, 255, 255)
_BYTES_PER_PIXEL = 16  # decoded, converted, labelled, painted
_UNKNOWN = "not a picture of 8 or 16 bits in a known format"


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads a picture as a viewer would show it.

  The first frame of an animation, turned upright as its EXIF orientation says;
  on white where transparent; 16 bits reduced to 8; grey, palette and CMYK
  converted.

  Args:
    path: of a file in any format that Pillow or OpenCV reads.

  Returns:
    uint8 RGB (h, w, 3).

  Raises:
    OSError: the file is missing, cut off or no picture.
    ValueError: pixels of a kind whose range is unknown, or more of them than
      memory holds.
  """
  try:
    with Image.open(path) as picture:
      _check_size(picture.size)
      return _to_rgb(ImageOps.exif_transpose(picture))
  except UnidentifiedImageError:
    return _read_with_opencv(path)


def _check_size(size: tuple[int, int]) -> None:
  """Before decoding: a damaged header may claim any size."""
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if math.prod(size) * _BYTES_PER_PIXEL > memory:
    raise ValueError(
      f"{size[0]} x {size[1]} pixels, this machine's memory holds "
      f"{memory // _BYTES_PER_PIXEL // 10**6} million; cut it into parts"
    )


def _to_rgb(picture: Image.Image) -> np.ndarray:
  """uint8 RGB (h, w, 3) of a picture in any of Pillow's modes."""
  if picture.mode == "F":
    raise ValueError("floating point pixels; convert it to 8 or 16 bits")
  if picture.mode.startswith("I"):
    return _from_16_bits(np.asarray(picture))
  if picture.has_transparency_data:
    picture = picture.convert("RGBA")
    paper = Image.new("RGBA", picture.size, _WHITE)
    picture = Image.alpha_composite(paper, picture)
  return np.asarray(picture.convert("RGB"))


def _from_16_bits(grey: np.ndarray) -> np.ndarray:
  """The high bytes of grey values 0..65535 (h, w), as RGB."""
  if grey.min() < 0 or grey.max() > 65535:
    raise ValueError("32-bit pixels; convert it to 8 or 16 bits")
  high = (grey >> 8).astype(np.uint8)
  return np.repeat(high[..., None], 3, axis=-1)


def _read_with_opencv(path: str | os.PathLike) -> np.ndarray:
  """What Pillow does not know, such as TIFF of 16 bits a channel."""
  content = np.fromfile(path, np.uint8)
  image = None
  if content.size:
    image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
  if image is None:
    raise OSError(_UNKNOWN)
  return image
