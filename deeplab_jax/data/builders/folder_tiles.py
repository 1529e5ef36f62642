"""Large rasters of a user's folder, cut into tiles for training.

The pictures stay where they are: a prepared tile is the place in its raster,
which `bands.stored` reads when the tile is asked for. Masks are read by parts
as well where they can be, see `mask_windows`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from deeplab_jax.data import bands, headers
from deeplab_jax.data.bands import Picture
from deeplab_jax.data.builders import checks
from deeplab_jax.data.builders.faults import (
  BadExample,
  Remark,
  Report,
  refuse,
)
from deeplab_jax.data.builders.folder_layout import Layout
from deeplab_jax.data.builders.trees import Tree

_WHAT = "raster that is cut into tiles"


class Tiling(NamedTuple):
  """How rasters are cut, see `config.data.tile`.

  Attributes:
    side: of a tile in pixels; 0 cuts nothing.
    overlap: pixels that neighbours share.
    most_unknown: share of a tile's pixels that may be ignored; tiles with more
      are left out.
  """

  side: int = 0
  overlap: int = 0
  most_unknown: float = 0.5

  def check(self, channels: int) -> None:
    """Raises ValueError for what cannot be cut."""
    side, overlap, share = self
    if side < 0 or not 0 <= overlap < max(side, 1) or not 0 <= share <= 1:
      raise ValueError(
        "data.tile must be 0 or more, data.tile_overlap from 0 to less than "
        f"it, data.tile_nodata from 0 to 1, got {side}, {overlap}, {share:g}"
      )
    if side and not channels:
      raise ValueError(
        "data.tile cuts rasters that are read as they are: set data.channels "
        "(--channels of prepare) to how many they have"
      )

  def left_out(
    self, file: str, key: str, labels: np.ndarray, ignored: int | None
  ) -> Remark | None:
    """What is said of a tile that is left out; None of others.

    Args:
      file: its raster, for messages.
      key: of the tile.
      labels: of its pixels.
      ignored: the label that is ignored.
    """
    share = 0 if ignored is None else float((labels == ignored).mean())
    if share <= self.most_unknown:
      return None
    place = key.rpartition("@")[2]
    return Remark("tiles-left-out", file, f"{share:.0%} of that at {place}")


class Tile(NamedTuple):
  """A tile: the name of its raster, its rows and columns there."""

  raster: str
  rows: slice
  columns: slice


class Tiles:
  """The tiles of a folder.

  Attributes:
    splits: keys of the tiles of "train" and "val", row after row.
    tiles: by key.
    sizes: height and width of each raster, by its name.
  """

  def __init__(
    self,
    tree: Tree,
    layout: Layout,
    channels: int,
    tiling: Tiling,
    report: Report = refuse,
  ):
    """Looks at the size and place of every raster; one that cannot be read,
    or whose mask is at another place, is reported and left out."""
    if tree.root is None:
      raise BadExample(
        tree.origin,
        "no-layout",
        "data.tile cuts rasters of a folder of images and masks, got an export "
        "of annotations or an archive",
      )
    self._tree, self._layout, self._channels = tree, layout, channels
    self.sizes: dict[str, tuple[int, int]] = {}
    self.tiles: dict[str, Tile] = {}
    self.splits: dict[str, list[str]] = {}
    for split, names in layout.splits.items():
      keys = self.splits.setdefault(split, [])
      for name in names:
        try:
          with self._opened(name) as raster:
            self.sizes[name] = raster.height, raster.width
          self._check_place(name)
        except BadExample as fault:
          report(fault)
          continue
        found = dict(_cut(name, self.sizes[name], tiling))
        self.tiles |= found
        keys += found

  def read(self, key: str) -> Picture:
    """The pixels of a tile.

    Raises:
      BadExample: its raster cannot be read.
    """
    name, rows, columns = self.tiles[key]
    with self._opened(name) as raster:
      return bands.of_raster(raster, self._channels, rows, columns)

  def reference(self, key: str) -> bytes:
    """What a prepared data set stores of a tile: see `bands.stored`."""
    name, rows, columns = self.tiles[key]
    return bands.refer(self._path(name), self._channels, rows, columns)

  def sample(self, name: str, count: int) -> np.ndarray | None:
    """About `count` known pixels (n, channels) from all over a raster; None if
    it cannot be read."""
    try:
      with self._opened(name) as raster:
        step = max((raster.height * raster.width / count) ** 0.5, 1)
        sides = (int(n / step) or 1 for n in (raster.height, raster.width))
        found = bands.of_raster(raster, self._channels, size=tuple(sides))
    except BadExample:
      return None
    pixels = found.pixels.reshape(-1, self._channels)
    return pixels if found.unknown is None else pixels[~found.unknown.ravel()]

  def _check_place(self, name: str) -> None:
    """Refuses a mask at another place than its raster."""
    mask = self._layout.masks.get(name)
    if mask is not None:
      places = (self._tree.root / mask, self._path(name))
      found = map(headers.read_tiff, places)
      checks.check_mask_place(self._tree.where(mask), *found)

  def _path(self, name: str) -> str:
    return str(self._tree.root / self._layout.images[name])

  @contextlib.contextmanager
  def _opened(self, name: str) -> Iterator[Any]:
    """The raster `name`; what is wrong with it is a `BadExample`."""
    file = self._tree.where(self._layout.images[name])
    rasterio = bands.import_rasterio(_WHAT)
    try:
      with rasterio.open(self._path(name)) as raster:
        yield raster
    except ValueError as error:
      raise BadExample(file, "other-channels", str(error)) from error
    except rasterio.errors.RasterioError as error:
      told = " ".join(str(error).split())
      raise BadExample(
        file, "undecodable", f"cannot be read as a raster ({told})"
      ) from error


def _cut(
  name: str, size: tuple[int, int], tiling: Tiling
) -> Iterator[tuple[str, Tile]]:
  """Keys and tiles of a raster, which cover it; the last ones end at its
  border and overlap more."""
  rows, columns = (_starts(length, tiling) for length in size)
  for top in rows:
    for left in columns:
      bottom, right = (
        min(start + tiling.side, length)
        for start, length in zip((top, left), size)
      )
      tile = Tile(name, slice(top, bottom), slice(left, right))
      yield f"{name}@{top},{left}", tile


def _starts(length: int, tiling: Tiling) -> list[int]:
  last = max(length - tiling.side, 0)
  return [*range(0, last, tiling.side - tiling.overlap), last]


class Latest:
  """The latest result of a slow function, which several threads ask for."""

  def __init__(self, function: Callable[[str], Any]):
    self._function = function
    self._lock = threading.Lock()
    self._held: tuple[str, Any] | None = None

  def __call__(self, name: str) -> Any:
    with self._lock:
      if self._held is None or self._held[0] != name:
        self._held = None  # not two of them at a time
        self._held = name, self._function(name)
      return self._held[1]
