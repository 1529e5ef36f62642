"""Checks of every image, and of its mask, while a data set is built.

Whatever is wrong with a source file is one `BadExample` that names the file,
what is allowed, what was found and the remedy; nothing wrong gets into the
records that training reads.
"""

import io
from collections.abc import Iterator

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from deeplab_jax import messages
from deeplab_jax.data import headers, limits
from deeplab_jax.data.builders import masks, pictures
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.headers import Header
from deeplab_jax.data.preprocess import decode_image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
_APART = 0.6  # pixels; programs differ by half of one in what a corner is
_USUAL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I", "F")


def image_size(file: str, encoded: bytes) -> tuple[int, int]:
  """Height and width of an image that training will be able to decode.

  Raises:
    BadExample: it is cut off, which OpenCV would fill with grey, or of a kind
      that OpenCV does not read.
  """
  header = headers.read(encoded)
  _check_kind(file, header)
  pictures.decode(file, encoded, header)
  image = _decode(encoded)
  if image is None:
    raise BadExample(
      file, "unsupported-image", "must be an image that OpenCV reads"
    )
  return image.shape[:2]


def _decode(encoded: bytes) -> np.ndarray | None:
  """As training decodes it; None if OpenCV does not."""
  try:
    return decode_image(encoded)
  except cv2.error as error:
    if messages.is_out_of_memory(error):
      raise
    return None


def _check_kind(file: str, header: Header | None) -> None:
  """Refuses what OpenCV would read as something else: float, signed, bands."""
  if header is None:  # no picture: decoding says so
    return
  pictures.check_size(file, header.size)
  if header.kind != "uint" or header.bits > 16:
    problem = f"must have 8 or 16 bits without sign, got {header.dtype}"
  elif header.colours == 1 and header.extra:
    problem = f"must be grey, or red, green and blue, got {header.bands} bands"
  elif header.is_called_grey:
    problem = (
      f"must be grey, or red, green and blue, got {header.bands} bands that "
      "the file calls grey"
    )
  else:
    return
  raise BadExample(file, "unsupported-image", problem)


def remarks(file: str, encoded: bytes) -> Iterator[Remark]:
  """What of an image is not read, or not as one might think."""
  header = headers.read(encoded)
  if header is None:
    return
  if header.bits > 8:
    yield Remark("deep-image", file, _depth(header, encoded))
  if header.extra:
    bands = (
      f"{header.bands} bands, of which the first {header.colours} are read"
    )
    yield Remark("extra-bands", file, bands)
  if header.has_mask or header.nodata is not None:
    declared = "a mask" if header.has_mask else f"{header.nodata:g}"
    yield Remark("unread-nodata", file, declared)
  if header.pictures > 1:
    yield Remark("several-pictures", file, f"{header.pictures} pictures")
  mode, turn, has_holes = _looks(encoded)
  if mode not in _USUAL_MODES and not mode.startswith("I;"):
    yield Remark("odd-colours", file, mode)
  if turn:
    yield Remark("exif-orientation", file, f"EXIF orientation {turn}")
  if has_holes:
    yield Remark("transparent-image", file, "")


def mask_remarks(file: str, encoded: bytes) -> Iterator[Remark]:
  """What of a mask may be meant, whatever its labels are."""
  _, turn, has_holes = _looks(encoded)
  if turn:
    yield Remark("exif-orientation", file, f"EXIF orientation {turn}")
  header = headers.read_place(encoded)
  if has_holes or (header is not None and header.has_mask):
    yield Remark("transparent-mask", file, "")


def _depth(header: Header, encoded: bytes) -> str:
  """Its bits, and how bright the 8 that are read are."""
  image = _decode(quiet(encoded))
  brightest = "" if image is None else f", at most {image.max()} of 255 as read"
  return f"{header.bits} bits{brightest}"


def _looks(encoded: bytes) -> tuple[str, int, bool]:
  """Pillow's mode, EXIF's turn if there is one, and whether parts are clear."""
  try:
    picture = headers.open_picture(encoded)
    turn = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    is_turned = turn in range(2, 9)
    return picture.mode, turn if is_turned else 0, _has_holes(picture)
  except Exception:  # of a kind that only OpenCV reads
    return _USUAL_MODES[0], 0, False


