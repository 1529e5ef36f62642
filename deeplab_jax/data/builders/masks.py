"""One way to read a mask file: for builds, and so for training, and the doctor.

What a file holds is asked of its header (`headers`), and values are checked
before any cast: a NaN, a -9999 or a 300 must never become some class. A mask
that an EXIF tag turns is read as it is looked at, as its image is.
"""

import dataclasses
import io
from collections.abc import Iterable

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps

from deeplab_jax.data import bands, headers
from deeplab_jax.data.builders import pictures
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.headers import Header

Color = tuple[int, int, int]

# Flat areas need no filter: 40 % smaller and 2.5 times faster to decode than
# OpenCV's default, on VOC's masks.
_PNG = (
  *(cv2.IMWRITE_PNG_COMPRESSION, 6),
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)
_ROWS = 1024  # that are counted at a time
_MOST = 2**31  # beyond, floats are no class numbers, and casts may overflow
_LOSSY_NAMES = {"WEBP": "lossy WebP", "TIFF": "a TIFF compressed with loss"}
_COLOUR_MODES = ("RGB", "RGBA", "LA", "PA", "RGBX", "La", "RGBa")


@dataclasses.dataclass(frozen=True)
class Mask:
  """A mask as its file has it.

  Attributes:
    pixels: whole numbers (h, w): of one band, palette indices, or what all
      three bands of a grey have in common; else colours (h, w, 3) uint8.
    palette: colours of the numbers of an indexed mask, and of one of fewer than
      8 bits, whose greys are 0..255 when it is looked at; else empty.
    is_rgb: whether the file has red, green and blue, if only greys of them.
    unknown: bool (h, w), where the number declared as no-data is, in all
      bands, `pixels` being 0 there; None where nothing is declared.
  """

  pixels: np.ndarray
  palette: tuple[Color, ...] = ()
  is_rgb: bool = False
  unknown: np.ndarray | None = None

  @property
  def is_colour(self) -> bool:
    """Whether there are colours that are no greys."""
    return self.pixels.ndim == 3

  @property
  def size(self) -> tuple[int, int]:
    """Height and width."""
    return self.pixels.shape[:2]

  def counts(self) -> dict[int, int]:
    """Pixels of each number, or of each colour's code; none of no-data."""
    pixels = codes_of(self.pixels) if self.is_colour else self.pixels
    if self.unknown is not None:
      pixels = pixels[~self.unknown]
    if pixels.dtype == np.uint8:
      parts = [pixels[i : i + _ROWS] for i in range(0, len(pixels), _ROWS)]
      # Of a part, as NumPy makes 64 bits of each pixel.
      found = (np.bincount(part.ravel(), minlength=256) for part in parts)
      counts = sum(found, np.zeros(256, np.int64))
      return {v: int(counts[v]) for v in np.flatnonzero(counts).tolist()}
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))

  def color_of(self, number: int) -> int | None:
    """Code of the colour that `number` of a mask of one band looks like."""
    if self.palette:
      known = 0 <= number < len(self.palette)
      return code_of(self.palette[number]) if known else None
    return number * 0x010101 if 0 <= number <= 255 else None


def decode(file: str, encoded: bytes, nodata: float | None = None) -> Mask:
  """The mask in a file's contents.

  Args:
    file: its name, for messages.
    encoded: the contents.
    nodata: the number that means that nothing is known, beside what the file
      declares itself.

  Raises:
    BadExample: it is none, or its values cannot be class numbers or colours.
  """
  if encoded.startswith(bands.ARRAYS[0]):
    return of_pixels(file, None, _of_numpy(file, encoded), (), nodata)
  header = headers.read(encoded)
  _check_header(file, header)
  pixels, palette = _decode(file, encoded, header)
  return of_pixels(file, header, pixels, palette, nodata)


def of_pixels(
  file: str,
  header: Header | None,
  pixels: np.ndarray,
  palette: tuple[Color, ...],
  nodata: float | None,
) -> Mask:
  """The mask of what a file, or a part of it, holds.

  Args:
    file: its name, for messages.
    header: of the file.
    pixels: numbers (h, w) of any kind, or colours (h, w, 3) uint8.
    palette: see `Mask`.
    nodata: as for `decode`.

  Raises:
    BadExample: the values cannot be class numbers or colours.
  """
  is_rgb = pixels.ndim == 3
  if is_rgb and (pixels == pixels[..., :1]).all():
    pixels = pixels[..., 0]
  declared = [v for v in (header and header.nodata, nodata) if v is not None]
  pixels, unknown = _whole_numbers(file, pixels, declared)
  return Mask(pixels, palette, is_rgb, unknown)


