"""Opening a prepared data set: ArrayRecord through TFDS, no TensorFlow.

A config holds words; `open_dataset` makes a thing of them. Whoever starts
something (training, an evaluation, the doctor) opens the data set once and
hands it down, so that all that follows sees the same examples, even of a folder
that changes meanwhile.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import pathlib
import struct
import typing
from collections.abc import Collection
from concurrent import futures
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab_jax.data import bands, finding, manifest
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.data.preprocess import decode_image
from deeplab_jax.data.reading import value_range
from deeplab_jax.data.staging import Copy

if typing.TYPE_CHECKING:
  import ml_collections

_THREADS = 4  # that read headers


class Source:
  """Random access to the records of one split; pickles, for worker processes.

  `source[i]` is {"image": encoded bytes, "label": encoded PNG, or an integer
  class, "name": str}.

  Attributes:
    info: facts about the data set.
    split: which split, or part of one, as TFDS writes it.
    largest: height and width that no image of the split exceeds.
  """

  def __init__(
    self,
    builder: tfds.core.DatasetBuilder,
    split: str,
    info: DatasetInfo,
    copy: Copy | None = None,
  ):
    """Opens `split`.

    Args:
      builder: of the data set.
      split: as TFDS writes it.
      info: facts about the data set.
      copy: what brings its files to this machine, if it is published; its
        records of this split are on their way from now on.
    """
    metadata = builder.info.metadata
    expression = _expression(split, info, metadata)
    names = _names(expression)
    largest = metadata["largest"]
    if not set(names) <= set(largest):
      raise ValueError(
        f"split {split!r} must be one of {', '.join([*largest, *info.unions])} "
        f"(or a part, as train[:10%]); {builder.data_dir} has "
        f"{', '.join(largest)}"
      )
    self.info = info
    self.split = split
    self.largest = tuple(max(s) for s in zip(*(largest[n] for n in names)))
    self._directory = builder.data_dir
    self._features = builder.info.features
    try:
      # Without TFDS's wrapper, which opens the data set anew when unpickled.
      self._records = builder.as_data_source(expression).data_source
    except Exception as error:  # of TFDS, for a part it cannot take
      raise ValueError(
        f"split {split!r} must be a split or a part of one that has examples, "
        f"as train[:10%], got {error}"
      ) from error
    self._copy = copy
    if copy is not None:
      parts = builder.info.splits[expression].file_instructions
      self._files = [pathlib.Path(part.filename).name for part in parts]
      self._ends = list(itertools.accumulate(part.take for part in parts))
      copy.begin(self._files)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.encoded(index)

  def encoded(self, index: int) -> dict[str, Any]:
    """The record as it is stored, whatever `source[index]` makes of it."""
    if not 0 <= index < len(self):  # IndexError ends a loop over the source
      raise IndexError(f"index must be in [0, {len(self)}), got {index}")
    if self._copy is not None:
      self._copy.require(self._files[bisect.bisect_right(self._ends, index)])
    try:
      encoded = self._records[index]
    except RuntimeError as error:  # ArrayRecord's, for any damage
      raise ValueError(_damaged(self._directory, error, self._copy)) from error
    skip = tfds.decode.SkipDecoding()
    record = self._features.deserialize_example_np(
      encoded, decoders={"image": skip, "label": skip}
    )
    return record | {"name": record["name"].decode()}


class SegmentationSource(Source):
  """Random access to the examples of one split, decoded.

  `source[i]` is {"image": uint8 (h, w, 3) RGB, or (h, w, channels) of the data
  set's dtype, "label": uint8 (h, w), "name"}.
  """

  def __init__(self, *arguments: Any):
    """As `Source`."""
    super().__init__(*arguments)
    self._sizes: list[tuple[int, int]] = []

  def sizes(self, count: int) -> list[tuple[int, int]]:
    """Heights and widths of the first `count` examples, or of all."""
    count = min(count, len(self))
    if len(self._sizes) < count:  # Read once: a record holds its image, too.
      with futures.ThreadPoolExecutor(_THREADS) as pool:
        self._sizes += pool.map(self._size, range(len(self._sizes), count))
    return self._sizes[:count]

  def _size(self, index: int) -> tuple[int, int]:
    """As the header of the label's PNG file says."""
    width, height = struct.unpack(">II", self.encoded(index)["label"][16:24])
    return height, width

  def with_labels(self, wanted: Collection[int]) -> list[int]:
    """Indices of the examples that have one of these classes in their masks.

    Reads every mask of the split.
    """

    def found(index: int) -> bool:
      return self._has(self._label(self.encoded(index)), wanted)

    with futures.ThreadPoolExecutor(_THREADS) as pool:
      return [i for i, x in enumerate(pool.map(found, range(len(self)))) if x]

  def __getitem__(self, index: int) -> dict[str, np.ndarray | str]:
    record = self.encoded(index)
    encoded = record["image"]
    decode = bands.stored if bands.is_stored(encoded) else decode_image
    return {
      "image": decode(encoded),
      "label": self._label(record),
      "name": record["name"],
    }

  def _label(self, record: dict[str, Any]) -> np.ndarray:
    return _label(record)

  def _has(self, label: np.ndarray, wanted: Collection[int]) -> bool:
    return bool(np.isin(label, list(wanted)).any())


class MultilabelSource(SegmentationSource):
  """The same where classes overlap: "label" is uint8 (h, w, classes).

  A record holds the planes of all classes, one below the other, as one PNG.
  """

  def _size(self, index: int) -> tuple[int, int]:
    height, width = super()._size(index)
    return height // self.info.num_classes, width

  def _label(self, record: dict[str, Any]) -> np.ndarray:
    stacked = super()._label(record)
    planes = stacked.reshape(self.info.num_classes, -1, stacked.shape[1])
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))

  def _has(self, label: np.ndarray, wanted: Collection[int]) -> bool:
    return bool((label[..., list(wanted)] == 1).any())


