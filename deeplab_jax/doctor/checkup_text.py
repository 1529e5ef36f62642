"""What was found, as text for the terminal and as plain values for JSON."""

from typing import Any

import numpy as np

from deeplab_jax.doctor.checkup import Checkup
from deeplab_jax.doctor.findings import Finding
from deeplab_jax.doctor.samples import SPLITS
from deeplab_jax.doctor.split_checks import pixel_statistics
from deeplab_jax.doctor.survey import (
  Survey,
  class_weights,
  majority_miou,
  positive_weights,
)

_SHOWN = 5  # files of a finding; JSON has all

# Warnings with which "this can be trained on" would be false, or rash.
_RESERVATIONS = {
  "init-from": "training starts once the weights to start from are there",
  "loss-does-not-fall": "find out first why the loss does not fall",
  "no-masks": "nothing is known of the data",
}


def text(checkup: Checkup) -> str:
  """The report: what the data is, errors, warnings, how training went."""
  lines = _describe(checkup.survey) if checkup.survey else []
  for heading, findings in (
    ("ERRORS", checkup.errors),
    ("WARNINGS", checkup.warnings),
  ):
    if findings:
      lines += ["", f"{heading} ({len(findings)})"]
    for finding in findings:
      lines += _finding(finding)
  lines += ["", f"one batch again and again: {_training(checkup)}"]
  lines.append(_verdict(checkup))
  return "\n".join(lines).strip()


def _finding(finding: Finding) -> list[str]:
  lines = [f"  {finding.code}: {finding.message}"]
  for mention in finding.mentions[:_SHOWN]:
    detail = f": {mention.detail}" if mention.detail else ""
    lines.append(f"      {mention.file}{detail}")
  more = len(finding.mentions) - _SHOWN
  if more > 0:
    lines.append(f"      ... and {more} more")
  return [*lines, f"    -> {finding.remedy}"]


def _training(checkup: Checkup) -> str:
  if checkup.overfit:
    return str(checkup.overfit)
  if checkup.errors:
    return "not tried, as there are errors"
  return "not tried"


def _verdict(checkup: Checkup) -> str:
  """The last line, which must not say more than the findings allow."""
  errors, warnings = len(checkup.errors), len(checkup.warnings)
  count = f"{_several(errors, 'error')}, {_several(warnings, 'warning')}"
  if errors:
    return f"{count}: correct the errors first"
  codes = {finding.code for finding in checkup.warnings}
  for code, reservation in _RESERVATIONS.items():
    if code in codes:
      return f"{count}: {reservation}"
  meant = ", if the warnings are meant" if warnings else ""
  return f"{count}: this can be trained on{meant}"


def _several(count: int, what: str) -> str:
  return f"{count or 'no'} {what}{'s' if count != 1 else ''}"


def _describe(survey: Survey) -> list[str]:
  """The data in figures."""
  lines = [f"{survey.config.data.name}: {_sizes(survey)}", *survey.said]
  summary = summarise(survey)
  if "mean" in summary:
    mean, deviation = (
      ", ".join(f"{value:.1f}" for value in summary[name])
      for name in ("mean", "deviation")
    )
    lines.append(f"pixels of train: mean ({mean}), deviation ({deviation})")
  if "classes" not in summary:
    return lines
  if "majority_class" in summary:
    lines.append(
      f"predicting only {summary['majority_class']}: mIoU "
      f"{summary['majority_miou']:.1%}; ignored: {summary['ignored']:.1%}"
    )
  else:
    lines.append(
      "overlapping classes: shares are of the labelled pixels, weights for "
      f"config.loss.positive_weights; ignored: {summary['ignored']:.1%}"
    )
  return [*lines, "", *_table(summary["classes"])]


def _sizes(survey: Survey) -> str:
  parts = []
  for split in SPLITS:
    count, read = survey.size_of(split), len(survey.of(split))
    seen = f" ({read} of them read)" if read < count else ""
    if left_out := survey.left_out(split):
      seen += f" (and {left_out} tiles left out)"
    parts.append(f"{count} images in {split}{seen}")
  return ", ".join(parts)


def _table(classes: list[dict[str, Any]]) -> list[str]:
  """Share of the pixels, images and weight of each class."""
  width = max(len(entry["name"]) for entry in classes)
  lines = [f"{'class':{width + 4}}    train      val   images  weight"]
  for label, entry in enumerate(classes):
    lines.append(
      f"{label:3} {entry['name']:{width}} {entry['train']:8.2%} "
      f"{entry['val']:8.2%} {entry['images']:8} {entry['weight']:7.3g}"
    )
  return lines


def summarise(survey: Survey) -> dict[str, Any]:
  """Figures of the data, ready for JSON."""
  summary: dict[str, Any] = {
    split: {"images": survey.size_of(split), "read": len(survey.of(split))}
    for split in SPLITS
  }
  mean, deviation = pixel_statistics(survey)
  if mean is not None:
    summary.update(mean=mean.tolist(), deviation=deviation.tolist())
  if survey.info is not None and survey.info.multilabel:
    planes = sum(survey.planes.values())
    ignored = planes[:, 2].sum() / max(planes.sum(), 1)
    return summary | {
      "ignored": float(ignored),
      "classes": _overlapping(survey),
    }
  if survey.info is None or not survey.labelled.any():
    return summary
  majority, miou = majority_miou(survey.labelled)
  pixels = int(survey.labelled.sum())
  return summary | {
    "majority_class": survey.info.class_names[majority],
    "majority_miou": miou,
    "ignored": survey.ignored / (survey.ignored + pixels),
    "classes": _classes(survey),
  }


def _classes(survey: Survey) -> list[dict[str, Any]]:
  """One entry per class: name, shares, images that have it, weight."""
  known = [f.counts > 0 for f in survey.facts if f.counts is not None]
  images = np.sum(known, axis=0)
  weights = class_weights(survey.labelled)
  shares = {}
  for split, counts in survey.counts.items():
    counts = counts[: survey.info.num_classes]
    shares[split] = counts / max(counts.sum(), 1)
  return [
    {
      "name": name,
      "train": float(shares["train"][label]),
      "val": float(shares["val"][label]),
      "images": int(images[label]),
      "weight": round(float(weights[label]), 3),
    }
    for label, name in enumerate(survey.info.class_names)
  ]


def _overlapping(survey: Survey) -> list[dict[str, Any]]:
  """The same of overlapping classes; weights are those where a class is."""
  weights = positive_weights(survey.planes["train"])
  shares = {split: survey.plane_shares(split) for split in SPLITS}
  known = [f.planes[:, 1] > 0 for f in survey.facts if f.planes is not None]
  images = np.sum([np.zeros_like(weights), *known], axis=0)
  return [
    {
      "name": name,
      **{split: float(found[i]) for split, found in shares.items()},
      "images": int(images[i]),
      "weight": round(float(weights[i]), 3),
    }
    for i, name in enumerate(survey.info.class_names)
  ]


def to_dict(checkup: Checkup) -> dict[str, Any]:
  """Everything, as `--json` writes it."""
  trained = checkup.overfit
  return {
    "errors": len(checkup.errors),
    "warnings": len(checkup.warnings),
    "findings": [finding.to_dict() for finding in checkup.findings],
    "data": summarise(checkup.survey) if checkup.survey else None,
    "format": checkup.survey.said if checkup.survey else [],
    "overfit": trained
    and {
      "losses": trained.losses,
      "chance": trained.chance,
      "fell": trained.fell,
      "seconds": trained.seconds,
      "loss": trained.loss,
    },
  }