def _of_numpy(file: str, encoded: bytes) -> np.ndarray:
  """Numbers (h, w), or colours (h, w, 3), of a .npy file.

  Raises:
    BadExample: it holds neither.
  """
  try:
    pixels = np.load(io.BytesIO(encoded), allow_pickle=False)
  except (ValueError, EOFError, OSError) as error:
    raise BadExample(
      file, "undecodable", f"cannot be read as .npy ({error})"
    ) from error
  shape, dtype = pixels.shape, pixels.dtype
  if len(shape) == 3 and 1 in (shape[0], shape[2]):
    pixels = pixels.squeeze(0 if shape[0] == 1 else 2)
  is_colour = pixels.ndim == 3 and shape[2] == 3 and dtype == np.uint8
  if not (pixels.ndim == 2 or is_colour) or dtype.kind not in "biuf":
    raise BadExample(
      file,
      "unsupported-mask",
      "a mask must be class numbers (h, w), or red, green and blue of 8 bits "
      f"(h, w, 3), got {shape} of {dtype}",
    )
  if not pixels.size:
    raise BadExample(file, "undecodable", f"must have pixels, got {shape}")
  other = {"bool": np.uint8, "uint64": np.int64}
  return np.ascontiguousarray(
    pixels, other.get(dtype.name, dtype.newbyteorder("="))
  )


def _check_header(file: str, header: Header | None) -> None:
  """Refuses what would decode to something else than labels."""
  if header is None:  # no picture: decoding says so
    return
  if header.lossy:
    raise BadExample(
      file,
      "jpeg-mask",
      "a mask must be a PNG or another lossless file, got "
      f"{_LOSSY_NAMES.get(header.format, header.format)}, which alters labels",
    )
  if header.pictures > 1:
    raise BadExample(
      file,
      "several-masks",
      f"a file must hold one mask, got {header.pictures} pictures or pages",
    )
  if header.bands > 1 and (
    header.dtype != "uint8" or header.extra or header.colours > 3
  ):
    raise BadExample(
      file,
      "unsupported-mask",
      "a mask must have one band of class numbers, or red, green and blue of 8 "
      f"bits, got {header.bands} bands of {header.dtype}",
    )


def _decode(
  file: str, encoded: bytes, header: Header | None
) -> tuple[np.ndarray, tuple[Color, ...]]:
  """Numbers (h, w) with their palette, or colours (h, w, 3)."""
  try:
    picture = pictures.decode(file, encoded, header)
  except BadExample as fault:
    is_unknown = isinstance(fault.__cause__, PIL.UnidentifiedImageError)
    if not (is_unknown and header and header.format == "TIFF"):
      raise
    if header.bands > 1:
      raise
    return _decode_with_opencv(file, encoded, header), ()
  picture = PIL.ImageOps.exif_transpose(picture)
  if picture.mode == "1":
    pixels = headers.not_inverted(header, np.asarray(picture))
    return pixels.astype(np.uint8), _greys(header)
  if picture.mode == "P":
    return np.asarray(picture), pictures.palette_of(picture)
  if picture.mode in ("L", "F") or picture.mode.startswith("I"):
    pixels = headers.true_values(header, np.asarray(picture))
    return pixels, _greys(header)
  if picture.mode not in _COLOUR_MODES:
    raise BadExample(
      file,
      "unsupported-mask",
      "a mask must have one band of class numbers, or red, green and blue of 8 "
      f"bits, got {picture.mode}",
    )
  return np.asarray(picture.convert("RGB")), ()


