"""What can be wrong with the labels of a data set taken together."""

import collections
from collections.abc import Iterable, Iterator

import numpy as np

from deeplab_jax.data.builders.faults import FAULTS, REMARKS
from deeplab_jax.data.builders.masks import ranges
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.doctor import fitting
from deeplab_jax.doctor.findings import Finding, error, warning
from deeplab_jax.doctor.survey import (
  Survey,
  class_weights,
  majority_miou,
  mention_mask,
)

_DOMINANT = 0.95  # share of the pixels of one class
_RARE = 1e-3  # pixels of the rarest class, per pixel of the most frequent
_FEW = 8  # images, below which statistics say nothing


def no_ignore_label(survey: Survey) -> Iterator[Finding]:
  """Nothing is ignored: fine if every pixel is labelled with certainty."""
  if survey.info and survey.labelled.any() and not survey.ignored:
    yield warning(
      "no-ignore-label",
      "no pixel is ignored: what nobody labelled, and uncertain boundaries, "
      "count as some class",
      "nothing if every pixel is labelled with certainty; else give such "
      "pixels the value 255",
    )


def unused_ids(survey: Survey) -> Iterator[Finding]:
  """Classes without a pixel: gaps in ids, or classes listed in vain."""
  if not survey.info or not survey.labelled.any():
    return
  unused = set(np.flatnonzero(survey.labelled == 0).tolist())
  unused = sorted(unused - {survey.info.ignore_label})
  used = np.flatnonzero(survey.labelled).tolist()
  if not unused:
    return
  if not survey.infers_classes:
    yield warning(
      "class-absent",
      f"{REMARKS['class-absent'].message}: {_names(survey, unused)}, "
      f"{len(unused)} of {survey.info.num_classes}",
      REMARKS["class-absent"].remedy,
    )
  elif len(unused) <= len(used):  # else the builder's fault, "grey-levels"
    yield warning(
      "gaps-in-ids",
      f"{REMARKS['gaps-in-ids'].message}: {len(used)} of 0..{max(used)} are "
      f"used; without a pixel: {ranges(unused)}",
      REMARKS["gaps-in-ids"].remedy,
      _with_class(survey, {max(used)}),
    )


def nothing_to_learn(survey: Survey) -> Iterator[Finding]:
  """All labelled pixels are of one class, or none is labelled.

  Of a folder the builder says so itself.
  """
  if not survey.info or survey.folder:
    return
  classes = np.flatnonzero(survey.labelled).tolist()
  if len(classes) == 1:
    kind = FAULTS["one-class"]
    yield error(
      "one-class",
      f"{kind.message}, {survey.name(classes[0])}",
      kind.remedy,
      (mention_mask(f) for f in survey.facts if f.mask),
    )
  for split, counts in survey.counts.items():
    if survey.of(split) and counts[IGNORE] and not counts[:IGNORE].any():
      kind = FAULTS["split-all-ignored"]
      yield error("split-all-ignored", f"{kind.message}: {split}", kind.remedy)


def mostly_ignored(survey: Survey) -> Iterator[Finding]:
  """Ignored pixels that are more than the labelled ones."""
  labelled = int(survey.labelled.sum()) if survey.info else 0
  if labelled and survey.ignored > labelled:
    share = survey.ignored / (survey.ignored + labelled)
    yield warning(
      "mostly-ignored",
      f"{REMARKS['mostly-ignored'].message}: {share:.0%} of the pixels",
      REMARKS["mostly-ignored"].remedy,
    )


def constant_masks(survey: Survey) -> Iterator[Finding]:
  """Masks of one class each, in a data set of several."""
  masks = [f for f in survey.facts if f.counts is not None]
  constant = [f for f in masks if np.count_nonzero(f.counts[:IGNORE]) == 1]
  several = survey.info is not None and (survey.labelled > 0).sum() > 1
  if several and len(masks) > 1 and len(constant) == len(masks):
    yield warning(
      "constant-masks",
      "every mask has a single class: there is no boundary to learn",
      "check that the masks are segmentations, not classes of whole images",
      map(mention_mask, constant),
    )


def equal_masks(survey: Survey) -> Iterator[Finding]:
  """One mask for several different images."""
  groups = collections.defaultdict(list)
  for facts in survey.facts:
    if facts.fits and len(facts.mask.values) > 1:
      groups[facts.mask.digest].append(facts)
  repeated = [
    mention_mask(facts, f"as {group[0].name}")
    for group in groups.values()
    for facts in group[1:]
    if facts.image.digest != group[0].image.digest
  ]
  if repeated:
    yield warning(
      "equal-masks",
      "different images have the same mask",
      "check that masks were not copied over others",
      repeated,
    )


