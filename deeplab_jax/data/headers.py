"""What the header of a picture says: depth, bands, kind of numbers.

Decoders are lenient. Pillow gives 16-bit colours as 8 bits and int8 as uint8,
OpenCV drops bands and reads int16 as black. So what a file holds is asked here
and never taken from what a decoder makes of it.
"""

from __future__ import annotations

import dataclasses
import io
import os
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin

# Pictures may be as large as memory allows: see `limits`.
Image.MAX_IMAGE_PIXELS = None

# What Pillow may not try: formats that start programs, such as Ghostscript, or
# that only point at other files.
Image.init()
_REFUSED = {"EPS", "WMF", "FPX", "MIC", "GBR", "BUFR", "GRIB", "HDF5", "MPEG"}
_FORMATS = tuple(name for name in Image.OPEN if name not in _REFUSED)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BANDS = {0: (1, 0), 2: (3, 0), 3: (1, 0), 4: (1, 1), 6: (3, 1)}
_TIFF = {b"II*\0": 8, b"MM\0*": 8, b"II+\0": 16, b"MM\0+": 16}  # first bytes
_TIFF_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint"}
_TIFF_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_PHOTOMETRIC, _SAMPLES, _EXTRA, _KIND, _NODATA = 262, 277, 338, 339, 42113
_ORIENTATION, _PLANES = 274, 284
# Grey whose 0 is white, or black, RGB, indices of a palette.
_WHITE_IS_0 = 0
_AS_STORED = {_WHITE_IS_0, 1, 2, 3}
_SCALE, _TIE, _TRANSFORM = 33550, 33922, 34264  # of a place on earth
_KEYS, _GEODETIC, _PROJECTED, _OWN = 34735, 2048, 3072, 32767  # GeoTIFF's
_ALPHAS = (1, 2)  # extra bands that are transparencies
_SMALLER, _MASK = 0b001, 0b100  # kinds of subfiles: an overview, a mask
# What keeps every number as it is; any other format or compression may not.
# Of WebP it depends on the file.
_LOSSLESS = {
  *("PNG", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "SGI", "QOI", "TIFF")
}
# Of a TIFF: none, as fax machines, LZW, Deflate, PackBits, LZMA, Zstandard.
_LOSSLESS_IN_TIFF = {1, 2, 3, 4, 5, 8, 32771, 32773, 32946, 34925, 50000}
_MOST_PAGES = 10_000
_MODE_BITS = {"1": 1, "I": 32, "F": 32}


@dataclasses.dataclass(frozen=True)
class Header:
  """One picture file; of a file with several, the first.

  Attributes:
    format: Pillow's name, such as "PNG".
    size: height and width.
    kind: of the numbers: "uint", "int" or "float".
    bits: of one number.
    colours: bands of grey (1), red, green, blue (3) or inks (4); palette
      indices are 1.
    alpha: bands of transparency, 0 or 1.
    alpha_is_last: whether that band comes after all others, as mostly.
    extra: bands beyond, such as near infrared.
    pictures: in the file, smaller copies not counted.
    lossy: whether its compression alters numbers, or may.
    is_called_grey: whether a TIFF says grey of its three bands or more, as GDAL
      does of 16 bits. OpenCV then reads the first band alone.
    is_placed: whether it has a place on earth, as GeoTIFF says it.
    transform: of a place on earth, (a, b, c, d, e, f): column x and row y are
      at (a x + b y + c, d x + e y + f); () without one.
    epsg: the number of the coordinate system that this is in; None if the file
      gives none.
    nodata: the number that means "nothing known", where the file declares one.
    as_stored: whether the numbers of a TIFF are read as they are stored: it is
      not turned, and they are greys, indices or colours.
    is_white_0: whether 0 is white in a TIFF of greys. Pillow and OpenCV then
      turn up to 8 bits around, GDAL does not.
    has_mask: whether a TIFF says in a page of its own which pixels are known.
    is_planar: whether a TIFF holds one band after the other. Pillow reads 16
      bits of these wrongly.
  """

  format: str
  size: tuple[int, int]
  kind: str
  bits: int
  colours: int
  alpha: int = 0
  alpha_is_last: bool = True
  extra: int = 0
  pictures: int = 1
  lossy: bool = False
  nodata: float | None = None
  is_called_grey: bool = False
  is_placed: bool = False
  transform: tuple[float, ...] = ()
  epsg: int | None = None
  as_stored: bool = False
  is_white_0: bool = False
  has_mask: bool = False
  is_planar: bool = False

  @property
  def bands(self) -> int:
    """All bands together."""
    return self.colours + self.alpha + self.extra

  @property
  def dtype(self) -> str:
    """Kind and bits, such as "float32"."""
    return f"{self.kind}{self.bits}"


