"""All that was learnt of a data set, and what follows from it by counting."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from deeplab_jax import metrics
from deeplab_jax.data.builders.base import in_order
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.doctor import facts as facts_lib
from deeplab_jax.doctor.facts import Facts
from deeplab_jax.doctor.findings import Mention
from deeplab_jax.doctor.samples import SPLITS, FolderSamples, Samples

_MOST_WEIGHT = 50.0  # of a suggested class weight; beyond, one class drives all


@dataclasses.dataclass(frozen=True)
class Survey:
  """A data set, measured.

  Attributes:
    config: the experiment's.
    samples: where everything was read.
    logits_stride: image pixels per logit.
    facts: of every example looked at, those of "train" first, and of those
      that a build leaves out.
  """

  config: ConfigDict
  samples: Samples
  logits_stride: int
  facts: tuple[Facts, ...]

  @property
  def info(self) -> DatasetInfo | None:
    """Facts about the data set; None if its classes cannot be known."""
    return self.samples.info

  @property
  def folder(self) -> FolderSamples | None:
    """The samples, if they are of a user's folder."""
    return self.samples if isinstance(self.samples, FolderSamples) else None

  @property
  def said(self) -> list[str]:
    """What is said of the format of a user's folder."""
    return self.folder.said if self.folder else []

  @property
  def infers_classes(self) -> bool:
    """Whether the classes are what the masks hold, for want of a list."""
    return self.folder is not None and not self.folder.listed

  def size_of(self, split: str) -> int:
    """How many examples `split` has, without those left out that were read."""
    return len(self.samples.names(split)) - self.left_out(split)

  def left_out(self, split: str) -> int:
    """How many examples that were read a build leaves out of `split`."""
    return sum(f.left_out for f in self.facts if f.split == split)

  def of(self, split: str) -> list[Facts]:
    """Facts of one split, without what is left out."""
    return [f for f in self.facts if f.split == split and not f.left_out]

  @functools.cached_property
  def counts(self) -> dict[str, np.ndarray]:
    """Pixels (256,) of each label, by split."""
    return {
      split: sum(
        (facts.counts for facts in self.of(split) if facts.counts is not None),
        np.zeros(256, np.int64),
      )
      for split in SPLITS
    }

  @functools.cached_property
  def planes(self) -> dict[str, np.ndarray]:
    """Of overlapping classes, int64 (classes, 3) by split: pixels where each
    is not, where it is, and where nobody knows."""
    return {
      split: sum(
        (facts.planes for facts in self.of(split) if facts.planes is not None),
        np.zeros((self.info.num_classes, 3), np.int64),
      )
      for split in SPLITS
    }

  def plane_shares(self, split: str) -> np.ndarray:
    """Share of labelled pixels (classes,) where each overlapping class is."""
    known = self.planes[split][:, :2]
    return known[:, 1] / np.maximum(known.sum(1), 1)

  @functools.cached_property
  def labelled(self) -> np.ndarray:
    """Pixels of each class (num_classes,), over both splits."""
    return sum(self.counts.values())[: self.info.num_classes]

  @property
  def ignored(self) -> int:
    """Pixels that are ignored, over both splits."""
    return int(sum(self.counts.values())[IGNORE])

  def name(self, label: int) -> str:
    """The name of a class, with its number."""
    return f"{self.info.class_names[label]} ({label})"


def mention_image(facts: Facts, detail: str = "") -> Mention:
  """A mention of the image of an example."""
  return Mention(facts.image_file, detail, (facts.split, facts.index))


def mention_mask(facts: Facts, detail: str = "") -> Mention:
  """A mention of the mask of an example, of its image if it has none."""
  file = facts.mask_file or facts.image_file
  return Mention(file, detail, (facts.split, facts.index))


def take(
  config: ConfigDict, samples: Samples, logits_stride: int, limit: int
) -> Survey:
  """Reads and measures the examples of both splits, in parallel.

  Args:
    config: the experiment's.
    samples: what is read.
    logits_stride: image pixels per logit.
    limit: at most so many of each split, evenly spread; 0 = all.
  """

  def look(place: tuple[str, int]) -> Facts:
    sample = samples.read(*place)
    return facts_lib.measure(sample, *place, config.data, logits_stride)

  facts = tuple(in_order(look, _places(samples, limit)))
  return Survey(config, samples, logits_stride, facts)


def _places(samples: Samples, limit: int) -> Iterator[tuple[str, int]]:
  for split in SPLITS:
    count = len(samples.names(split))
    taken = min(limit or count, count)
    for index in np.linspace(0, count, taken, endpoint=False, dtype=int):
      yield split, int(index)


def class_weights(counts: np.ndarray) -> np.ndarray:
  """Weights that balance classes of `counts` pixels (num_classes,).

  Median frequency balancing (Eigen & Fergus, Predicting depth, surface normals
  and semantic labels, 2015, section 6.3), at most `_MOST_WEIGHT`; 1 for
  classes without pixels.
  """
  present = counts > 0
  median = np.median(counts[present]) if present.any() else 1
  weights = median / np.where(present, counts, median)
  return np.minimum(weights, _MOST_WEIGHT)


def positive_weights(planes: np.ndarray) -> np.ndarray:
  """Weights of yes that balance it with no, at most `_MOST_WEIGHT`.

  1 for classes that are nowhere, or in more than half of the pixels.

  Args:
    planes: see `Survey.planes`.
  """
  absent, present = planes[:, 0], planes[:, 1]
  weights = np.where(present, absent / np.maximum(present, 1), 1.0)
  return np.clip(weights, 1.0, _MOST_WEIGHT)


def majority_miou(counts: np.ndarray) -> tuple[int, float]:
  """The most frequent of `counts` (num_classes,), and the mIoU of nothing else.

  As `evaluate` would report it, predicting that class for every pixel.
  """
  majority = int(counts.argmax())
  confusion = np.zeros((len(counts), len(counts)), np.int64)
  confusion[:, majority] = counts
  return majority, metrics.mean_iou(confusion)
