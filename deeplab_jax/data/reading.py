"""How the files of a user's folder become a data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from deeplab_jax.data.annotations.options import DEFAULT, Options
from deeplab_jax.data.builders.folder_tiles import Tiling
from deeplab_jax.data.preprocess import ValueRange

MOST_CHANNELS = 32
_WHOLE = Tiling()
_TILING = {
  "side": "tile",
  "overlap": "tile_overlap",
  "most_unknown": "tile_nodata",
}
# Raise it when the files of a folder become other labels than before, ...
_FOLDER_RULES = 3
_MULTILABEL_RULES = 1  # ... and it where their classes overlap.


@dataclasses.dataclass(frozen=True)
class Reading:
  """What `config.data`, or flags of `prepare`, say of the data set "folder".

  Attributes:
    nodata: number of masks that means that nothing is known.
    channels: of the pictures, see `config.data.channels`.
    tiling: how rasters are cut.
    multilabel: whether classes overlap.
    options: how annotations are read.
  """

  nodata: float | None = None
  channels: int = 0
  tiling: Tiling = _WHOLE
  multilabel: bool = False
  options: Options = DEFAULT

  def check(self, name: str) -> None:
    """Raises ValueError for what data set `name` is not read with."""
    if name != "folder":
      self._check_unused(name)
    self.tiling.check(self.channels)
    if self.channels not in range(MOST_CHANNELS + 1):
      raise ValueError(
        "data.channels (--channels of prepare) must be 0 or from 1 to "
        f"{MOST_CHANNELS}, got {self.channels}"
      )
    if self.multilabel and self.tiling.side:
      raise ValueError(
        "data.tile (--tile of prepare) is not for pictures whose classes "
        f"overlap, got {self.tiling.side}; leave it out"
      )
    if self.multilabel and self.options != DEFAULT:
      raise ValueError(
        "data.format, data.order and data.unannotated are not for masks of "
        f"classes that overlap, got {self.options}; leave them out"
      )

  def _check_unused(self, name: str) -> None:
    """Raises ValueError for anything that is set."""
    if self.nodata is not None:
      raise ValueError(
        "data.nodata (--nodata of prepare) is for masks of the data set "
        f"folder, got {self.nodata:g} for {name}; leave it out"
      )
    if self.channels:
      raise ValueError(
        "data.channels (--channels of prepare) is for pictures of the data set "
        f"folder, got {self.channels} for {name}; leave it out"
      )
    if self.multilabel:
      raise ValueError(
        "overlapping classes (task multilabel, --multilabel of prepare) are of "
        f"the data set folder, got {name}"
      )
    if self.options != DEFAULT:
      raise ValueError(
        "data.format, data.order and data.unannotated are for the data set "
        f"folder, got {self.options} for {name}; leave them out"
      )

  def __str__(self) -> str:
    """Words that tell it from other ways; folders of built data sets are named
    after them, so they stay."""
    words = f"rules {_FOLDER_RULES}, nodata {self.nodata}"
    if self.channels:
      words += f", channels {self.channels}"
    if self.tiling.side:
      words += f", {tuple(self.tiling)}"
    if self.multilabel:
      words += f", overlapping, rules {_MULTILABEL_RULES}"
    if self.options != DEFAULT:
      words += f", {self.options}"
    return words


AS_EVER = Reading()


def reading_of(
  data_config: ml_collections.ConfigDict, multilabel: bool = False
) -> Reading:
  """What `config.data` says; configs of older runs lack some of its fields.

  Raises:
    ValueError: a field has a value that is not allowed.
  """
  if data_config.get("skip_bad") and data_config.name != "folder":
    raise ValueError(
      "data.skip_bad is for the data set folder, got it for "
      f"{data_config.name}; prepare that with --skip_bad"
    )

  def given(fields: Mapping[str, str]) -> dict[str, Any]:
    found = {name: data_config.get(field) for name, field in fields.items()}
    return {name: value for name, value in found.items() if value is not None}

  options = {field.name: field.name for field in dataclasses.fields(Options)}
  reading = Reading(
    nodata=data_config.get("nodata"),
    channels=data_config.get("channels") or 0,
    tiling=Tiling(**given(_TILING)),
    multilabel=multilabel,
    options=Options(**given(options)),
  )
  reading.check(data_config.name)
  return reading


def value_range(asked: tuple, channels: int) -> ValueRange:
  """`data.value_range` for each channel.

  Raises:
    ValueError: it is no pair of numbers, and no such pair for each channel.
  """
  try:
    is_one = len(asked) == 2 and all(isinstance(x, int | float) for x in asked)
    pairs = [asked] * channels if is_one else asked
    found = tuple((float(low), float(high)) for low, high in pairs)
    if len(found) == channels and all(
      -math.inf < low < high < math.inf for low, high in found
    ):
      return found
  except (TypeError, ValueError):
    pass
  raise ValueError(
    "data.value_range must be a pair of numbers (low, high), low < high, or "
    f"one such pair for each of the {channels} channels, got {asked}"
  )
