"""What the pictures of a user's folder hold where channels are asked for.

All of them are read once before anything is built: training needs one kind of
numbers for all, and the range of values that stands for black and white.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import tqdm

from deeplab_jax import messages
from deeplab_jax.data import bands
from deeplab_jax.data.bands import Picture
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.data.builders.folder_layout import Layout
from deeplab_jax.data.builders.folder_tiles import Tiles
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.preprocess import ValueRange

_PIXELS = 1_000_000  # of all pictures together that percentiles are taken of
_FEWEST = 64  # of each picture
_PERCENTILES = (0.1, 1, 50, 99, 99.9)


@dataclasses.dataclass(frozen=True)
class FolderBands:
  """The channels of a folder's pictures.

  Attributes:
    channels: of every picture.
    dtype: of every picture; "" if none can be read.
    value_range: of each channel, lowest and highest value; () is 0..255.
    percentiles: of the training pictures, (channels, 5), see `lines`.
  """

  channels: int
  dtype: str
  value_range: ValueRange
  percentiles: np.ndarray

  def keeps_file(self, encoded: bytes) -> bool:
    """Whether a picture is stored as its file has it: RGB of 8 bits, which
    training always read, but for TIFFs, which may call it something else."""
    is_plain = (self.channels, self.dtype) == (3, "uint8")
    return is_plain and not encoded.startswith(bands.ARRAYS)

  def read(self, file: str, encoded: bytes) -> Picture:
    """A picture of the folder.

    Raises:
      BadExample: it has not the channels, or other numbers than most have.
    """
    return self.check(file, decode(file, encoded, self.channels))

  def check(self, file: str, picture: Picture) -> Picture:
    """`picture`, refused if it holds other numbers than most.

    Raises:
      BadExample: it does.
    """
    found = picture.pixels.dtype.name
    if found != self.dtype:
      raise BadExample(
        file,
        "mixed-depth",
        f"pictures must all hold {self.dtype}, as most do, got {found}",
      )
    return picture

  def remarks(self, file: str, picture: Picture) -> Iterator[Remark]:
    """What may be meant of `picture`, which `file` holds."""
    if picture.remark:
      yield Remark("place-of-channels", file, picture.remark)
    if picture.hidden:
      yield Remark("hidden-pixels", file, f"{picture.hidden} pixels")

  def lines(self) -> list[str]:
    """What was found, for the user."""
    if not self.dtype:
      return []
    first = f"channels: {self.channels} of {self.dtype}"
    if not self.value_range:
      return [f"{first}, of which 0 is black and 255 white"]
    names = ", ".join(f"{p:g} %" for p in _PERCENTILES)
    found = "; ".join(
      f"{i}: " + ", ".join(f"{v:.6g}" for v in row)
      for i, row in enumerate(self.percentiles)
    )
    return [
      f"{first}; percentiles {names} of the training pictures by channel: "
      f"{found}; --config.data.value_range={shown(self.value_range)} unless "
      "you set another"
    ]


def shown(value_range: ValueRange) -> str:
  """A range as a command line has it, without spaces."""
  pairs = ",".join(f"({low:.9g},{high:.9g})" for low, high in value_range)
  return f"({pairs},)"


def decode(file: str, encoded: bytes, channels: int) -> Picture:
  """The picture in a file's contents.

  Raises:
    BadExample: it cannot be read with so many channels.
  """
  try:
    return bands.decode(encoded, channels)
  except bands.MissingPackage as error:
    raise BadExample(file, "needs-package", str(error)) from error
  except ValueError as error:
    raise BadExample(file, "other-channels", str(error)) from error
  except cv2.error as error:
    if messages.is_out_of_memory(error):
      raise
    raise BadExample(file, "undecodable", "cannot be decoded") from error


def find(
  tree: Tree, layout: Layout, channels: int, tiles: Tiles | None = None
) -> FolderBands:
  """Reads all pictures of both splits; those that are bad are passed over.

  Of rasters that are cut into `tiles` only some pixels are read.
  """
  train = layout.splits["train"]
  names = [*train, *sorted({*layout.splits["val"]} - {*train})]
  quota = max(_PIXELS // max(len(train), 1), _FEWEST)
  if tiles is None:
    look = functools.partial(_look, tree, channels, quota)
    items = [layout.images[name] for name in names]
  else:
    look, items = functools.partial(tiles.sample, count=quota), names
  results = tqdm.tqdm(
    in_order(look, items), "channels", len(items), leave=False, disable=None
  )
  found = list(results)
  dtypes = collections.Counter(x.dtype.name for x in found if x is not None)
  dtype = dtypes.most_common(1)[0][0] if dtypes else ""
  known = [
    x for x in found[: len(train)] if x is not None and x.dtype.name == dtype
  ]
  percentiles = _percentiles(known, channels)
  value_range = _range(percentiles) if dtype not in ("", "uint8") else ()
  return FolderBands(channels, dtype, value_range, percentiles)


def _look(
  tree: Tree, channels: int, quota: int, path: str
) -> np.ndarray | None:
  """Some known pixels (n, channels) of a picture; None if it is bad."""
  try:
    picture = decode(tree.where(path), tree.read(path), channels)
  except BadExample:
    return None
  pixels = picture.pixels.reshape(-1, channels)
  if picture.unknown is not None:
    pixels = pixels[~picture.unknown.ravel()]
  step = max(len(pixels) // quota, 1)
  # Not a divisor of the width, which would take a few columns only.
  while step > 1 and picture.pixels.shape[1] % step == 0:
    step += 1
  return pixels[::step].copy()


def _percentiles(samples: Sequence[np.ndarray], channels: int) -> np.ndarray:
  """(channels, 5) of what is finite; 0 without any."""
  pixels = np.concatenate([*samples, np.zeros((0, channels), np.uint8)])
  found = np.zeros((channels, len(_PERCENTILES)))
  for channel in range(channels):
    values = pixels[:, channel].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size:
      found[channel] = np.percentile(values, _PERCENTILES)
  return found


def _range(percentiles: np.ndarray) -> ValueRange:
  """The outermost percentiles; of a channel that is constant one more."""
  low, high = percentiles[:, 0], percentiles[:, -1]
  high = np.where(high > low, high, low + 1)
  return tuple(zip(low.tolist(), high.tolist()))
