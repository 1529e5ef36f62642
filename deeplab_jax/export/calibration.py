"""Pictures of a user's folder, to calibrate with and to judge by."""

import os
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

MOST = 256
"""Pictures that are taken of a folder, evenly by name, if it has more."""
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Pictures(NamedTuple):
  """Pictures of one size.

  Attributes:
    images: uint8 RGB (h, w, 3).
    masks: true labels (h, w), class numbers; None where there are none.
  """

  images: tuple[np.ndarray, ...] = ()
  masks: tuple[np.ndarray | None, ...] = ()


def read(folder: str | os.PathLike, size: tuple[int, int]) -> Pictures:
  """The pictures of a folder, resized.

  Args:
    folder: has pictures, or `images/` with them and `masks/` with PNG files of
      class numbers that bear their names.
    size: height and width to be.

  Raises:
    ValueError: there are none, or one is damaged.
  """
  folder = pathlib.Path(folder)
  images = folder / "images" if (folder / "images").is_dir() else folder
  try:
    paths = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
  except OSError as error:
    raise ValueError(f"--calibrate {folder}: {error.strerror}") from error
  if not paths:
    raise ValueError(f"--calibrate {folder} has no pictures")
  if len(paths) > MOST:
    chosen = np.linspace(0, len(paths) - 1, MOST).round().astype(int)
    paths = [paths[i] for i in chosen]
  masks = folder / "masks"
  found = [_read_mask(masks / f"{path.stem}.png", size) for path in paths]
  return Pictures(tuple(_read(path, size) for path in paths), tuple(found))


def _read(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
  content = np.frombuffer(path.read_bytes(), np.uint8)
  image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if content.size else None
  if image is None:
    raise ValueError(f"--calibrate: {path} is no picture, or damaged")
  if image.shape[:2] == size:
    return image
  smaller = image.shape[0] > size[0]
  method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
  return cv2.resize(image, size[::-1], interpolation=method)


def _read_mask(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray | None:
  if not path.exists():
    return None
  try:
    with Image.open(path) as picture:
      mask = np.asarray(picture)
  except OSError as error:
    raise ValueError(f"--calibrate: {path} cannot be read: {error}") from error
  if mask.ndim != 2:
    raise ValueError(
      f"--calibrate: {path} must be grey or indexed, with the numbers of the "
      f"classes as values; got values of shape {mask.shape[2:]}"
    )
  return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
