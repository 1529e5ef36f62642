"""What the TFDS builders of all segmentation data sets share.

A builder says which examples a split has and how to read one; this base checks
and encodes them in parallel and TFDS writes ArrayRecord files, in the order
given. No TensorFlow: images are stored as the encoded bytes of the source.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from deeplab_jax.data.builders import checks
from deeplab_jax.data.datasets import DATASETS, DatasetInfo


@dataclasses.dataclass(frozen=True)
class Example:
  """One image with its labels, as a builder reads it.

  Attributes:
    image_file: where the image came from, for messages.
    image: the encoded image.
    mask_file: where the mask came from, for messages.
    mask: (h, w) train ids, any integer dtype; None = nothing is labelled.
  """

  image_file: str
  image: bytes
  mask_file: str = ""
  mask: np.ndarray | None = None


class SegmentationBuilder(
  tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True
):
  """Base of the builders; a subclass names itself as in `DATASETS`.

  Attributes:
    manual_dir: folder with the user's own download; None = download.
    skip_bad: count and list unusable examples instead of stopping.
    partial: accept any number of examples per split, as for a sample.
    skipped: what was wrong with the examples left out.
  """

  VERSION = tfds.core.Version("1.0.0")
  # TFDS would look for files beside this one, with a package that it does not
  # require: importlib_resources.
  code_path = None

  def __init__(
    self,
    *,
    manual_dir: pathlib.Path | None = None,
    skip_bad: bool = False,
    partial: bool = False,
    **kwargs: Any,
  ):
    self.manual_dir = manual_dir
    self.skip_bad = skip_bad
    self.partial = partial
    self.skipped: list[str] = []
    super().__init__(file_format="array_record", **kwargs)

  @property
  def dataset(self) -> DatasetInfo:
    """Facts about the data set that is built."""
    return DATASETS[self.name]

  @abc.abstractmethod
  def open(self, downloads: tfds.download.DownloadManager) -> dict[str, list]:
    """Finds the source files; gives the keys of each split's examples."""

  @abc.abstractmethod
  def read(self, split: str, key: Any) -> Example:
    """Reads the example `key` of `split`; called from several threads."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self.name} as deeplab_jax trains on it.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.Image(shape=(None, None, 1)),
          "name": tfds.features.Text(),
        }
      ),
      citation=self.dataset.citation,
      license=self.dataset.license,
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(largest={}),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    splits = self.open(dl_manager)
    tfds.disable_progress_bar()  # of writing: ours knows how much is left
    return {
      split: self._generate_examples(split, keys)
      for split, keys in splits.items()
    }

  def _generate_examples(self, split: str, keys: list):
    self._check_count(split, len(keys))
    largest = np.zeros(2, int)
    results = in_order(functools.partial(self._encode, split), keys)
    progress = tqdm.tqdm(
      results, f"{self.name} {split}", total=len(keys), unit=" images"
    )
    for index, result in enumerate(progress):
      if isinstance(result, checks.BadExample):
        self.skipped.append(str(result))
        continue
      record, size = result
      largest = np.maximum(largest, size)
      yield index, record
    self.info.metadata["largest"][split] = largest.tolist()

  def _encode(self, split: str, key: Any):
    """The record and size of one example, or what is wrong with it."""
    try:
      example = self.read(split, key)
      size = checks.image_size(example.image_file, example.image)
      mask = example.mask
      if mask is None:
        mask = np.full(size, self.dataset.ignore_label)
      checks.check_pair(example.mask_file, mask, size, self.dataset)
    except checks.BadExample as error:
      if not self.skip_bad:
        raise
      return error
    label = checks.encode_mask(mask)
    return {"image": example.image, "label": label, "name": str(key)}, size

  def _check_count(self, split: str, found: int) -> None:
    expected = self.dataset.splits.get(split)
    if expected not in (None, found) and not self.partial:
      raise ValueError(
        f"{self.name}: split {split} must have {expected} examples, got "
        f"{found}; complete the download, or pass --partial for a sample"
      )


def in_order(
  function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
  """`map(function, items)` by as many threads as there are cores."""
  threads = os.cpu_count() or 1
  pending: collections.deque[concurrent.futures.Future] = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > 4 * threads:  # bounds what is held in memory
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
