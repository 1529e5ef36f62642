"""Checks of every image and mask while a data set is built.

Whatever is wrong with a source file is one `BadExample` that names the file,
what is allowed, what was found and the remedy; nothing wrong gets into the
records that training reads.
"""

import io
from collections.abc import Iterable

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.preprocess import decode_image

# The user's own pictures may be as large as memory allows.
PIL.Image.MAX_IMAGE_PIXELS = None

# Flat areas need no filter: 40 % smaller and 2.5 times faster to decode than
# OpenCV's default, on VOC's masks.
_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 6),
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)


class BadExample(ValueError):
  """One file of the source cannot be used.

  Attributes:
    file: which.
    code: the kind of fault, as `deeplab_jax.doctor` calls it.
    problem: what is allowed, what was found, and the remedy.
  """

  def __init__(self, file: str, code: str, problem: str):
    super().__init__(file, code, problem)
    self.file, self.code, self.problem = file, code, problem

  def __str__(self) -> str:
    return f"{self.file}: {self.problem}"


def image_size(file: str, encoded: bytes) -> tuple[int, int]:
  """Height and width of an image that training will be able to decode.

  Raises:
    BadExample: it is cut off, which OpenCV would fill with grey, or of a kind
      that OpenCV does not read.
  """
  _decode(file, encoded)
  image = decode_image(encoded)
  if image is None:
    raise BadExample(
      file,
      "unsupported-image",
      "must be an image that OpenCV reads; convert it to PNG or JPEG",
    )
  return image.shape[:2]


def upright(encoded: bytes, size: tuple[int, int]) -> bytes:
  """The image turned as its EXIF tag says, where that is what `size` fits.

  Labelling tools show images turned, so their masks are; decoders that ignore
  the tag, as training does, would not fit them. Stored without loss. An image
  without the tag, or whose mask has the size as stored, stays as it is.
  """
  try:
    image = PIL.Image.open(io.BytesIO(encoded))
    turned = PIL.ImageOps.exif_transpose(image)
  except Exception:  # `image_size` will say what is wrong with it
    return encoded
  is_turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1
  if not is_turned or (turned.height, turned.width) != size:
    return encoded
  file = io.BytesIO()
  turned.convert("RGB").save(file, "PNG")
  return file.getvalue()


def read_mask(file: str, encoded: bytes) -> np.ndarray:
  """Values (h, w) of an indexed or grey mask: palette indices or grey values.

  Raises:
    BadExample: it does not decode, or has more than one channel.
  """
  mask = decode_mask(file, encoded)
  if mask.ndim == 3:
    raise BadExample(
      file,
      "colour-mask",
      "a mask must be an indexed or a one-channel image, got colours; convert "
      "them to class indices",
    )
  return mask


def decode_mask(file: str, encoded: bytes) -> np.ndarray:
  """A mask as it is: values (h, w), or colours (h, w, 3) uint8."""
  mask = _decode(file, encoded)
  if mask.format == "JPEG":
    raise BadExample(
      file,
      "jpeg-mask",
      "a mask must be a PNG or another lossless file, got JPEG, which alters "
      "labels; export it again",
    )
  if mask.mode == "1":
    return np.asarray(mask).astype(np.uint8)
  if mask.mode in ("L", "P", "I", "I;16", "I;16B"):
    return np.asarray(mask)
  return np.asarray(mask.convert("RGB"))


def palette(encoded: bytes) -> tuple[tuple[int, int, int], ...]:
  """Colours of an indexed image's palette; none of any other file."""
  try:
    image = PIL.Image.open(io.BytesIO(encoded))
  except Exception:  # `decode_mask` will say what is wrong with it
    return ()
  return palette_of(image)


def palette_of(image: PIL.Image.Image) -> tuple[tuple[int, int, int], ...]:
  """Colours of the palette of `image`; none if it is not indexed."""
  flat = image.getpalette() if image.mode == "P" else []
  return tuple(tuple(flat[i : i + 3]) for i in range(0, len(flat), 3))


def remap(file: str, mask: np.ndarray, labels: dict[int, int]) -> np.ndarray:
  """`mask` with each source value replaced by its label.

  Raises:
    BadExample: `file` holds a value that `labels` does not.
  """
  wrong = [value for value in np.unique(mask).tolist() if value not in labels]
  if wrong:
    raise BadExample(
      file,
      "id-out-of-range",
      f"values must be {ranges(labels)}, got {_listed(wrong)}; correct the "
      "mask or the list of classes",
    )
  values = np.array(sorted(labels))
  table = np.array([labels[value] for value in sorted(labels)], np.uint8)
  return table[np.searchsorted(values, mask)]


def ranges(values: Iterable[int]) -> str:
  """Integers in words: "0..10, 255"."""
  runs: list[list[int]] = []
  for value in sorted(values):
    if runs and value == runs[-1][-1] + 1:
      runs[-1][1:] = [value]
    else:
      runs.append([value])
  return ", ".join("..".join(map(str, run)) for run in runs)


def encode_mask(mask: np.ndarray) -> bytes:
  """8-bit one-channel PNG of labels (h, w) of 0..255."""
  _, encoded = cv2.imencode(".png", mask.astype(np.uint8), _PNG)
  return encoded.tobytes()


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
  if mask.shape != size:
    height, width = size
    raise BadExample(
      file,
      "mask-size",
      f"a mask must have the size of its image, {width}x{height}, got "
      f"{mask.shape[1]}x{mask.shape[0]}; make both from the same picture",
    )
  allowed = set(range(info.num_classes))
  if info.ignore_label is not None:
    allowed.add(info.ignore_label)
  wrong = [label for label in np.unique(mask).tolist() if label not in allowed]
  if wrong:
    raise BadExample(
      file,
      "id-out-of-range",
      f"labels must be {ranges(allowed)}, got {_listed(wrong)}; map the mask's "
      "values to class indices",
    )


def _listed(values: list[int]) -> str:
  return ", ".join(map(str, values[:10])) + (", ..." if values[10:] else "")


def _decode(file: str, encoded: bytes) -> PIL.Image.Image:
  try:
    image = PIL.Image.open(io.BytesIO(encoded))
    image.load()
  except Exception as error:  # whatever a decoder makes of broken bytes
    is_unknown = isinstance(error, PIL.UnidentifiedImageError)
    reason = "of no known format" if is_unknown else error
    raise BadExample(
      file,
      "undecodable",
      f"cannot be decoded as an image ({reason}); replace the file",
    ) from error
  return image
