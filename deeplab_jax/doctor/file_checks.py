"""What can be wrong with one image or mask, as tables of rules."""

import dataclasses
from collections.abc import Callable, Iterator

from deeplab_jax.data.builders.faults import FAULTS, REMARKS, BadExample
from deeplab_jax.doctor.facts import Facts
from deeplab_jax.doctor.findings import (
  Finding,
  Mention,
  Severity,
  error,
  warning,
)
from deeplab_jax.doctor.survey import Survey, mention_image, mention_mask

_SMALL = 33  # pixels of a side
_MOST_VALUES = 256
# Remarks on labels, which the doctor counts for any data set.
_COUNTED = {
  *("class-absent", "gaps-in-ids", "all-ignored", "mostly-ignored"),
  *("class-missing-in-train", "class-missing-in-val", "blended-labels"),
}

# Faults of annotations without a picture, which skip_bad leaves out.
_LEFT_OUT = {"unknown-picture", "repeated-picture", "bad-annotation"}


def faults(survey: Survey) -> Iterator[Finding]:
  """Everything that the builder refuses, each kind with all its files."""
  kinds: dict[str, dict[str, Mention]] = {}
  for fault in survey.samples.faults:
    kinds.setdefault(fault.code, {})[str(fault)] = _mention(fault, None)
  for facts in survey.facts:
    for fault in facts.faults:
      kinds.setdefault(fault.code, {})[str(fault)] = _mention(fault, facts)
  say = warning if survey.config.data.get("skip_bad") else error
  for code, mentions in kinds.items():
    kind = FAULTS[code]
    # Of all files together, or of some: only examples can be left out.
    can_skip = all(mention.example for mention in mentions.values())
    make = say if can_skip or code in _LEFT_OUT else error
    yield make(code, kind.message, kind.remedy, mentions.values())


def remarks(survey: Survey) -> Iterator[Finding]:
  """Everything that the builder remarks, but for what is counted here."""
  kinds: dict[str, list[Mention]] = {}
  found = [(facts, r) for facts in survey.facts for r in facts.remarks]
  for facts, remark in sorted(found, key=lambda pair: -pair[1].weight):
    of_mask = remark.file == facts.mask_file
    mention = mention_mask if of_mask else mention_image
    kinds.setdefault(remark.code, []).append(mention(facts, remark.detail))
  for remark in survey.samples.remarks:
    if remark.code not in _COUNTED:
      mention = Mention(remark.file, remark.detail)
      kinds.setdefault(remark.code, []).append(mention)
  for code, mentions in kinds.items():
    kind = REMARKS[code]
    of_all = [mention.detail for mention in mentions if not mention.file]
    message = ": ".join([kind.message, *of_all])
    files = [mention for mention in mentions if mention.file]
    yield warning(code, message, kind.remedy, files)


def _mention(fault: BadExample, facts: Facts | None) -> Mention:
  example = facts and (facts.split, facts.index)
  return Mention(fault.file, fault.problem, example)


@dataclasses.dataclass(frozen=True)
class Rule:
  """A fault of single examples.

  Attributes:
    code: of the finding.
    severity: of the finding.
    message: what is wrong with the files.
    remedy: what to do.
    test: gives what to say of an example that has the fault, else None.
    mention: of its image or of its mask.
  """

  code: str
  severity: Severity
  message: str
  remedy: str
  test: Callable[[Facts], str | None]
  mention: Callable[[Facts, str], Mention] = mention_mask


def _transposed(facts: Facts) -> str | None:
  if not (facts.image and facts.mask) or facts.fits:
    return None
  is_turned = facts.image.size == facts.mask.size[::-1]
  return _sizes(facts) if is_turned else None


def _other_size(facts: Facts) -> str | None:
  if not (facts.image and facts.mask) or facts.fits or _transposed(facts):
    return None
  (height, width), (rows, columns) = facts.image.size, facts.mask.size
  similar = abs(height * columns - width * rows) <= max(height, width)
  return _sizes(facts) + (" (resized?)" if similar else " (cut?)")


def _sizes(facts: Facts) -> str:
  image, mask = (f"{w}x{h}" for h, w in (facts.image.size, facts.mask.size))
  return f"mask {mask}, image {image}"


def _blended(facts: Facts) -> str | None:
  blending = facts.mask and facts.mask.blending
  if not blending or not blending.is_suspect:
    return None
  return str(blending)


def _surely_blended(facts: Facts) -> str | None:
  return _blended(facts) if _between(facts) > 1 else None


def _perhaps_blended(facts: Facts) -> str | None:
  """A single value between may be a class that lines others."""
  return _blended(facts) if _between(facts) == 1 else None


def _between(facts: Facts) -> int:
  return facts.mask.blending.between if facts.mask else 0


def _like_a_photo(facts: Facts) -> str | None:
  if facts.mask and facts.mask.num_values > _MOST_VALUES:
    kind = "colours" if facts.mask.is_colour else "values"
    return f"{facts.mask.num_values} {kind}"
  return None


def _all_ignored(facts: Facts) -> str | None:
  if facts.counts is not None and not facts.counts[:255].any():
    return "nothing is labelled"
  return None


def _constant(facts: Facts) -> str | None:
  if facts.image and facts.image.is_constant:
    return f"all pixels are {facts.image.mean.round().astype(int).tolist()}"
  return None


def _tiny(facts: Facts) -> str | None:
  if facts.image and min(facts.image.size) < _SMALL:
    return f"{facts.image.size[1]}x{facts.image.size[0]}"
  return None


_EXPORT = FAULTS["mask-size"].remedy

_RULES = (
  Rule(
    "mask-transposed",
    Severity.ERROR,
    "masks are turned by a quarter against their images",
    "swap height and width when saving the masks; where the image has an EXIF "
    "orientation, save it upright",
    _transposed,
  ),
  Rule(
    "mask-size",
    Severity.ERROR,
    FAULTS["mask-size"].message,
    _EXPORT,
    _other_size,
  ),
  Rule(
    "blended-labels",
    Severity.ERROR,
    REMARKS["blended-labels"].message,
    _EXPORT,
    _surely_blended,
  ),
  Rule(
    "blended-labels",
    Severity.WARNING,
    "boundaries pass through the value between: smoothed by a resize, unless "
    "that is a class that lines others",
    _EXPORT,
    _perhaps_blended,
  ),
  Rule(
    "too-many-values",
    Severity.ERROR,
    "masks have more values than there can be classes, as photographs or "
    "compressed masks do",
    "check that these are masks; export them without smoothing or compression",
    _like_a_photo,
  ),
  Rule(
    "all-ignored",
    Severity.WARNING,
    REMARKS["all-ignored"].message,
    REMARKS["all-ignored"].remedy,
    _all_ignored,
  ),
  Rule(
    "constant-image",
    Severity.WARNING,
    "images are of one colour throughout",
    "check that these files are what they should be; remove blank ones",
    _constant,
    mention_image,
  ),
  Rule(
    "tiny-image",
    Severity.WARNING,
    f"images have a side below {_SMALL} pixels, a few cells of the network's "
    "grid",
    "check that these are no thumbnails",
    _tiny,
    mention_image,
  ),
)


def rules(survey: Survey) -> Iterator[Finding]:
  """What the table of rules finds, each kind with all its files."""
  for rule in _RULES:
    tested = [(facts, rule.test(facts)) for facts in survey.facts]
    mentions = tuple(
      rule.mention(facts, said) for facts, said in tested if said is not None
    )
    if mentions:
      yield Finding(
        rule.code, rule.severity, rule.message, rule.remedy, mentions
      )