def open_picture(encoded: bytes) -> Image.Image:
  """The picture as Pillow sees it, its pixels not decoded yet.

  Raises:
    Exception: whatever Pillow raises of broken or unknown bytes.
  """
  return Image.open(io.BytesIO(encoded), formats=_FORMATS)


def read(encoded: bytes) -> Header | None:
  """The header of a picture file's contents; None if they are no picture."""
  try:
    if encoded[:4] in _TIFF:
      return _of_tiff(io.BytesIO(encoded))
    return _of_others(encoded)
  except Exception:  # whatever broken bytes end in
    return None


def read_place(encoded: bytes) -> Header | None:
  """The header of a TIFF's contents; None of other files, which have no place
  on earth."""
  return read(encoded) if encoded[:4] in _TIFF else None


def read_tiff(path: str | os.PathLike) -> Header | None:
  """The header of the TIFF at `path`, without reading the rest; None if it is
  none."""
  try:
    with open(path, "rb") as file:
      return _of_tiff(file)
  except Exception:  # whatever broken bytes end in
    return None


def _of_others(encoded: bytes) -> Header:
  """PNG's own header counts; of other formats, Pillow's mode tells all."""
  picture = open_picture(encoded)
  bands = picture.getbands()
  alpha = int(bands[-1] in "Aa")
  bits = _MODE_BITS.get(picture.mode, 16 if ";16" in picture.mode else 8)
  colours = len(bands) - alpha
  if encoded.startswith(_PNG):
    bits, kind = encoded[24:26]
    colours, alpha = _PNG_BANDS[kind]
  return Header(
    format=picture.format,
    size=picture.size[::-1],
    kind="float" if picture.mode == "F" else "uint",
    bits=bits,
    colours=colours,
    alpha=alpha,
    pictures=getattr(picture, "n_frames", 1),
    lossy=_is_lossy(picture.format, encoded),
  )


def _is_lossy(kind: str, encoded: bytes) -> bool:
  if kind == "WEBP":
    return _has_lossy_chunk(encoded, 12)
  return kind not in _LOSSLESS


def _has_lossy_chunk(encoded: bytes, start: int) -> bool:
  """Whether a WebP holds a "VP8 " chunk, in a frame of an animation as well."""
  while start + 8 <= len(encoded):
    name, size = encoded[start : start + 4], encoded[start + 4 : start + 8]
    if name == b"VP8 ":
      return True
    if name == b"ANMF":  # a frame: 16 bytes of its own, then chunks
      start += 24
      continue
    start += 8 + int.from_bytes(size, "little") + size[0] % 2
  return False


