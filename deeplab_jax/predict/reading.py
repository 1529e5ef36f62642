"""Any picture file as the array that a network takes, RGB of 8 bits."""

import collections
import importlib.util
import os
import pathlib
from collections.abc import Iterable

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab_jax import remote
from deeplab_jax.data import bands, headers, limits
from deeplab_jax.data.headers import Header
from deeplab_jax.models import DeepLab
from deeplab_jax.predict.sources import Member, Source

_WHITE = (255, 255, 255, 255)
_UNKNOWN = "not a picture of 8 or 16 bits in a known format"
_SHOWN = 3  # pictures that a remark names
_IN_STORE = (
  "TIFFs of an object store, whose place on earth, if they have one, is not "
  "kept (copy them into a folder to keep it)"
)


def read_image(path: str | os.PathLike | Source) -> np.ndarray:
  """Reads a picture as a viewer would show it.

  The first frame of an animation, turned upright as its EXIF orientation says;
  on white where transparent; 16 bits reduced to 8; grey, palette and CMYK
  converted. Of more bands than three, those of red, green and blue.

  Args:
    path: of a file in any format that Pillow or OpenCV reads; its address, or
      its place in a tar file.

  Returns:
    uint8 RGB (h, w, 3).

  Raises:
    OSError: the file is missing, cut off or no picture.
    ValueError: pixels of a kind whose range is unknown, or more of them than
      memory holds.
  """
  return _read_encoded(_content(path))


def _read_encoded(encoded: bytes) -> np.ndarray:
  header = headers.read(encoded)
  if header is not None:
    _check(header)
  try:
    picture = headers.open_picture(encoded)
    _check_size(picture.size[::-1])
    if header is None:
      raise OSError("a damaged header")
    if header.is_planar and header.bits > 8:
      return _read_with_opencv(encoded)
    return _to_rgb(ImageOps.exif_transpose(picture))
  except UnidentifiedImageError:
    return _read_with_opencv(encoded)


def read_for(model: DeepLab, path: str | os.PathLike | Source) -> np.ndarray:
  """Reads a picture as `model` takes it.

  Args:
    model: of RGB of 8 bits, as `read_image` gives them, or of other channels or
      numbers, which are then read as the file has them.
    path: as `read_image` takes it; a TIFF may need the package rasterio.

  Returns:
    (h, w, channels) of the model's `image_dtype`.

  Raises:
    OSError: the file is missing.
    ValueError: it is no such picture, or has other channels or numbers.
  """
  encoded = _content(path)
  if takes_rgb(model) and not bands.is_stored(encoded):
    return _read_encoded(encoded)
  picture = bands.decode(encoded, model.channels)
  found = picture.pixels.dtype.name
  if found != model.image_dtype:
    raise ValueError(
      f"must hold {model.image_dtype}, as what the model was trained on, got "
      f"{found}"
    )
  return picture.pixels


def takes_rgb(model: DeepLab) -> bool:
  """Whether `model` takes pictures as a viewer shows them."""
  return (model.channels, model.image_dtype) == (3, "uint8")


def _content(path: str | os.PathLike | Source) -> bytes:
  """The bytes of a picture, wherever it is."""
  if isinstance(path, (Member, remote.Address)):
    return path.read_bytes()
  if remote.is_address(path):
    return remote.as_path(path).read_bytes()
  limits.check_file(path)
  return pathlib.Path(path).read_bytes()


def _check(header: Header) -> None:
  """Refuses what a decoder would read as something else."""
  _check_size(header.size)
  if header.kind == "float":
    raise ValueError("floating point pixels; convert it to 8 or 16 bits")
  if header.bits > 16:
    raise ValueError(f"{header.bits}-bit pixels; convert it to 8 or 16 bits")
  if header.kind == "int":
    raise ValueError("pixels with a sign; convert it to 8 or 16 bits")
  if header.colours == 1 and header.extra:
    raise ValueError(f"{header.bands} bands; convert it to grey or RGB")
  if header.is_called_grey and header.bits > 8:  # which OpenCV would read
    raise ValueError(
      f"{header.bands} bands that the file calls grey; convert it to grey or "
      "RGB"
    )


def _check_size(size: tuple[int, int]) -> None:
  try:
    limits.check_pixels(size)
  except ValueError as error:
    raise ValueError(f"{error}; cut it into parts") from error


def remarks(
  paths: Iterable[str | os.PathLike], as_rgb: bool = True
) -> list[str]:
  """What of pictures is not read, or not as one might think: a line a kind.

  With `as_rgb` they are read by `read_image`, else with all that they have.
  Files that cannot be read are passed over: reading them says why. So are those
  of object stores, which would be fetched twice, but for TIFFs, which may have
  had a place on earth.
  """
  kinds = collections.defaultdict(list)
  for path in paths:
    if isinstance(path, (Member, remote.Address)):
      place = path.archive if isinstance(path, Member) else path
      is_tiff = path.name.lower().endswith((".tif", ".tiff"))
      if is_tiff and isinstance(place, remote.Address):
        kinds[_IN_STORE].append(str(path))
      continue
    try:
      limits.check_file(path)
      header = headers.read(pathlib.Path(path).read_bytes())
    except OSError:
      continue
    for kind in _kinds(header, as_rgb) if header else ():
      kinds[kind].append(str(path))
  return [
    f"{kind}: {len(files)} pictures, {', '.join(files[:_SHOWN])}"
    f"{', ...' if files[_SHOWN:] else ''}"
    for kind, files in kinds.items()
  ]


def _kinds(header: Header, as_rgb: bool) -> list[str]:
  kinds = []
  if header.is_placed and importlib.util.find_spec("rasterio") is None:
    kinds.append(
      "a place on earth, which is not kept for want of the package rasterio "
      "(pip install 'deeplab_jax[geo]')"
    )
  if not as_rgb:
    return kinds
  if header.bits > 8:
    kinds.append(
      f"{header.bits} bits, of which the upper 8 are used (dark if the others "
      "hold all; scale the values to the full range)"
    )
  if header.extra:
    used = header.colours + header.alpha
    kinds.append(f"{header.bands} bands, of which {used} are used")
  if header.pictures > 1:
    kinds.append("several pictures in a file, of which the first is used")
  return kinds


def _to_rgb(picture: Image.Image) -> np.ndarray:
  """uint8 RGB (h, w, 3) of a picture in any of Pillow's modes."""
  if picture.mode == "F":  # of a format whose header only Pillow knows
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


def _read_with_opencv(encoded: bytes) -> np.ndarray:
  """What Pillow does not know, such as TIFF of 16 bits a channel."""
  image = None
  if encoded:
    content = np.frombuffer(encoded, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
  if image is None:
    raise OSError(_UNKNOWN)
  return image