def _has_holes(picture: PIL.Image.Image) -> bool:
  """Whether pixels are transparent, all of which are then decoded."""
  if not picture.has_transparency_data:
    return False
  limits.check_pixels(picture.size, limits.num_readers())
  return picture.convert("RGBA").getextrema()[3][0] < 255


def quiet(encoded: bytes) -> bytes:
  """The image without what libpng would complain of at every read.

  Colour profiles and text change no pixel of what is read, but where they are
  odd, as many programs write them, a line is printed each time. Other files
  than PNG stay as they are.
  """
  if not encoded.startswith(_PNG):
    return encoded
  kept, start = [_PNG], len(_PNG)
  while start + 12 <= len(encoded):
    end = start + 12 + int.from_bytes(encoded[start : start + 4])
    if encoded[start + 4 : start + 8] in _PNG_CHUNKS:
      kept.append(encoded[start:end])
    start = end
  return b"".join([*kept, encoded[start:]])  # the rest of one that is cut off


def upright(encoded: bytes, size: tuple[int, int]) -> bytes:
  """The image turned as its EXIF tag says, where that is what `size` fits.

  Labelling tools show images turned, so their masks are; decoders that ignore
  the tag, as training does, would not fit them. Stored without loss. An image
  without the tag, or whose mask has the size as stored, stays as it is.
  """
  try:
    image = headers.open_picture(encoded)
    if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1:
      return encoded
    limits.check_pixels(image.size, limits.num_readers())
    turned = PIL.ImageOps.exif_transpose(image)
  except Exception:  # `image_size` will say what is wrong with it
    return encoded
  if (turned.height, turned.width) != size:
    return encoded
  file = io.BytesIO()
  turned.convert("RGB").save(file, "PNG")
  return file.getvalue()


def check_mask_size(
  file: str, found: tuple[int, int], size: tuple[int, int]
) -> None:
  """Refuses a mask whose height and width are not those of its image."""
  if found != size:
    height, width = size
    raise BadExample(
      file,
      "mask-size",
      f"a mask must have the size of its image, {width}x{height}, got "
      f"{found[1]}x{found[0]}",
    )


def check_mask_place(
  file: str, mask: Header | None, image: Header | None
) -> None:
  """Refuses a mask that is at another place on earth than its image.

  Args:
    file: the mask's file, for the message.
    mask: its header.
    image: that of the image. Of files without a place nothing is known.
  """
  if not (mask and image and mask.transform and image.transform):
    return
  if mask.epsg and image.epsg and mask.epsg != image.epsg:
    raise BadExample(
      file,
      "mask-place",
      "a mask must be in the coordinate system of its image, "
      f"EPSG:{image.epsg}, got EPSG:{mask.epsg}",
    )
  there, here = (np.reshape(h.transform, (2, 3)) for h in (mask, image))
  if np.linalg.det(here[:, :2]) == 0:
    return
  height, width = image.size
  corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1)]).T
  apart = np.linalg.solve(here[:, :2], (there - here) @ corners)
  if np.abs(apart).max() > _APART:
    first, size = here[:, 2], np.linalg.norm(here[:, :2], axis=0)
    raise BadExample(
      file,
      "mask-place",
      "a mask must be at the place of its image, whose first corner is at "
      f"{_pair(first)} with pixels of {_pair(size)}, got {_pair(there[:, 2])} "
      f"with {_pair(np.linalg.norm(there[:, :2], axis=0))}",
    )


def _pair(values: np.ndarray) -> str:
  return "({:.10g}, {:.10g})".format(*values)


def check_pair(
  file: str, mask: np.ndarray, size: tuple[int, int], info: DatasetInfo
) -> None:
  """Refuses a mask (h, w) that does not fit its image or its classes.

  Args:
    file: the mask's file, for the message.
    mask: labels, any integer dtype.
    size: height and width of the image.
    info: the data set, whose classes and ignore label are allowed.
  """
  check_mask_size(file, mask.shape, size)
  allowed = set(range(info.num_classes))
  if info.ignore_label is not None:
    allowed.add(info.ignore_label)
  wrong = [label for label in np.unique(mask).tolist() if label not in allowed]
  if wrong:
    raise BadExample(
      file,
      "id-out-of-range",
      f"labels must be {masks.ranges(allowed)}, got {masks.listed(wrong)}",
    )
