"""Pictures of any number of channels, with the numbers that their files hold.

`preprocess.decode_image` gives what a viewer shows, red, green and blue of 8
bits. Here nothing is converted: a file has the channels that are asked for, in
a kind of numbers that training takes, or is refused with the reason. What a
prepared data set stores of such a picture is a `.npy` file.
"""

import io
import json
import math
import warnings
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.ImageOps

from deeplab_jax.data import headers, limits
from deeplab_jax.data.headers import Header

NUMPY_SUFFIX = ".npy"
_NUMPY = b"\x93NUMPY"
ARRAYS = (_NUMPY, b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of .npy files and of TIFFs."""
_REFERENCE = b"part of a raster: "
_DTYPES = ("uint8", "uint16", "int16", "float32")
_ALLOWED = "uint8, uint16, int16 or float32"
_AS_FLOAT = ("float16", "float64")  # floats as well, of other widths
# Pillow's modes whose arrays are what the file holds, and those to be converted
# first: indices of a palette, and colours that are stored as something else.
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I;16L", "F")
_CONVERTED = {"1": "L", "P": "RGB", "PA": "RGBA", "YCbCr": "RGB"}
_BY_GDAL = ("TIFF", "JPEG2000")


class Picture(NamedTuple):
  """A picture as its file has it.

  Attributes:
    pixels: (h, w, channels) of a dtype that training takes.
    unknown: bool (h, w), where all channels have the number that the file
      declares as no-data, or are no numbers, or where a TIFF has a mask or a
      transparency, which is no channel, that says so; None if it is nowhere.
    remark: how channels were found, where that is not what a file says.
    hidden: how many pixels a mask or a transparency says to be unknown.
  """

  pixels: np.ndarray
  unknown: np.ndarray | None = None
  remark: str = ""
  hidden: int = 0


def decode(encoded: bytes, channels: int) -> Picture:
  """The picture in a file's contents.

  Args:
    encoded: of a PNG, TIFF, JPEG or another file that Pillow reads, or of a
      .npy file of shape (h, w), (h, w, channels) or (channels, h, w). Turned
      as an EXIF tag says.
    channels: that it must have. Transparency is one, or else left out, and the
      pages of a TIFF are, if the first alone has fewer.

  Raises:
    ValueError: it has others, numbers of another kind, or cannot be decoded.
  """
  if encoded.startswith(_NUMPY):
    pixels, remark = _of_numpy(encoded, channels)
    return Picture(pixels, _unknown(pixels), remark)
  header = headers.read(encoded)
  if header is None:
    raise ValueError("cannot be decoded as a picture")
  _check_kind(header.dtype if header.bits > 8 else f"{header.kind}8")
  of_pages = header.bands * header.pictures
  is_paged = header.bands < channels == of_pages and header.format == "TIFF"
  found = channels if is_paged else _count(header, channels)
  _check_size((*header.size, found), header.bits // 8)
  hidden = None
  if is_paged:
    pixels = _with_rasterio(encoded, header, pages=True)
    remark = f"{header.pictures} pages, read as {channels} channels"
  else:
    whole, remark = _first(encoded, header), ""
    if channels < whole.shape[2] > header.bands:
      _check_greys(whole)
    pixels = whole[..., :channels]
    if header.format == "TIFF":
      hidden = _hidden(encoded, header, whole, channels)
  if pixels.shape[2] != channels:
    raise ValueError(f"must have {channels} channels, got {pixels.shape[2]}")
  pixels = _as_trained(pixels)
  unknown = _unknown(pixels, header.nodata, hidden)
  return Picture(pixels, unknown, remark, _count_of(hidden))


def _hidden(
  encoded: bytes, header: Header, pixels: np.ndarray, channels: int
) -> np.ndarray | None:
  """Bool (h, w), where a TIFF says that nothing is known, by a mask of its own
  or by a transparency that is no channel; None if it does not.

  `pixels` (h, w, c) are all that it has.
  """
  if header.has_mask:
    rasterio = import_rasterio("TIFF with a mask")
    with rasterio.MemoryFile(encoded) as file, file.open() as raster:
      return raster.dataset_mask() == 0
  if header.alpha and channels < header.bands:
    if not header.alpha_is_last:
      raise ValueError(_not_last(header.bands))
    return pixels[..., -1] == 0
  return None


def _not_last(count: int) -> str:
  return (
    "must have its transparency as the last band to leave it out, got another "
    f"of {count}; write it last, or have all {count} read as channels"
  )


def encode(pixels: np.ndarray) -> bytes:
  """What a prepared data set stores of `pixels` (h, w, channels)."""
  file = io.BytesIO()
  np.save(file, pixels, allow_pickle=False)
  return file.getvalue()


def refer(path: str, channels: int, rows: slice, columns: slice) -> bytes:
  """What a prepared data set stores of a part of the raster at `path`.

  Only where it is: the raster itself is read again by `stored`.
  """
  place = [rows.start, rows.stop, columns.start, columns.stop]
  facts = {"path": path, "channels": channels, "place": place}
  return _REFERENCE + json.dumps(facts).encode()


def is_stored(encoded: bytes) -> bool:
  """Whether it is of `encode` or `refer`, and not an encoded picture."""
  return encoded.startswith((_NUMPY, _REFERENCE))


def stored(encoded: bytes) -> np.ndarray:
  """The pixels (h, w, channels) of what `encode` or `refer` gave.

  Raises:
    ValueError: a raster is no longer there.
  """
  if not encoded.startswith(_REFERENCE):
    return np.load(io.BytesIO(encoded), allow_pickle=False)
  facts = json.loads(encoded.removeprefix(_REFERENCE))
  top, bottom, left, right = facts["place"]
  rasterio = import_rasterio("data set of tiles of rasters")
  try:
    with rasterio.open(facts["path"]) as raster:
      place = slice(top, bottom), slice(left, right)
      return of_raster(raster, facts["channels"], *place).pixels
  except rasterio.errors.RasterioError as error:
    told = " ".join(str(error).split())
    raise ValueError(
      f"{facts['path']}, of which the data set has tiles, cannot be read "
      f"({told}); put it back"
    ) from error


def alphas(raster: Any, channels: int) -> int:
  """How many bands of an open raster are a transparency.

  Raises:
    ValueError: `channels` are all others, and it is not the last band.
  """
  found = [kind.name == "alpha" for kind in raster.colorinterp]
  if sum(found) == raster.count - channels and any(found[:channels]):
    raise ValueError(_not_last(raster.count))
  return sum(found)


def of_raster(
  raster: Any,
  channels: int,
  rows: slice | None = None,
  columns: slice | None = None,
  size: tuple[int, int] | None = None,
) -> Picture:
  """A part of an open raster of rasterio, or all of it.

  Args:
    raster: the raster.
    channels: that it must have, or so many before its transparency.
    rows: of the part.
    columns: of the part.
    size: height and width that the part is thinned out to.

  Raises:
    ValueError: it has other channels, or numbers of another kind.
  """
  transparent = alphas(raster, channels)
  dtypes = sorted(set(raster.dtypes))
  found = f"{raster.count} bands of {', '.join(dtypes)}"
  if channels not in (raster.count, raster.count - transparent):
    raise ValueError(f"must have {channels} channels, got {found}")
  if len(dtypes) > 1:
    raise ValueError(f"must have bands of one kind of numbers, got {found}")
  check_palette(raster)
  _check_kind(dtypes[0])
  window = None
  if rows is not None and columns is not None:
    window = (rows.start, rows.stop), (columns.start, columns.stop)
  shape = None if size is None else (channels, *size)
  indices = list(range(1, channels + 1))
  pixels = raster.read(indices, window=window, out_shape=shape)
  pixels = _as_trained(np.moveaxis(pixels, 0, 2))
  hidden = None
  masks = {flag.name for flags in raster.mask_flag_enums for flag in flags}
  if "per_dataset" in masks and not (transparent and channels == raster.count):
    hidden = raster.dataset_mask(window=window, out_shape=size) == 0
  unknown = _unknown(pixels, raster.nodata, hidden)
  return Picture(pixels, unknown, hidden=_count_of(hidden))


def check_palette(raster: Any) -> None:
  """Refuses an open raster whose numbers stand for colours.

  Raises:
    ValueError: they do, and are not the greys themselves.
  """
  if raster.colorinterp[0].name == "palette":
    colors = raster.colormap(1)
    _check_greys(np.array([(*colors[i][:3], i) for i in sorted(colors)]))


def _check_greys(colors: np.ndarray) -> None:
  """Refuses the colours (..., c) of a palette where one channel is asked for,
  unless they are greys."""
  if (colors != colors[..., :1]).any():
    raise ValueError(
      "must hold values, got numbers that stand for colours of a palette; "
      "convert it to colours"
    )


def _of_numpy(encoded: bytes, channels: int) -> tuple[np.ndarray, str]:
  """The array of a .npy file, channels last, and a remark on their place."""
  file = io.BytesIO(encoded)
  try:
    version = np.lib.format.read_magic(file)
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read(file)
  except Exception as error:  # whatever broken bytes end in
    raise ValueError(f"cannot be read as .npy ({error})") from error
  _check_kind(dtype.newbyteorder("=").name)
  _check_size(shape, dtype.itemsize)
  is_first = len(shape) == 3 and shape[0] == channels != shape[2]
  is_last = len(shape) == 3 and shape[2] == channels
  if not (is_first or is_last or (len(shape) == 2 and channels == 1)):
    raise ValueError(
      f"must be of shape (h, w, {channels}), got {shape}"
      + (f"; {shape[2]} channels?" if len(shape) == 3 else "")
    )
  try:
    pixels = stored(encoded)
  except ValueError as error:
    raise ValueError(f"cannot be read as .npy ({error})") from error
  if not pixels.size:
    raise ValueError(f"must have pixels, got shape {shape}")
  if is_first:
    remark = f"shape {shape}, whose first axis was taken for the channels"
    return _as_trained(np.moveaxis(pixels, 0, 2)), remark
  return _as_trained(pixels.reshape(*shape[:2], channels)), ""


def _check_kind(dtype: str) -> None:
  if dtype not in (*_DTYPES, *_AS_FLOAT) and not _is_packed(dtype):
    raise ValueError(f"must hold {_ALLOWED}, got {dtype}")


def _is_packed(dtype: str) -> bool:
  """Whether numbers of 9 to 15 bits, which decoders widen to 16."""
  return dtype in {f"uint{bits}" for bits in range(9, 16)}


def _check_size(shape: tuple[int, ...], width: int) -> None:
  """Refuses more than memory holds, before anything is decoded."""
  rest = math.prod(shape[2:]) * max(width, 1)
  limits.check_pixels(shape[:2], limits.num_readers(), 3 * rest)


def _count(header: Header, channels: int) -> int:
  """How many channels are decoded to have the first `channels`."""
  opaque = header.bands - header.alpha
  is_palette = channels == 3 and header.colours == 1 and not header.extra
  if channels in (header.bands, opaque) or is_palette:
    return header.bands
  pages = f" in each of {header.pictures} pages" if header.pictures > 1 else ""
  raise ValueError(
    f"must have {channels} channels, got {header.bands}{pages} of "
    f"{header.dtype}"
  )


def _first(encoded: bytes, header: Header) -> np.ndarray:
  """All channels of a file's first picture (h, w, c)."""
  if header.format == "PNG" and header.bits == 16:
    return _with_opencv(encoded, header)
  pixels = _with_pillow(encoded, header)
  if pixels is not None:
    return pixels
  if header.format in _BY_GDAL:
    return _with_rasterio(encoded, header)
  raise ValueError(f"is a {header.format} of a kind that is not read")


def _with_opencv(encoded: bytes, header: Header) -> np.ndarray:
  """A PNG of 16 bits, which Pillow reduces to 8 where it has colours."""
  flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
  pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  if pixels is None or pixels.dtype != np.uint16:
    raise ValueError("cannot be decoded as a PNG of 16 bits")
  pixels = pixels.reshape(*pixels.shape[:2], -1)
  if header.colours == 3:
    return pixels[..., [2, 1, 0, *range(3, header.bands)]]
  return pixels[..., [0, *([-1] if header.alpha else [])]]


def _with_pillow(encoded: bytes, header: Header) -> np.ndarray | None:
  """What Pillow decodes as it is; None if it would alter something."""
  is_single = header.bands == 1 and header.dtype in ("uint16", "float32")
  if header.extra or not (header.bits <= 8 or is_single):
    return None
  try:
    picture = headers.open_picture(encoded)
    if picture.mode not in (*_MODES, *_CONVERTED):
      return None
    if picture.mode in _CONVERTED:
      picture = picture.convert(_CONVERTED[picture.mode])
    pixels = np.asarray(PIL.ImageOps.exif_transpose(picture))
  except Exception as error:  # whatever a decoder makes of broken bytes
    if header.format in _BY_GDAL and isinstance(error, OSError):
      return None  # perhaps of a compression that only GDAL knows
    told = " ".join(str(error).split())
    raise ValueError(f"cannot be decoded as a picture ({told})") from error
  pixels = headers.not_inverted(header, pixels)
  return pixels.reshape(*pixels.shape[:2], -1)


def _with_rasterio(
  encoded: bytes, header: Header, pages: bool = False
) -> np.ndarray:
  """All bands of a TIFF or JPEG 2000 (h, w, c), of all its pages if asked."""
  rasterio = import_rasterio(
    f"{header.format} of {header.bands} bands of {header.dtype}"
  )
  try:
    with rasterio.MemoryFile(encoded) as file, file.open() as raster:
      names = sorted(raster.subdatasets, key=_page) if pages else ()
      found = [_bands(rasterio, name) for name in names] or [raster.read()]
  except rasterio.errors.RasterioError as error:
    told = " ".join(str(error).split())
    raise ValueError(f"cannot be decoded as a picture ({told})") from error
  if len({(x.shape[1:], x.dtype) for x in found}) > 1:
    raise ValueError("must have pages of one size and kind to be channels")
  return np.moveaxis(np.concatenate(found), 0, 2)


def _page(name: str) -> int:
  """The number of a page in GDAL's name of it, "GTIFF_DIR:12:/vsimem/..."."""
  return int(name.split(":")[1])


def _bands(rasterio: Any, name: str) -> np.ndarray:
  with rasterio.open(name) as page:
    return page.read()


class MissingPackage(ValueError):
  """A file can be read, but not without a package that is not installed."""


def import_rasterio(what: str) -> Any:
  """The package that reads rasters, of the extra `geo`.

  Args:
    what: is to be read, for the message.

  Raises:
    MissingPackage: it is not installed.
  """
  try:
    import rasterio
    import rasterio.errors
  except ImportError:
    raise MissingPackage(
      f"a {what} needs the package rasterio: pip install 'deeplab_jax[geo]'"
    ) from None
  # Pictures need no place on earth.
  warned = rasterio.errors.NotGeoreferencedWarning
  warnings.filterwarnings("ignore", category=warned)
  return rasterio


def _as_trained(pixels: np.ndarray) -> np.ndarray:
  """`pixels` in a dtype that training takes, in the order of this machine."""
  name = pixels.dtype.newbyteorder("=").name
  if name in _AS_FLOAT:
    name = "float32"
  if name not in _DTYPES:
    raise ValueError(f"must hold {_ALLOWED}, got {name}")
  with np.errstate(over="ignore"):
    return np.ascontiguousarray(pixels, np.dtype(name))


def _count_of(hidden: np.ndarray | None) -> int:
  return 0 if hidden is None else int(hidden.sum())


def _unknown(
  pixels: np.ndarray,
  nodata: float | None = None,
  hidden: np.ndarray | None = None,
) -> np.ndarray | None:
  """Where all channels are no-data, or `hidden`; None if that is nowhere."""
  missing = np.zeros(pixels.shape, bool)
  is_float = pixels.dtype.kind == "f"
  if is_float:
    missing |= ~np.isfinite(pixels)
  if nodata is not None and not math.isnan(nodata):
    # Files write it in decimals, of which pixels hold the nearest float32.
    with np.errstate(over="ignore"):
      missing |= pixels == (np.float32 if is_float else np.float64)(nodata)
  unknown = missing.all(-1)
  if hidden is not None:
    unknown |= hidden
  return unknown if unknown.any() else None