def _label(record: dict[str, Any]) -> np.ndarray:
  """The decoded mask of a record, uint8 (h, w)."""
  label = np.frombuffer(record["label"], np.uint8)
  return cv2.imdecode(label, cv2.IMREAD_GRAYSCALE)


class Dataset:
  """A data set that is open: what it is, and the examples of its splits.

  Attributes:
    info: facts about it; those of a user's folder are the folder's own.
    directory: its prepared files.
    train_split: what is trained on, as TFDS writes it.
    eval_split: what is evaluated on.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    info: DatasetInfo | None = None,
    *,
    train_split: str = "",
    eval_split: str = "",
    testing: bool = False,
    copy: Copy | None = None,
  ):
    """Opens what is prepared in `directory`.

    Args:
      directory: of one version of one data set.
      info: facts about it; None takes those that its builder stored.
      train_split: "" is the data set's own.
      eval_split: "" is the data set's own.
      testing: the data set's own is its `test_split`, if it has one.
      copy: what brings the files of `directory` here, if it is published.

    Raises:
      ValueError: there is no data set, or a damaged one.
    """
    self.directory = directory
    self._copy = copy
    self._builder = _open_builder(directory, copy)
    self.info = info or _stored_info(self._builder)
    self.train_split = train_split or self.info.train_split
    own = (testing and self.info.test_split) or self.info.eval_split
    self.eval_split = eval_split or own
    self._sources: dict[str, Source] = {}

  @property
  def train(self) -> Source:
    """The examples to train on."""
    return self.source(self.train_split)

  @property
  def eval(self) -> Source:
    """The examples to evaluate on."""
    return self.source(self.eval_split)

  def source(self, split: str) -> Source:
    """The examples of `split`, decoded where they have masks; opened once.

    Raises:
      ValueError: no such split; names those there are.
    """
    if split not in self._sources:
      kind = SegmentationSource if self.info.colors else Source
      kind = MultilabelSource if self.info.multilabel else kind
      self._sources[split] = kind(self._builder, split, self.info, self._copy)
    return self._sources[split]

  @property
  def partial(self) -> bool:
    """Whether it was prepared as a sample of what there is."""
    return bool(self._builder.info.metadata["partial"])

  def digests(self, split: str) -> dict[str, str] | None:
    """What changes with each example of `split`, by name, in their order.

    None for a data set prepared before builders stored this.
    """
    metadata = self._builder.info.metadata
    parts = tfds.core.ReadInstruction.from_spec(
      _expression(split, self.info, metadata)
    )
    digests = {}
    for part in parts.to_absolute(self._builder.info.splits):
      entries = manifest.read(self.directory, part.splitname)
      if entries is None:
        return None
      digests.update(entries[part.from_ : part.to])
    return digests


def open_dataset(
  data_config: ml_collections.ConfigDict,
  *,
  testing: bool = False,
  files: Tree | None = None,
  multilabel: bool = False,
) -> Dataset:
  """Opens the data set that `data_config` describes.

  One that needs no download ("shapes", a user's "folder") is built now if it is
  not there in its present state. One that is published in an object store is
  copied to this machine, its records while they are read: see `staging`.

  Args:
    data_config: `config.data`.
    testing: evaluate on the data set's `test_split`, if it has one and
      `data_config.eval_split` names no other.
    files: the user's folder, where the caller has walked it already.
    multilabel: whether the classes of the user's folder overlap, as
      `config.task` says.

  Raises:
    ValueError: there is no such data set, or it is not prepared; names those
      there are, or the command that prepares it. A user's folder is unusable.
      What is published is damaged, or finds no space on this machine.
    StoreError: it is in a bucket that is not there or cannot be read.
  """
  info = finding.known_info(data_config)
  directory, copy = finding.find(data_config, files, multilabel)
  dataset = Dataset(
    directory,
    None if info.name == "folder" else info,
    train_split=data_config.train_split,
    eval_split=data_config.eval_split,
    testing=testing,
    copy=copy,
  )
  if asked := tuple(data_config.get("value_range") or ()):
    found = value_range(asked, dataset.info.channels)
    dataset.info = dataclasses.replace(dataset.info, value_range=found)
  return dataset


def dataset_info(
  data_config: ml_collections.ConfigDict, multilabel: bool = False
) -> DatasetInfo:
  """Facts about a data set whose examples are not needed.

  Only a user's folder has to be there, as these facts are in its files.
  `multilabel` is as in `open_dataset`.

  Raises:
    ValueError: there is no such data set, or the folder is unusable.
  """
  info = finding.known_info(data_config)
  if info.name != "folder":
    return info
  return open_dataset(data_config, multilabel=multilabel).info


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


def _stored_info(builder: tfds.core.DatasetBuilder) -> DatasetInfo:
  """Facts about a data set as its builder stored them."""
  fields = dict(builder.info.metadata["dataset"])
  fields["class_names"] = tuple(fields["class_names"])
  for name in ("colors", "value_range"):
    fields[name] = tuple(tuple(x) for x in fields.get(name, ()))
  return DatasetInfo(**fields)


def _open_builder(
  directory: pathlib.Path, copy: Copy | None
) -> tfds.core.DatasetBuilder:
  try:
    return tfds.builder_from_directory(directory)
  except Exception as error:  # whatever parsing damaged files ends in
    raise ValueError(_damaged(directory, error, copy)) from error


def _damaged(
  directory: pathlib.Path | str, error: Exception, copy: Copy | None
) -> str:
  again = f"it is copied again from {copy.address}" if copy else ""
  return (
    f"{directory} must be a whole data set, got one that cannot be read "
    f"({error}); delete this folder and {again or 'prepare it again'}"
  )
