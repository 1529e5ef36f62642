"""What was made of an export, and what its masks do not show.

The totals are said when a data set is built and whenever it is opened; what was
lost of each picture, the worst first, is for the doctor.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator, Sequence

from deeplab_jax.data.annotations.drawing import Loss
from deeplab_jax.data.annotations.export import Drawn, Export
from deeplab_jax.data.builders.faults import Remark
from deeplab_jax.messages import printable

# Kind of loss -> what is said of so many objects; the codes of remarks.
KINDS = {
  "outside": "reach outside of the picture",
  "few-points": "have fewer than three points: not drawn",
  "self-crossing": "have an outline that crosses itself: drawn even-odd",
  "hole-filled": "have a hole written as an outline within: filled",
  "thin": "are thinner than a pixel, of which some are drawn",
  "vanished": "are thinner than a pixel, of which none is drawn",
  "empty": "have no pixel",
  "no-class": "have no class: not drawn",
  "no-area": "are points or lines without width: not drawn",
  "several-annotations": "are further annotations of a picture: not drawn",
  "crowd": "are marked as crowd: ignored where no other object is",
  "overlap": "cover pixels of another class",
}
_SHOWN = 5  # pairs of classes that a line names


def lines(export: Export, names: Sequence[str]) -> list[str]:
  """What is said of an export once its masks have been drawn.

  Args:
    export: see `Export`; empty of a folder of images and masks.
    names: of the classes.
  """
  said = [_title(export, names)] if export.title else []
  said += _twins(names) if export.title else []
  said += export.lines
  said += export.layout.lines()
  if export.unannotated:
    taken = f"taken for {export.blank}"
    done = "left out" if export.skips_unannotated else taken
    other = "background" if export.skips_unannotated else "skip"
    said.append(
      f"{export.unannotated} pictures without annotation: {done} "
      f"(data.unannotated={other} changes that)"
    )
  if export.drawings:
    said += _losses(list(export.drawings.values()), names)
  return [printable(line) for line in said]


def _title(export: Export, names: Sequence[str]) -> str:
  """Such as "COCO json, 812 images, 3 classes and background"."""
  splits = export.layout.splits.values()
  count = len({name for names in splits for name in names})
  own = [name for name in names if name != "background"]
  background = " and background" if len(own) < len(names) else ""
  return f"{export.title}, {count} images, {len(own)} classes{background}"


def _twins(names: Sequence[str]) -> list[str]:
  """Classes whose names differ in capitals and marks between words alone."""
  alike = collections.defaultdict(list)
  for name in names:
    alike[re.sub(r"[-_ ]+", "", name.casefold())].append(name)
  return [
    f"classes that differ in their spelling alone: {', '.join(twins)}"
    for key, twins in alike.items()
    if key and len(twins) > 1
  ]


def _losses(drawings: list[Drawn], names: Sequence[str]) -> Iterator[str]:
  objects = sum((d.objects for d in drawings), collections.Counter())
  yield f"{objects.total()} objects in {len(drawings)} pictures were drawn"
  for kind, what in KINDS.items():
    found = [(d, loss) for d in drawings for loss in d.losses]
    found = [(d, loss) for d, loss in found if loss.kind == kind]
    if found:
      yield f"  {kind}: {_line(kind, what, found, names)}"
  unused = [
    n for i, n in enumerate(names) if not objects[i] and n != "background"
  ]
  if unused:
    yield f"  classes never used: {', '.join(unused)}"


def _line(
  kind: str,
  what: str,
  found: list[tuple[Drawn, Loss]],
  names: Sequence[str],
) -> str:
  """How many objects in how many pictures, how many pixels, and the worst."""
  files = len({drawn.file for drawn, _ in found})
  whole = len({(drawn.file, loss.name) for drawn, loss in found})
  pixels = sum(loss.pixels for _, loss in found)
  drawn, worst = max(found, key=lambda pair: pair[1].pixels)
  count = f"{whole} objects in {files} pictures {what}"
  if kind == "overlap":
    count += f": {_pairs((loss for _, loss in found), names)}"
  elif pixels:
    count += f": {pixels} pixels"
  most = f", most ({worst.pixels})" if worst.pixels else ", such as"
  return f"{count}{most} in {drawn.file}, {worst.name}"


def _pairs(losses: Iterable[Loss], names: Sequence[str]) -> str:
  """Who won over whom, the most pixels first."""
  pixels = collections.Counter()
  for loss in losses:
    pixels[loss.labels] += loss.pixels
  said = [
    f"{_name(above, names)} over {_name(beneath, names)} {count} pixels"
    for (beneath, above), count in pixels.most_common(_SHOWN)
  ]
  return ", ".join(said) + (", ..." if len(pixels) > _SHOWN else "")


def _name(label: int, names: Sequence[str]) -> str:
  return names[label] if label < len(names) else "ignored"


def remarks(drawn: Drawn, names: Sequence[str]) -> Iterator[Remark]:
  """What one mask does not show, a remark for each kind."""
  kinds = collections.defaultdict(list)
  for loss in drawn.losses:
    kinds[loss.kind].append(loss)
  for kind, losses in kinds.items():
    losses.sort(key=lambda loss: -loss.pixels)
    said = [loss.name for loss in losses[:_SHOWN]]
    more = f" and {len(losses) - _SHOWN} more" if losses[_SHOWN:] else ""
    pixels = sum(loss.pixels for loss in losses)
    if kind == "overlap":
      detail = _pairs(losses, names)
    else:
      detail = f"{pixels} pixels of " * bool(pixels) + ", ".join(said) + more
    yield Remark(kind, drawn.file, detail, pixels)