def imbalance(survey: Survey) -> Iterator[Finding]:
  """One class has nearly all pixels, or another nearly none."""
  if not survey.info or np.count_nonzero(survey.labelled) < 2:
    return
  majority, miou = majority_miou(survey.labelled)
  shares = survey.labelled / survey.labelled.sum()
  present = np.flatnonzero(survey.labelled)
  rare = [c for c in present.tolist() if shares[c] < _RARE * shares[majority]]
  if shares[majority] > _DOMINANT:
    yield warning(
      "dominant-class",
      f"{survey.name(majority)} has {shares[majority]:.1%} of the pixels; "
      f"predicting nothing else has an mIoU of {miou:.1%}",
      "judge by the IoU of the other classes; weigh the loss by the suggested "
      "config.loss.class_weights, or cut the images to what matters",
    )
  if rare:
    weights = class_weights(survey.labelled)
    listed = [f"{survey.name(c)}: {shares[c]:.4%}" for c in rare[:8]]
    yield warning(
      "rare-classes",
      f"{len(rare)} classes have less than {_RARE:.1%} of the pixels of the "
      f"most frequent: {', '.join(listed)}{', ...' if rare[8:] else ''}",
      "weigh the loss by the suggested config.loss.class_weights (up to "
      f"{weights.max():.0f}), or add images that have them",
    )


def alignment(survey: Survey) -> Iterator[Finding]:
  """Boundaries of the masks are no edges of the images, or lie elsewhere."""
  found = [f.contrast for f in survey.facts if f.contrast is not None]
  if len(found) < _FEW:
    return
  contrasts = np.array(found)
  best = int(contrasts.mean(0).argmax())
  gain = contrasts[:, best] - contrasts[:, 0]
  if gain.mean() > max(0.1, 4 * _error(gain)):
    yield warning(
      "masks-displaced",
      f"{fitting.CHANGES[best]}, masks would lie on the edges of the images "
      f"better than as they are ({gain.mean():+.2f} in log contrast)",
      "look at the overlays of --html; turn or move the masks as the images "
      "are (some tools count rows from the bottom, or crop one of the two)",
      (mention_mask(f) for f in survey.facts if f.contrast is not None),
    )
    return
  gain = contrasts[:, 0] - contrasts[:, fitting.MIRRORED].mean(1)
  if gain.mean() < 2 * _error(gain) + 0.02:
    yield warning(
      "masks-off-images",
      "boundaries of the masks lie on the edges of the images no better than "
      "by chance",
      "look at the overlays of --html: masks may belong to other images, be "
      "shifted, or follow nothing visible",
      (mention_mask(f) for f in survey.facts if f.contrast is not None),
    )


def vanishing(survey: Survey) -> Iterator[Finding]:
  """Classes too small to be seen at the resolution of the network's output."""
  if not survey.info:
    return
  known = [f for f in survey.facts if f.counts is not None]
  total = sum((f.counts > 0 for f in known), np.zeros(256, int))
  gone = sum((f.counts > 0) & ~f.kept for f in known) if known else total
  lost = [
    label
    for label in range(survey.info.num_classes)
    if gone[label] > total[label] / 2
  ]
  if lost:
    listed = [f"{survey.name(c)}: {gone[c]} of {total[c]}" for c in lost[:8]]
    yield warning(
      "vanishing-classes",
      f"one logit is {survey.logits_stride} pixels wide: classes fall between "
      f"them in most images that have them ({', '.join(listed)}"
      f"{', ...' if lost[8:] else ''})",
      "use a decoder or a lower output stride, larger images, or a larger "
      "data.resize_min",
      _with_class(survey, set(lost)),
    )


def _error(values: np.ndarray) -> float:
  """Standard error of the mean."""
  return float(values.std() / np.sqrt(len(values)))


def _with_class(survey: Survey, labels: Iterable[int]):
  """Mentions of the masks that have one of `labels`, most pixels first."""
  labels = sorted(labels)
  having = [
    (facts.counts[labels].sum(), facts)
    for facts in survey.facts
    if facts.counts is not None and facts.counts[labels].any()
  ]
  having.sort(key=lambda pair: -pair[0])
  return (mention_mask(facts) for _, facts in having)


def _names(survey: Survey, labels: list[int]) -> str:
  names = ", ".join(survey.name(label) for label in labels[:10])
  return names + (", ..." if labels[10:] else "")
