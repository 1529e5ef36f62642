"""The report as one HTML page, with pictures of the worst examples."""

import cv2
import numpy as np

from deeplab_jax import visualize
from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.doctor import checkup_text
from deeplab_jax.doctor.checkup import Checkup
from deeplab_jax.doctor.findings import Finding, Mention
from deeplab_jax.doctor.samples import Sample
from deeplab_jax.doctor.survey import Survey
from deeplab_jax.visualize import html

_SHOWN = 3  # examples of each finding
_LISTED = 20  # files of each finding
_SIDE = 360  # pixels of a thumbnail
_COLORS = {"error": "#c62828", "warning": "#b26a00"}


def render(checkup: Checkup) -> str:
  """The page as one string."""
  errors, warnings = len(checkup.errors), len(checkup.warnings)
  sections = {"": _cards(checkup)}
  if checkup.survey and checkup.survey.said:
    said = map(html.escape, checkup.survey.said)
    sections["How it was read"] = "<br>".join(said)
  if checkup.errors:
    sections["Errors"] = _findings(checkup, checkup.errors)
  if checkup.warnings:
    sections["Warnings"] = _findings(checkup, checkup.warnings)
  if checkup.survey:
    sections["Some examples"] = _examples(checkup.survey)
    sections["The data in figures"] = _figures(checkup.survey)
  return html.page(
    f"Doctor's report: {errors} errors, {warnings} warnings",
    _subtitle(checkup),
    sections,
  )


def _subtitle(checkup: Checkup) -> str:
  if checkup.survey is None:
    return "The data could not be opened."
  data = checkup.survey.config.data
  return f"{data.name} {data.path}"


def _cards(checkup: Checkup) -> str:
  figures = {}
  if checkup.survey:
    summary = checkup_text.summarise(checkup.survey)
    for split in ("train", "val"):
      figures[f"images in {split}"] = str(summary[split]["images"])
    if "classes" in summary:
      figures["classes"] = str(len(summary["classes"]))
      if "majority_class" in summary:
        only = f"mIoU of predicting only {summary['majority_class']}"
        figures[only] = f"{summary['majority_miou']:.1%}"
      figures["ignored pixels"] = f"{summary['ignored']:.1%}"
  if checkup.overfit:
    first, last = checkup.overfit.losses[0], checkup.overfit.losses[-1]
    figures["loss on one batch"] = f"{first:.2f} → {last:.2f}"
  return html.cards(figures)


def _findings(checkup: Checkup, findings: list[Finding]) -> str:
  return "".join(_finding(checkup.survey, finding) for finding in findings)


def _finding(survey: Survey | None, finding: Finding) -> str:
  """What is wrong, what to do, in which files, and how some look."""
  color = _COLORS[finding.severity]
  parts = [
    f'<h3 style="color: {color}">{html.escape(finding.code)}</h3>',
    f"<div>{html.escape(finding.message)}</div>",
    f"<p>→ {html.escape(finding.remedy)}</p>",
  ]
  shown = [m for m in finding.mentions if m.example is not None][:_SHOWN]
  if survey is not None:
    parts += [_row(survey, mention) for mention in shown]
  others = [m for m in finding.mentions if m not in shown]
  if others:
    lines = [
      f"{html.escape(m.file)}{html.escape(': ' * bool(m.detail) + m.detail)}"
      for m in others[:_LISTED]
    ]
    more = len(others) - _LISTED
    lines += [f"... and {more} more"] if more > 0 else []
    parts.append(f"<p>{'<br>'.join(lines)}</p>")
  return "".join(parts)


def _examples(survey: Survey) -> str:
  """Examples from all over the data, whatever was found in them."""
  facts = survey.facts[:: max(len(survey.facts) // _SHOWN, 1)][:_SHOWN]
  rows = [
    _row(survey, Mention(f.image_file, "", (f.split, f.index))) for f in facts
  ]
  if survey.info:
    colors = dict(zip(survey.info.class_names, survey.info.colors))
    rows.insert(0, html.legend(colors))
  return "".join(rows)


def _row(survey: Survey, mention: Mention) -> str:
  """Image, mask and overlay of one example."""
  sample = survey.samples.read(*mention.example)
  pictures = {}
  if sample.image is not None:
    image = visualize.viewable(sample.image)
    pictures["image"] = html.photo(_thumbnail(image))
  mask = _mask_picture(sample, survey.info)
  if mask is not None:
    pictures["mask"] = html.drawing(_thumbnail(mask))
    if sample.image is not None:
      pictures["overlay"] = html.photo(_overlay(image, mask))
  detail = f": {mention.detail}" if mention.detail else ""
  return html.row(f"{mention.file}{detail}", pictures)


def _mask_picture(sample: Sample, info: DatasetInfo | None):
  """The labels in their colours, or else the mask as it is stored."""
  if sample.label is not None:
    return visualize.colorize(sample.label, info.colors)
  if sample.mask is None or sample.mask.ndim == 3:
    return sample.mask
  return visualize.colorize((sample.mask % 256).astype(np.uint8), ())


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """The mask over the image, both from the top left if their sizes differ."""
  image = image.copy()
  height, width = np.minimum(image.shape[:2], mask.shape[:2])
  part = image[:height, :width]
  part[:] = cv2.addWeighted(part, 0.5, mask[:height, :width], 0.5, 0)
  return _thumbnail(image)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
  """At most `_SIDE` pixels wide or high; nearest, so that labels stay."""
  scale = _SIDE / max(picture.shape[:2])
  if scale >= 1:
    return picture
  height, width = (max(round(side * scale), 1) for side in picture.shape[:2])
  return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)


def _figures(survey: Survey) -> str:
  """Shares and suggested weights of the classes."""
  classes = checkup_text.summarise(survey).get("classes", [])
  head = ("class", "share of train", "share of val", "images", "weight")
  rows = [
    (
      entry["name"],
      f"{entry['train']:.2%}",
      f"{entry['val']:.2%}",
      str(entry["images"]),
      f"{entry['weight']:.3g}",
    )
    for entry in classes
  ]
  cells = (
    "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
    for row in (head, *rows)
  )
  lines = "".join(f"<tr>{line}</tr>" for line in cells)
  return f'<table cellpadding="6">{lines}</table>'
