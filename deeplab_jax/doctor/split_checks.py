"""What can be wrong with the splits, and with the images taken together."""

from collections.abc import Iterator

import numpy as np

from deeplab_jax.data import preprocess
from deeplab_jax.data.builders.faults import REMARKS
from deeplab_jax.doctor.facts import Facts
from deeplab_jax.doctor.findings import Finding, error, warning
from deeplab_jax.doctor.samples import SPLITS
from deeplab_jax.doctor.survey import Survey, mention_image
from deeplab_jax.models import BACKBONES

# Correlation of two looks: at most 0.93 between splits of CamVid and in VOC,
# 0.994 and more after saving as JPEG of quality 30 or resizing.
_ALIKE = 0.99
_FAR = 50.0  # of 0..255: mean of a channel from what the backbone expects
_DEVIATIONS = 20.0, 110.0  # usual in photographs, 0..255
_PUBLISHED_CROP = 513  # that the rates 6, 12, 18 were published with


def empty(survey: Survey) -> Iterator[Finding]:
  """A split without an example."""
  for split in SPLITS:
    if not survey.size_of(split):
      yield error(
        "empty-split",
        f"{split} has no example",
        "add images, or correct the list or the split that the config names",
      )


def missing_classes(survey: Survey) -> Iterator[Finding]:
  """A class that only one of the splits has."""
  if not survey.info or not all(map(survey.of, SPLITS)):
    return
  has = {s: c[: survey.info.num_classes] > 0 for s, c in survey.counts.items()}
  for split, other in (SPLITS, SPLITS[::-1]):
    missing = np.flatnonzero(has[other] & ~has[split]).tolist()
    if missing:
      code = f"class-missing-in-{split}"
      names = ", ".join(survey.name(label) for label in missing[:10])
      yield warning(
        code,
        f"{REMARKS[code].message}: {len(missing)} of {other}, {names}"
        f"{', ...' if missing[10:] else ''}",
        REMARKS[code].remedy,
      )


def in_both(survey: Survey) -> Iterator[Finding]:
  """Images of val that train has, too: pixel for pixel."""
  train = {f.image.digest: f for f in _with_structure(survey.of("train"))}
  val = _with_structure(survey.of("val"))
  shared = [f for f in val if f.image.digest in train]
  if not shared:
    return
  mentions = [
    mention_image(f, f"as {train[f.image.digest].image_file} in train")
    for f in shared
  ]
  if len(shared) == len(val) and all(
    f.name == train[f.image.digest].name for f in shared
  ):
    yield warning(
      "val-inside-train",
      REMARKS["val-inside-train"].message,
      REMARKS["val-inside-train"].remedy,
      mentions,
    )
    return
  yield error(
    "image-in-both-splits",
    f"{REMARKS['image-in-both-splits'].message} ({len(shared)} images)",
    REMARKS["image-in-both-splits"].remedy,
    mentions,
  )


def alike(survey: Survey) -> Iterator[Finding]:
  """Images of val that look like one of train: saved again, or next frames."""
  train, val = (
    [f for f in survey.of(split) if f.image and f.image.look is not None]
    for split in SPLITS
  )
  if not train or not val:
    return
  looks, others = (np.array([f.image.look for f in s]) for s in (val, train))
  likeness = looks @ others.T
  equal = {f.image.digest for f in train}
  mentions = [
    mention_image(facts, f"like {train[row.argmax()].image_file} in train")
    for facts, row in zip(val, likeness)
    if row.max() > _ALIKE and facts.image.digest not in equal
  ]
  if mentions:
    yield warning(
      "alike-in-both-splits",
      f"{len(mentions)} images of val look like one of train: the same picture "
      "saved again, resized, or frames of one film",
      "keep such images in one split, films as a whole",
      mentions,
    )


def repeated(survey: Survey) -> Iterator[Finding]:
  """The same image several times in one split, perhaps labelled otherwise."""
  mentions, conflicts = [], []
  for split in SPLITS:
    first: dict[bytes, Facts] = {}
    for facts in _with_structure(survey.of(split)):
      other = first.setdefault(facts.image.digest, facts)
      if other is facts:
        continue
      mentions.append(mention_image(facts, f"as {other.image_file}"))
      if facts.mask and other.mask and facts.mask.digest != other.mask.digest:
        conflicts.append(mention_image(facts, f"mask is not {other.mask_file}"))
  if conflicts:
    yield warning(
      "conflicting-masks",
      "the same image has different masks",
      "keep the right one",
      conflicts,
    )
  if mentions:
    yield warning(
      "repeated-images",
      f"{REMARKS['repeated-images'].message} ({len(mentions)} images)",
      REMARKS["repeated-images"].remedy,
      mentions,
    )