def _of_tiff(file: IO[bytes]) -> Header:
  pages = _tiff_pages(file)
  first = pages[0]
  extra = first.get(_EXTRA, ())
  extra = (extra,) if isinstance(extra, int) else extra
  bands = _number(first.get(_SAMPLES, 1))
  colours = min(_TIFF_COLOURS.get(first.get(_PHOTOMETRIC), bands), bands)
  is_called_grey = colours == 1 and bands >= 3
  if is_called_grey:
    colours = 3
  alpha = int(any(kind in _ALPHAS for kind in extra) and bands > colours)
  kinds = [_number(page.get(_NEW_SUBFILE, 0)) for page in pages]
  return Header(
    format="TIFF",
    size=(_number(first[_HEIGHT]), _number(first[_WIDTH])),
    kind=_TIFF_KINDS[_number(first.get(_KIND, 1))],
    bits=_number(first.get(_BITS, 1)),
    colours=colours,
    alpha=alpha,
    alpha_is_last=not alpha or extra[-1] in _ALPHAS,
    extra=bands - colours - alpha,
    pictures=sum(not kind & (_SMALLER | _MASK) for kind in kinds),
    lossy=_number(first.get(_COMPRESSION, 1)) not in _LOSSLESS_IN_TIFF,
    nodata=_nodata(first.get(_NODATA)),
    is_called_grey=is_called_grey,
    is_placed=not first.keys().isdisjoint({_SCALE, _TIE, _TRANSFORM}),
    transform=_transform(first),
    epsg=_epsg(first),
    as_stored=_number(first.get(_ORIENTATION, 1)) == 1
    and _number(first.get(_PHOTOMETRIC, 1)) in _AS_STORED,
    is_white_0=first.get(_PHOTOMETRIC) == _WHITE_IS_0,
    has_mask=any(kind & _MASK and not kind & _SMALLER for kind in kinds),
    is_planar=first.get(_PLANES) == 2,
  )


def _transform(tags: dict[int, Any]) -> tuple[float, ...]:
  """See `Header`; () as well of a place that only some points have."""
  matrix, scale, tie = (
    np.ravel(tags.get(tag, ())).tolist() for tag in (_TRANSFORM, _SCALE, _TIE)
  )
  if len(matrix) == 16:
    return (*matrix[0:2], matrix[3], *matrix[4:6], matrix[7])
  if len(scale) < 2 or len(tie) != 6:
    return ()
  (width, height), (column, row, _, x, y, _) = scale[:2], tie
  return width, 0.0, x - column * width, 0.0, -height, y + row * height


def _epsg(tags: dict[int, Any]) -> int | None:
  """See `Header`."""
  numbers = np.ravel(tags.get(_KEYS, ())).tolist()
  keys = zip(*(numbers[4 + i :: 4] for i in range(4)))
  found = {key: value for key, where, _, value in keys if where == 0}
  code = found.get(_PROJECTED, found.get(_GEODETIC))
  return None if code == _OWN else code


def _tiff_pages(file: IO[bytes]) -> list[Any]:
  """The directories of tags, one for each page, the first being the picture."""
  magic = file.read(4)
  head = magic + file.read(_TIFF[magic] - len(magic))
  tags = TiffImagePlugin.ImageFileDirectory_v2(head)
  pages, seen = [], set()
  while tags.next and tags.next not in seen and len(pages) < _MOST_PAGES:
    seen.add(tags.next)  # a damaged or hostile file may lead in a circle
    file.seek(tags.next)
    tags.load(file)
    pages.append(dict(tags))
  return pages


def _number(value: Any) -> int:
  """A tag's number; of several, as each band has one, the largest.

  Raises:
    TypeError: it is none, as a damaged file may have it.
  """
  number = max(value) if isinstance(value, tuple) else value
  if not isinstance(number, int):
    raise TypeError(f"a tag must be a whole number, got {number!r}")
  return number


def _nodata(text: str | None) -> float | None:
  try:
    return None if text is None else float(text.strip(" \0"))
  except ValueError:
    return None


def not_inverted(header: Header, pixels: np.ndarray) -> np.ndarray:
  """Numbers or greys as stored, of what Pillow or OpenCV made of a TIFF."""
  return ~pixels if header.is_white_0 and header.bits <= 8 else pixels


def true_values(header: Header, pixels: np.ndarray) -> np.ndarray:
  """Numbers (h, w) as the file has them, of what Pillow made of one band.

  Pillow stretches 2 and 4 bits to 0..255, and takes int8 for uint8 and uint32
  for int32; where 0 is white, 255 is 0.
  """
  pixels = not_inverted(header, pixels)
  if header.bits in (2, 4) and header.format in ("PNG", "TIFF"):
    return pixels // np.uint8(255 // (2**header.bits - 1))
  if header.dtype in ("int8", "uint32"):
    return pixels.view(header.dtype)
  return pixels
