"""What the TFDS builders of all data sets share.

A builder says which examples a split has and how to read one; this base checks
and encodes them in parallel, and TFDS writes ArrayRecord files in the order
given. No TensorFlow: images are stored as the encoded bytes of the source.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from deeplab_jax.data import limits, manifest
from deeplab_jax.data.builders import archives, faults
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.datasets import DATASETS, DatasetInfo

Record = dict[str, Any]

_SECONDS_LOOKING = 20.0  # for further faults, once there is one


class Builder(tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True):
  """Base of the builders; a subclass names itself as in `DATASETS`.

  Attributes:
    manual_dir: folder with the user's own download; None = download.
    skip_bad: count and list unusable examples instead of stopping.
    partial: accept a sample: any number of examples, any checksum.
    skipped: what was wrong with the examples left out.
    remarks: what may be meant; kept beside the records, in the metadata.
    said: what is said of the source whenever the data set is opened.
    dataset: facts about the data set that is built.
  """

  VERSION = tfds.core.Version("1.1.0")  # raise it when records change
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
    self.remarks: list[faults.Remark] = []
    self.said: list[str] = []
    self.dataset: DatasetInfo = DATASETS[self.name]
    self._downloads: pathlib.Path | None = None
    self._keys: dict[str, list] = {}
    super().__init__(file_format="array_record", **kwargs)

  @property
  @abc.abstractmethod
  def features(self) -> tfds.features.FeaturesDict:
    """What one record holds."""

  @abc.abstractmethod
  def open(self) -> dict[str, list]:
    """Finds the source files; gives the keys of each split's examples."""

  @abc.abstractmethod
  def encode(self, split: str, key: Any) -> tuple[Record, tuple] | None:
    """The record of an example and its image's height and width.

    None leaves the example out. Called from several threads.

    Raises:
      BadExample: a file is unusable.
    """

  def all_remarks(self) -> list[faults.Remark]:
    """What may be meant, asked for whenever a split has been read."""
    return self.remarks

  def find(
    self, source: archives.Archive, marker: str, *, required: bool = True
  ) -> Tree | None:
    """The files of `source`, see `archives.find`; only for use in `open`."""
    return archives.find(
      source,
      marker,
      manual_dir=self.manual_dir,
      downloads=self._downloads,
      verify=not self.partial,
      required=required,
    )

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self.name} as deeplab_jax trains on it.",
      features=self.features,
      citation=self.dataset.citation,
      license=self.dataset.license,
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _log_download_bytes(self) -> None:
    """Not TFDS's line, to which all sizes are unknown: ours shows progress."""

  def _log_download_done(self) -> None:
    """Whoever asked for the data set says where it is, if that is of use."""

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    self._downloads = pathlib.Path(dl_manager.download_dir)
    splits = {split: keys for split, keys in self.open().items() if keys}
    if not splits:
      raise ValueError(
        f"{self.name}: at least one split must have examples, got none in "
        f"{self.manual_dir}"
      )
    self._keys = splits
    for split, keys in splits.items():
      self._check_count(split, len(keys))
    tfds.disable_progress_bar()  # of writing: ours knows how much is left
    self.info.metadata["dataset"] = dataclasses.asdict(self.dataset)
    self.info.metadata["partial"] = self.partial
    self.info.metadata["largest"] = {}
    self.info.metadata["said"] = self.said
    return {
      split: self._generate_examples(split, keys)
      for split, keys in splits.items()
    }

  def _generate_examples(self, split: str, keys: list):
    largest = np.zeros(2, int)
    entries = []
    results = tqdm.tqdm(
      in_order(functools.partial(self._try, split), keys),
      f"{self.name} {split}",
      total=len(keys),
      unit=" images",
    )
    for index, result in enumerate(results):
      if isinstance(result, BadExample):
        if not self.skip_bad:
          raise self._and_others(result, split, results)
        self.skipped.append(str(result))
      elif result is not None:
        record, size = result
        largest = np.maximum(largest, size)
        entries.append(manifest.entry(record))
        yield index, record
    if not largest.any():
      raise ValueError(
        f"{self.name}: split {split} must have usable examples, got none; "
        f"{self.why_none()}"
      )
    self.info.metadata["largest"][split] = largest.tolist()
    self.info.metadata["remarks"] = faults.lines(self.all_remarks())
    manifest.write(pathlib.Path(self.data_dir), split, entries)

  def why_none(self) -> str:
    """Why no example of a split is usable."""
    return f"the first of {len(self.skipped)} faults: {self.skipped[:1]}"

  def _try(self, split: str, key: Any):
    """`encode`, whose error is returned."""
    try:
      return self.encode(split, key)
    except BadExample as error:
      return error

  def _and_others(
    self, fault: BadExample, split: str, results: Iterable[Any]
  ) -> BadExample:
    """A fault that tells how many files are bad, as far as time allows.

    Args:
      fault: the first.
      split: where it is.
      results: of what comes after it in `split`.
    """
    later = list(self._keys)[list(self._keys).index(split) + 1 :]
    all_results = itertools.chain(
      results,
      *(
        in_order(functools.partial(self._try, s), self._keys[s]) for s in later
      ),
    )
    found, until = [fault], time.monotonic() + _SECONDS_LOOKING
    for result in all_results:
      if isinstance(result, BadExample):
        found.append(result)
      if time.monotonic() > until:
        return faults.together(found, is_all=False)
    return faults.together(found)

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
  """`map(function, items)` by as many threads as there are cores to use."""
  threads = limits.num_readers()
  pending: collections.deque[concurrent.futures.Future] = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > 4 * threads:  # bounds what is held in memory
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
