"""Checks of every image and mask while a data set is built.

Whatever is wrong with a source file is one `BadExample` that names the file,
what is allowed, what was found and the remedy; nothing wrong gets into the
records that training reads.
"""

import io
import warnings

import cv2
import numpy as np
import PIL.Image

from deeplab_jax.data.datasets import DatasetInfo


class BadExample(ValueError):
  """One image or mask cannot be used; the message names its file."""


def image_size(file: str, encoded: bytes) -> tuple[int, int]:
  """Decodes a whole image, which finds truncated files; gives height, width."""
  image = _decode(file, encoded)
  return image.height, image.width


def read_mask(file: str, encoded: bytes) -> np.ndarray:
  """Labels (h, w) of an indexed or grey mask: palette indices or grey values.

  Raises:
    BadExample: it does not decode, or has more than one channel.
  """
  mask = _decode(file, encoded)
  if mask.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
    raise BadExample(
      f"{file}: a mask must be an indexed or a one-channel image, got mode "
      f"{mask.mode}; convert its colours to class indices"
    )
  return np.asarray(mask.convert("L") if mask.mode == "1" else mask)


def remap(file: str, mask: np.ndarray, labels: dict[int, int]) -> np.ndarray:
  """`mask` with each source value replaced by its label.

  Raises:
    BadExample: `file` holds a value that `labels` does not.
  """
  wrong = [value for value in np.unique(mask).tolist() if value not in labels]
  if wrong:
    raise BadExample(
      f"{file}: values must be {min(labels)}..{max(labels)}, got "
      f"{_listed(wrong)}; take the data set's own masks"
    )
  table = np.zeros(max(labels) + 1, np.uint8)
  table[list(labels)] = list(labels.values())
  return table[mask]


def encode_mask(mask: np.ndarray) -> bytes:
  """8-bit one-channel PNG of labels (h, w) of 0..255."""
  _, encoded = cv2.imencode(".png", mask.astype(np.uint8))
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
      f"{file}: a mask must have the size of its image, {width}x{height}, got "
      f"{mask.shape[1]}x{mask.shape[0]}; make both from the same picture"
    )
  allowed = {*range(info.num_classes), info.ignore_label}
  wrong = [label for label in np.unique(mask).tolist() if label not in allowed]
  if wrong:
    raise BadExample(
      f"{file}: labels must be {_allowed(info)}, got {_listed(wrong)}; map the "
      "mask's values to class indices"
    )


def _listed(values: list[int]) -> str:
  return ", ".join(map(str, values[:10])) + (", ..." if values[10:] else "")


def _allowed(info: DatasetInfo) -> str:
  extra = "" if info.ignore_label is None else f" or {info.ignore_label}"
  return f"0..{info.num_classes - 1}{extra}"


def _decode(file: str, encoded: bytes) -> PIL.Image.Image:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Pillow's remarks on harmless metadata
      image = PIL.Image.open(io.BytesIO(encoded))
      image.load()
  except Exception as error:  # whatever a decoder makes of broken bytes
    raise BadExample(
      f"{file}: cannot be decoded as an image ({error}); replace the file"
    ) from error
  return image
