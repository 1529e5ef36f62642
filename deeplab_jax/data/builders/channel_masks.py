"""Reading masks of overlapping classes: planes of yes, no, and ignored.

What is decoded are the numbers of the files, one plane a class; what they mean
follows from all of them together (`channel_classes`).
"""

import io

import cv2
import numpy as np
import PIL.ImageOps
import PIL.ImageSequence

from deeplab_jax.data import headers
from deeplab_jax.data.builders import masks, pictures
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.headers import Header

UNKNOWN = -(2**40)
"""The number of pixels that are declared as no-data."""

_ONE_BAND = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_SEVERAL = ("LA", "RGB", "RGBA")
_MOST_ROWS = 1 << 20  # of a picture that OpenCV decodes


def decode_class(
  file: str, encoded: bytes, nodata: float | None = None
) -> np.ndarray:
  """Numbers int64 (h, w, 1) of a file of one class.

  Colours are numbers, too: r * 65536 + g * 256 + b.

  Raises:
    BadExample: it does not decode, or has several pages.
  """
  if _is_array(encoded):
    planes = decode_channels(file, encoded, None, nodata)
    if planes.shape[2] != 1:
      raise _wrong_channels(file, "one channel", planes.shape[2])
    return planes
  mask = masks.decode(file, encoded, nodata)
  pixels = masks.codes_of(mask.pixels) if mask.is_colour else mask.pixels
  pixels = pixels.astype(np.int64)
  if mask.unknown is not None:
    pixels[mask.unknown] = UNKNOWN
  return pixels[..., None]


def decode_channels(
  file: str,
  encoded: bytes,
  size: tuple[int, int] | None,
  nodata: float | None = None,
) -> np.ndarray:
  """Numbers int64 (h, w, channels) of a file of all classes.

  Args:
    file: its name, for messages.
    encoded: a PNG of up to 4 channels, a TIFF of such or of a page a class, or
      an array (h, w, classes), (h, w) or (classes, h, w) as NumPy saves it.
    size: height and width of its image, which tells the latter apart.
    nodata: the number that means that nothing is known.

  Raises:
    BadExample: it does not decode, or its numbers cannot be masks.
  """
  if _is_array(encoded):
    planes = _of_array(file, encoded, size)
    declared = []
  else:
    header = headers.read(encoded)
    planes = _of_picture(file, encoded, header)
    declared = [header.nodata] if header.nodata is not None else []
  if nodata is not None:
    declared.append(nodata)
  return _whole(file, planes, declared)


def _is_array(encoded: bytes) -> bool:
  return encoded.startswith(b"\x93NUMPY")


def _of_array(
  file: str, encoded: bytes, size: tuple[int, int] | None
) -> np.ndarray:
  try:
    array = np.load(io.BytesIO(encoded), allow_pickle=False)
  except Exception as error:  # whatever broken bytes end in
    raise BadExample(
      file, "undecodable", f"cannot be read as an array ({error})"
    ) from error
  if (
    array.dtype.kind not in "buif" or array.ndim not in (2, 3) or not array.size
  ):
    raise BadExample(
      file,
      "wrong-channels",
      "an array must be numbers (h, w, classes), got "
      f"{array.dtype} {array.shape}",
    )
  if array.ndim == 2:
    return array[..., None]
  turned = (size, size[::-1]) if size else ()
  if array.shape[:2] not in turned and array.shape[1:] in turned:
    return np.moveaxis(array, 0, -1)
  return array


def _of_picture(file: str, encoded: bytes, header: Header | None) -> np.ndarray:
  if header is not None and header.lossy:
    raise BadExample(
      file,
      "jpeg-mask",
      "a mask must be a PNG or another lossless file, got "
      f"{header.format}, which alters labels",
    )
  if header is not None and header.bits > 8 and header.bands > 1:
    return _deep_bands(file, encoded, header)
  picture = pictures.decode(file, encoded, header)
  if header.pictures > 1:
    pages = [
      _bands(file, page.copy(), header)
      for page in PIL.ImageSequence.Iterator(picture)
    ]
    pages = [page for page in pages if page.shape[:2] == pages[0].shape[:2]]
    return np.concatenate(pages, -1)
  return _bands(file, picture, header)


def _bands(file: str, picture: PIL.Image.Image, header: Header) -> np.ndarray:
  """Numbers (h, w, bands) of one page."""
  picture = PIL.ImageOps.exif_transpose(picture)
  if picture.mode in _SEVERAL:
    return np.asarray(picture)
  if picture.mode not in _ONE_BAND:
    raise BadExample(
      file,
      "wrong-channels",
      f"channels must be 1 to 4 of one picture, pages, or .npy, got "
      f"{header.bands} of {header.dtype}",
    )
  pixels = np.asarray(picture)
  if picture.mode == "1":
    return headers.not_inverted(header, pixels)[..., None]
  return headers.true_values(header, pixels)[..., None]


def _deep_bands(file: str, encoded: bytes, header: Header) -> np.ndarray:
  """Bands of 16 bits, which Pillow would cut to 8."""
  pictures.check_size(file, header.size)
  flags = cv2.IMREAD_UNCHANGED
  pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  if pixels is None or pixels.ndim != 3:
    raise BadExample(
      file, "undecodable", "cannot be decoded as an image of several bands"
    )
  order = [2, 1, 0, 3][: pixels.shape[2]]  # OpenCV's are blue, green, red
  return pixels[..., order]


def _whole(file: str, planes: np.ndarray, declared: list[float]) -> np.ndarray:
  """Numbers as int64, `UNKNOWN` where they are declared as no-data."""
  unknown = np.zeros(planes.shape, bool)
  for value in declared:
    unknown |= np.isnan(planes) if np.isnan(value) else planes == value
  if planes.dtype.kind == "f":
    planes = np.where(unknown, 0, planes)
    wrong = planes != np.floor(planes)  # also NaN
    wrong |= ~(np.abs(planes) < -UNKNOWN)
    if wrong.any():
      values = np.unique(planes[wrong])
      raise BadExample(
        file,
        "not-class-numbers",
        f"values must be 0 and 1, got {masks.listed(values.tolist())}"
        f"{masks.nodata_hint(values[-1])}",
      )
  planes = planes.astype(np.int64)
  planes[unknown] = UNKNOWN
  return planes


def _wrong_channels(file: str, wanted: str, found: int) -> BadExample:
  return BadExample(
    file, "wrong-channels", f"a mask must have {wanted}, got {found}"
  )


def encode(file: str, label: np.ndarray) -> bytes:
  """Labels uint8 (h, w, classes) as the PNG of a record.

  Raises:
    BadExample: there are too many rows.
  """
  height, width, classes = label.shape
  if height * classes > _MOST_ROWS:
    raise BadExample(
      file,
      "too-large",
      f"rows times classes must be at most {_MOST_ROWS}, got {height} x "
      f"{classes}",
    )
  return masks.encode(np.moveaxis(label, -1, 0).reshape(-1, width))