def batch_size(survey: Survey) -> Iterator[Finding]:
  """A batch that holds some image more than once."""
  count, batch = survey.size_of("train"), survey.config.batch_size
  if 0 < count < batch:
    yield warning(
      "batch-exceeds-split",
      f"a batch is {batch} images, train has {count}: each batch repeats some",
      f"set --config.batch_size={max(count, 1)} or less",
    )


def crop_size(survey: Survey) -> Iterator[Finding]:
  """Crops larger than every image, even at the largest scale."""
  sizes = [_resized(f, survey) for f in survey.of("train") if f.image]
  if not sizes:
    return
  data = survey.config.data
  largest = np.max(sizes, axis=0) * data.max_scale
  if (np.array(data.crop_size) > largest).any():
    height, width = np.max(sizes, axis=0).tolist()
    yield warning(
      "crop-exceeds-images",
      f"crops are {data.crop_size[1]}x{data.crop_size[0]}, the largest image "
      f"is {width}x{height}: even at scale {data.max_scale:g} all are padded",
      "lower --config.data.crop_size (k * output_stride + 1), or enlarge the "
      "images with data.resize_min",
    )


def atrous_rates(survey: Survey) -> Iterator[Finding]:
  """Atrous rates whose outer taps crops never reach, but whole images do."""
  config, held_out = survey.config, survey.of("val")
  sizes = [_resized(f, survey) for f in held_out if f.image]
  if config.model.head != "aspp" or not sizes:
    return
  evaluated = np.max([*sizes, tuple(config.data.eval_size)], axis=0)
  crop = np.array(config.data.crop_size)
  # In pixels of the image: rates are of features at output stride 16.
  reach = 16 * np.array(config.model.atrous_rates, int).reshape(-1, 1)
  untrained = ((reach >= crop) & (reach < evaluated)).any(1)
  if untrained.any():
    rates = ", ".join(str(r // 16) for r in reach[untrained, 0])
    yield warning(
      "rates-beyond-crop",
      f"model.atrous_rates {rates} (times 16 pixels) reach beyond crops of "
      f"{crop[1]}x{crop[0]}, but not beyond the held-out images "
      f"({evaluated[1]}x{evaluated[0]}): their outer taps see only padding in "
      "training and are used untrained in evaluation",
      "enlarge --config.data.crop_size, or lower --config.model.atrous_rates, "
      f"such as {_rates_within(crop, config.model.atrous_rates)}",
    )


def _rates_within(crop: np.ndarray, rates: tuple[int, ...]) -> tuple[int, ...]:
  """`rates`, scaled to what a crop of the paper's side would allow."""
  factor = crop.min() / _PUBLISHED_CROP
  return tuple(max(1, round(rate * factor)) for rate in rates)


def normalisation(survey: Survey) -> Iterator[Finding]:
  """Images unlike the photographs that the backbone was made for."""
  mean, deviation = pixel_statistics(survey)
  if mean is None:
    return
  if survey.info and not survey.info.is_plain:
    return  # the range of values was found, or set, for them
  expected = np.array(BACKBONES[survey.config.model.backbone].mean)
  low, high = _DEVIATIONS
  is_usual = low < deviation.min() and deviation.max() < high
  if is_usual and np.abs(mean - expected).max() < _FAR:
    return
  yield warning(
    "unusual-brightness",
    f"pixels have mean {_rounded(mean)} and deviation {_rounded(deviation)}; "
    f"{survey.config.model.backbone} expects about {_rounded(expected)} and "
    f"{low:g} to {high:g} of 0..255",
    "check that images use the whole range of 0..255 (16-bit or 0..1 data "
    "saved as 8-bit goes black); if they are like this, train more layers",
  )


def pixel_statistics(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation (channels,) of the pixels of train, 0..255.

  All images weigh alike. None, None without images.
  """
  images = [f.image for f in survey.of("train") if f.image]
  if not images:
    return None, None
  mean = np.mean([image.mean for image in images], axis=0)
  square = np.mean([image.mean_square for image in images], axis=0)
  return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _resized(facts: Facts, survey: Survey) -> tuple[int, int]:
  """Size of the image as the pipeline resizes it first."""
  data = survey.config.data
  if not data.resize_min:
    return facts.image.size
  return preprocess.range_size(
    facts.image.size, data.resize_min, data.resize_max, data.resize_factor
  )


def _with_structure(split: list[Facts]) -> list[Facts]:
  """Examples whose images are not blank."""
  return [f for f in split if f.image and not f.image.is_constant]


def _rounded(values: np.ndarray) -> str:
  return "(" + ", ".join(f"{value:.0f}" for value in values) + ")"
