"""A user's folder whose classes overlap: its examples, and what is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from deeplab_jax.data import preprocess
from deeplab_jax.data.builders import (
  channel_classes,
  channel_layout,
  checks,
  folder_layout,
  folder_multilabel,
)
from deeplab_jax.data.builders.channel_classes import ChannelClasses
from deeplab_jax.data.builders.faults import REMARKS, BadExample, Remark
from deeplab_jax.data.builders.folder_bands import FolderBands
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.reading import AS_EVER, Reading
from deeplab_jax.doctor.findings import Finding, warning
from deeplab_jax.doctor.samples import SPLITS, Sample, find_bands, take_bands
from deeplab_jax.doctor.survey import Survey, positive_weights

_RARE = 1e-3  # share of the pixels where a class is
_DOMINANT = 0.95


class MultilabelSamples:
  """The files of the folder, see `data.builders.folder_multilabel`."""

  def __init__(
    self,
    files: Tree,
    reading: Reading = AS_EVER,
    asked_range: tuple = (),
  ):
    """Looks at the user's `files`.

    Args:
      files: of the folder.
      reading: how they are read.
      asked_range: `config.data.value_range`.

    Raises:
      ValueError: there are no images, or no masks.
    """
    self.faults: list[BadExample] = []
    self.remarks: list[Remark] = []
    self._tree = files
    suffixes = folder_layout.suffixes(reading.channels)
    found = channel_layout.find(files, self.faults.append, suffixes)
    self._layout = found.layout
    self.said = self._layout.lines()
    self._classes: ChannelClasses | None = None
    try:
      self._classes = channel_classes.find(
        files, found, reading.nodata, self.faults.append
      )
    except BadExample as fault:
      self.faults.append(fault)
    self.info = self._classes and folder_multilabel.info(self._classes)
    self._bands: FolderBands | None = None
    if reading.channels:
      what = files, self._layout, reading.channels, asked_range
      self._bands = find_bands(*what)
      self.said += self._bands.lines()
    if self._bands and self.info:
      self.info = dataclasses.replace(
        self.info,
        channels=reading.channels,
        image_dtype=self._bands.dtype or "uint8",
      )
    if self._classes:
      if not self.faults:
        given = files, self._classes
        self.faults += folder_multilabel.nothing_there(*given)
      self.remarks += folder_multilabel.remarks(files, self._classes)

  def names(self, split: str) -> list[str]:
    return self._layout.splits[split]

  def read(self, split: str, index: int) -> Sample:
    name = self._layout.splits[split][index]
    path = self._layout.images[name]
    sample = Sample(name, self._tree.where(path), "")
    mask = sample.attempt(self._layout.mask_of, self._tree, name)
    if mask:
      sample.mask_file = self._tree.where(mask)
    if mask and self._classes:
      sample.label = sample.attempt(self._classes.read, self._tree, name)
    self._read_image(sample, path)
    if sample.label is not None and sample.image is not None:
      size = sample.image.shape[:2]
      given = sample.mask_file, sample.label, size
      sample.attempt(folder_multilabel.check_size, *given)
      given = self._tree, self._classes, name
      sample.attempt(folder_multilabel.check_place, *given)
    return sample

  def _read_image(self, sample: Sample, path: str) -> None:
    encoded = sample.attempt(self._tree.read, path)
    if encoded is None:
      return
    if self._bands and not self._bands.keeps_file(encoded):
      picture = sample.attempt(self._bands.read, sample.image_file, encoded)
      take_bands(sample, picture, self._bands, self.info)
      return
    remarks = list(checks.remarks(sample.image_file, encoded))
    encoded = checks.quiet(encoded)
    if sample.attempt(checks.image_size, sample.image_file, encoded):
      sample.remarks += remarks
      if sample.label is not None:
        encoded = checks.upright(encoded, sample.label.shape[:2])
      sample.image = preprocess.decode_image(encoded)


def classes(survey: Survey) -> Iterator[Finding]:
  """Classes that are nowhere, in one split alone, rare, or all over."""
  if not survey.info or not survey.info.multilabel or not survey.facts:
    return
  there = {split: survey.planes[split][:, 1] for split in SPLITS}
  absent = sum(there.values()) == 0
  kinds = {"class-absent": absent}
  for split, other in (SPLITS, SPLITS[::-1]):
    gone = (there[split] == 0) & (there[other] > 0)
    kinds[f"class-missing-in-{split}"] = gone
  for code, chosen in kinds.items():
    if chosen.any() and survey.of("train"):
      names = _names(survey, chosen)
      kind = REMARKS[code]
      yield warning(code, f"{kind.message}: {names}", kind.remedy)
  shares = survey.plane_shares("train")
  rare = ~absent & (shares < _RARE) & (there["train"] > 0)
  if rare.any():
    weights = positive_weights(survey.planes["train"])
    yield warning(
      "rare-classes",
      f"classes are in less than {_RARE:.1%} of the labelled pixels of train: "
      f"{_names(survey, rare)}",
      "weigh where they are by the suggested config.loss.positive_weights (up "
      f"to {weights.max():.0f}), or add dice to config.loss.name",
    )
  if (common := shares > _DOMINANT).any():
    yield warning(
      "dominant-class",
      f"classes are in more than {_DOMINANT:.0%} of the labelled pixels of "
      f"train: {_names(survey, common)}",
      "check that the masks are not inverted",
    )


def _names(survey: Survey, chosen: np.ndarray) -> str:
  return ", ".join(survey.name(c) for c in np.flatnonzero(chosen).tolist())
