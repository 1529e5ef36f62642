"""Reading a prepared data set: ArrayRecord through TFDS, no TensorFlow."""

from __future__ import annotations

import pathlib
import shlex
import typing
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab_jax.data import build
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.preprocess import decode_image

if typing.TYPE_CHECKING:
  import ml_collections


class Source:
  """Random access to the records of one split; pickles, for worker processes.

  `source[i]` is {"image": encoded bytes, "label": encoded PNG, or an integer
  class, "name": str}.

  Attributes:
    info: facts about the data set.
    split: which split, or part of one, as TFDS writes it.
    largest: height and width that no image of the split exceeds.
  """

  def __init__(self, directory: pathlib.Path, split: str, info: DatasetInfo):
    builder = _builder(directory)
    metadata = builder.info.metadata
    expression = _expression(split, info, metadata)
    names = _names(expression)
    largest = metadata["largest"]
    if not set(names) <= set(largest):
      raise ValueError(
        f"split {split!r} must be one of {', '.join([*largest, *info.unions])} "
        f"(or a part, as train[:10%]); {directory} has {', '.join(largest)}"
      )
    self.info = info
    self.split = split
    self.largest = tuple(max(s) for s in zip(*(largest[n] for n in names)))
    skip = tfds.decode.SkipDecoding()
    self._directory = directory
    try:
      self._records = builder.as_data_source(
        expression, decoders={"image": skip, "label": skip}
      )
    except Exception as error:  # of TFDS, for a part it cannot take
      raise ValueError(
        f"split {split!r} must be a split or a part of one that has examples, "
        f"as train[:10%], got {error}"
      ) from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.encoded(index)

  def encoded(self, index: int) -> dict[str, Any]:
    """The record as it is stored, whatever `source[index]` makes of it."""
    try:
      record = self._records[index]
    except RuntimeError as error:  # ArrayRecord's, for any damage
      raise ValueError(_damaged(self._directory, error)) from error
    return record | {"name": record["name"].decode()}


class SegmentationSource(Source):
  """Random access to the examples of one split, decoded.

  `source[i]` is {"image": uint8 (h, w, 3) RGB, "label": uint8 (h, w), "name"}.
  """

  def __getitem__(self, index: int) -> dict[str, np.ndarray | str]:
    record = self.encoded(index)
    label = np.frombuffer(record["label"], np.uint8)
    return {
      "image": decode_image(record["image"]),
      "label": cv2.imdecode(label, cv2.IMREAD_GRAYSCALE),
      "name": record["name"],
    }


def _expression(split: str, info: DatasetInfo, metadata: dict[str, Any]) -> str:
  """`split` as TFDS understands it; a sample may lack a part of a union."""
  expression = info.unions.get(split, split)
  if metadata["partial"] and split in info.unions:
    there = [n for n in _names(expression) if n in metadata["largest"]]
    return "+".join(there) or expression
  return expression


def _names(expression: str) -> list[str]:
  """The stored splits of an expression: train and val of "train[:9%]+val"."""
  return [part.split("[")[0].strip() for part in expression.split("+")]


def prepared(data_config: ml_collections.ConfigDict) -> pathlib.Path:
  """Where the data set is; builds it now if it needs no source of its own.

  Raises:
    ValueError: it is not there; names the command that prepares it.
  """
  name, data_dir = data_config.name, data_config.data_dir
  directory = build.directory(name, data_dir, data_config.path)
  if not build.is_built(directory):
    if name not in build.SELF_BUILDING:
      raise ValueError(_how_to_prepare(data_config, directory))
    build.build(name, data_dir=data_dir, manual_dir=data_config.path)
  return directory


def built_info(directory: pathlib.Path) -> DatasetInfo:
  """Facts about the data set in `directory`, as its builder stored them."""
  metadata = _builder(directory).info.metadata
  fields = dict(metadata["dataset"])
  fields["class_names"] = tuple(fields["class_names"])
  fields["colors"] = tuple(tuple(color) for color in fields["colors"])
  return DatasetInfo(**fields)


def _builder(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
  try:
    return tfds.builder_from_directory(directory)
  except Exception as error:  # whatever parsing damaged files ends in
    raise ValueError(_damaged(directory, error)) from error


def _damaged(directory: pathlib.Path, error: Exception) -> str:
  return (
    f"{directory} must be a whole data set, got one that cannot be read "
    f"({error}); delete this folder and prepare it again"
  )


def _how_to_prepare(
  data_config: ml_collections.ConfigDict, directory: pathlib.Path
) -> str:
  command = ["python", "-m", "deeplab_jax.prepare", data_config.name]
  for flag in ("manual_dir", "data_dir"):
    if data_config[flag]:
      command += [f"--{flag}", data_config[flag]]
  return (
    f"data.name {data_config.name}: no prepared data set at {directory}; run\n"
    f"  {shlex.join(command)}"
  )