def _greys(header: Header) -> tuple[Color, ...]:
  """What numbers of fewer than 8 bits look like."""
  if header.bits >= 8:
    return ()
  top = 2**header.bits - 1
  greys = tuple((255 * v // top,) * 3 for v in range(top + 1))
  return greys[::-1] if header.is_white_0 else greys


def _decode_with_opencv(
  file: str, encoded: bytes, header: Header
) -> np.ndarray:
  """One band of a kind that Pillow does not know, such as float64."""
  pictures.check_size(file, header.size)
  flags = cv2.IMREAD_UNCHANGED
  pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  if pixels is None or pixels.ndim != 2 or pixels.dtype != header.dtype:
    raise BadExample(
      file,
      "unsupported-mask",
      f"a mask must be whole numbers of 8, 16 or 32 bits, got {header.dtype}",
    )
  return headers.not_inverted(header, pixels)


def _whole_numbers(
  file: str, pixels: np.ndarray, declared: list[float]
) -> tuple[np.ndarray, np.ndarray | None]:
  """`pixels` as integers, and where what is declared as no-data is.

  Of colours (h, w, 3) it is where all three bands have the number.
  """
  unknown = None
  if declared:
    bands = pixels.reshape(*pixels.shape[:2], -1)
    unknown = np.zeros(pixels.shape[:2], bool)
    for value in declared:
      found = np.isnan(bands) if np.isnan(value) else bands == value
      unknown |= found.all(-1)
    pixels = pixels.copy()
    pixels[unknown] = 0
  if pixels.dtype.kind != "f":
    return pixels, unknown
  with np.errstate(invalid="ignore"):
    wrong = ~((pixels == np.floor(pixels)) & (np.abs(pixels) < _MOST))
  if wrong.any():
    values = np.unique(pixels[wrong])
    raise BadExample(
      file,
      "not-class-numbers",
      f"values must be whole numbers, got {listed(values.tolist())}"
      f"{nodata_hint(values[-1])}",
    )
  return pixels.astype(np.int64), unknown


def nodata_hint(value: float) -> str:
  """What to do where `value` of a folder's mask is no class at all."""
  text = f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
  return (
    f"; if {text} means that nothing is known, set "
    f"--config.data.nodata={text} (prepare: --nodata={text})"
  )


def read_labels(file: str, encoded: bytes) -> np.ndarray:
  """Numbers (h, w) of an indexed or grey mask.

  Raises:
    BadExample: it does not decode, or has more than one channel.
  """
  mask = decode(file, encoded)
  if mask.is_rgb:
    raise BadExample(
      file,
      "colour-mask",
      "a mask must be an indexed or a one-channel image, got colours",
    )
  return mask.pixels


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
      f"values must be {ranges(labels)}, got {listed(wrong)}",
    )
  if mask.dtype == np.uint8:  # in an eighth of the memory
    table = np.array([labels.get(value, 0) for value in range(256)], np.uint8)
    return cv2.LUT(np.ascontiguousarray(mask), table)
  values = np.array(sorted(labels))
  table = np.array([labels[value] for value in sorted(labels)], np.uint8)
  return table[np.searchsorted(values, mask)]


def encode(mask: np.ndarray) -> bytes:
  """8-bit one-channel PNG of labels (h, w) of 0..255."""
  _, encoded = cv2.imencode(".png", mask.astype(np.uint8), _PNG)
  return encoded.tobytes()


def codes_of(colors: np.ndarray) -> np.ndarray:
  """r * 65536 + g * 256 + b of colours (h, w, 3)."""
  codes = colors[..., 0].astype(np.int32)
  for band in (1, 2):  # in place: a third of the memory of a product
    codes <<= 8
    codes |= colors[..., band]
  return codes


def solid(values: np.ndarray) -> list[int]:
  """Values (h, w) whose 3 x 3 neighbourhood is equal somewhere."""
  if min(values.shape) < 3:
    return np.unique(values).tolist()
  same = values[:, 1:] == values[:, :-1]
  same = same[:, 1:] & same[:, :-1]  # three in a row
  rows = same[2:] & same[1:-1] & same[:-2]
  middle = values[1:-1, 1:-1]
  rows &= (middle == values[:-2, 1:-1]) & (middle == values[2:, 1:-1])
  return np.unique(middle[rows]).tolist()


def code_of(color: Color) -> int:
  """r * 65536 + g * 256 + b."""
  return int.from_bytes(bytes(color))


def ranges(values: Iterable[int]) -> str:
  """Integers in words: "0..10, 255"."""
  runs: list[list[int]] = []
  for value in sorted(values):
    if runs and value == runs[-1][-1] + 1:
      runs[-1][1:] = [value]
    else:
      runs.append([value])
  return ", ".join("..".join(map(str, run)) for run in runs)


def listed(values: list[float]) -> str:
  """The first ten of `values`."""
  shown = ", ".join(f"{v:.15g}" for v in values[:10])
  return shown + (", ..." if values[10:] else "")
