"""Masks of large rasters, of which a part is read at a time.

These are TIFFs of one band of numbers, or of red, green and blue, without
transparency: what GIS programs write. Any other mask is read as a whole, see
`masks`, and its parts are the same.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from deeplab_jax.data import bands, headers
from deeplab_jax.data.builders import masks
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.masks import Mask
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.headers import Header

_WHAT = "mask of a raster that is cut into tiles"
_BITS = (8, 16, 32)
_STRIP = 1 << 22  # pixels of a strip


class Windows:
  """An open mask.

  Attributes:
    size: its height and width.
    header: of the file.
  """

  def __init__(
    self, file: str, raster: Any, header: Header, nodata: float | None
  ):
    """Takes an open raster of rasterio."""
    self.size = raster.height, raster.width
    self.header = header
    self._file, self._raster, self._nodata = file, raster, nodata
    self._palette = ()
    if raster.colorinterp[0].name == "palette":
      colors = raster.colormap(1)
      self._palette = tuple(colors[i][:3] for i in sorted(colors))

  def read(self, rows: slice, columns: slice) -> Mask:
    """A part of the mask.

    Raises:
      BadExample: its values cannot be class numbers, or it is damaged.
    """
    window = (rows.start, rows.stop), (columns.start, columns.stop)
    with _told(self._file):
      pixels = self._raster.read(window=window)
    pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)
    what = self._file, self.header, pixels, self._palette
    return masks.of_pixels(*what, self._nodata)

  def strips(self, shared: int) -> Iterator[tuple[int, Mask]]:
    """All of the mask in strips of some rows, and how many of the first rows
    of each are `shared` with the strip before."""
    height, width = self.size
    side = max(_STRIP // width // 256 * 256, 256)
    for top in range(0, height, side):
      above = min(shared, top)
      rows = slice(top - above, min(top + side, height))
      yield above, self.read(rows, slice(0, width))


@contextlib.contextmanager
def opened(
  tree: Tree, path: str, nodata: float | None
) -> Iterator[Windows | None]:
  """The mask `path` of the folder `tree`; None if it is to be read as a whole.

  Args:
    tree: the user's files, in a folder.
    path: of the mask.
    nodata: number of masks that means that nothing is known.

  Raises:
    BadExample: it is damaged.
  """
  place = tree.root / path
  header = headers.read_tiff(place)
  if header is None or not _fits(header):
    yield None
    return
  rasterio, file = bands.import_rasterio(_WHAT), tree.where(path)
  with contextlib.ExitStack() as stack:
    with _told(file):
      raster = stack.enter_context(rasterio.open(place))
    yield Windows(file, raster, header, nodata)


def _fits(header: Header) -> bool:
  """Whether parts of a mask are what `masks.decode` makes of all of it."""
  is_numbers = header.bands == 1 and header.bits in _BITS
  is_colours = (header.bands, header.colours, header.dtype) == (3, 3, "uint8")
  is_plain = header.as_stored and not header.is_called_grey
  is_one = header.pictures == 1 and not header.lossy
  return is_one and is_plain and (is_numbers or is_colours)


@contextlib.contextmanager
def _told(file: str) -> Iterator[None]:
  """What is wrong with a raster is a `BadExample`."""
  rasterio = bands.import_rasterio(_WHAT)
  try:
    yield
  except rasterio.errors.RasterioError as error:
    told = " ".join(str(error).split())
    raise BadExample(
      file, "undecodable", f"cannot be decoded as an image ({told})"
    ) from error
