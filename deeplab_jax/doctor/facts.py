"""The few numbers that are kept of each example: all that checks look at."""

from __future__ import annotations

import dataclasses
import hashlib

import cv2
import ml_collections
import numpy as np

from deeplab_jax.data import preprocess
from deeplab_jax.data.builders import blending, masks
from deeplab_jax.data.builders.blending import Blending
from deeplab_jax.data.builders.faults import BadExample, Remark
from deeplab_jax.doctor import fitting
from deeplab_jax.doctor.samples import Sample

_LOOK_SIDE = 16
_LEAST_CONTRAST = 4.0  # of 0..255; flatter images all look alike
_MOST_VALUES = 300  # of a mask kept; more are counted


@dataclasses.dataclass(frozen=True)
class ImageFacts:
  """One image.

  Attributes:
    size: height and width.
    digest: equal only for equal pixels.
    look: float32 (256,) of length 1, which barely changes when the image is
      resized or saved again; None of an image with hardly any contrast.
    mean: of the pixels, 0..255, of each channel.
    mean_square: the same of their squares.
    is_constant: whether all pixels are equal.
  """

  size: tuple[int, int]
  digest: bytes
  look: np.ndarray | None
  mean: np.ndarray
  mean_square: np.ndarray
  is_constant: bool


@dataclasses.dataclass(frozen=True)
class MaskFacts:
  """One mask as its file has it.

  Attributes:
    size: height and width.
    is_colour: whether its pixels are colours that are not grey.
    values: the values, or colours as r * 65536 + g * 256 + b, it has, at most
      some hundreds.
    num_values: how many there are.
    blending: how its regions meet.
    digest: equal only for equal masks.
  """

  size: tuple[int, int]
  is_colour: bool
  values: frozenset[int]
  num_values: int
  blending: Blending
  digest: bytes


@dataclasses.dataclass(frozen=True)
class Facts:
  """One example; what is None could not be read, or is left out.

  Attributes:
    split: "train" or "val".
    index: by which `Samples.read` reads it again.
    name, image_file, mask_file, faults, remarks: as in `Sample`.
    image: of the image.
    mask: of the mask as stored.
    counts: pixels (256,) of each label.
    kept: (256,) whether each label is still there at the logits' resolution.
    contrast: see `fitting.edge_contrast`.
    planes: of overlapping classes, which have no `counts`: int64 (classes, 3),
      pixels where each is not, where it is, and where nobody knows.
    left_out: whether a build leaves it out.
  """

  split: str
  index: int
  name: str
  image_file: str
  mask_file: str
  faults: tuple[BadExample, ...]
  remarks: tuple[Remark, ...]
  image: ImageFacts | None
  mask: MaskFacts | None
  counts: np.ndarray | None
  kept: np.ndarray | None
  contrast: np.ndarray | None
  planes: np.ndarray | None = None
  left_out: bool = False

  @property
  def fits(self) -> bool:
    """Whether image and mask are there and of one size."""
    return (
      self.image is not None
      and self.mask is not None
      and self.image.size == self.mask.size
    )


def measure(
  sample: Sample,
  split: str,
  index: int,
  data_config: ml_collections.ConfigDict,
  logits_stride: int,
) -> Facts:
  """The facts of one example; nothing is measured of one that is left out."""
  if sample.left_out:
    sample = dataclasses.replace(sample, image=None, mask=None, label=None)
  label, image, planes = sample.label, sample.image, None
  overlap = label is not None and label.ndim == 3
  if overlap:
    planes, label = _planes(label), _together(label)
  fits = label is not None and image is not None
  fits = fits and label.shape == image.shape[:2]
  return Facts(
    split=split,
    index=index,
    name=sample.name,
    image_file=sample.image_file,
    mask_file=sample.mask_file,
    faults=tuple(sample.faults),
    remarks=tuple(sample.remarks),
    image=None if image is None else _image(image),
    mask=None if sample.mask is None else _mask(sample.mask),
    counts=None if label is None or overlap else _counts(label),
    kept=None
    if label is None or overlap
    else _kept(label, data_config, logits_stride),
    contrast=fitting.edge_contrast(image, label) if fits else None,
    planes=planes,
    left_out=sample.left_out,
  )


def _planes(label: np.ndarray) -> np.ndarray:
  """Pixels (classes, 3) of 0, 1 and others."""
  absent, present = ((label == x).sum((0, 1)) for x in (0, 1))
  ignored = label.shape[0] * label.shape[1] - absent - present
  return np.stack([absent, present, ignored], -1).astype(np.int64)


def _together(label: np.ndarray) -> np.ndarray:
  """One number (h, w) for the classes that are at a pixel: borders of any are
  borders of these."""
  factors = np.arange(1, label.shape[-1] + 1, dtype=np.int64) * 37
  return ((label == 1) @ factors % 251).astype(np.uint8)


def _image(image: np.ndarray) -> ImageFacts:
  pixels = image.reshape(-1, image.shape[2])
  parts = [cv2.meanStdDev(x) for x in cv2.split(image)]
  mean, deviation = np.array(parts)[..., 0, 0].T
  return ImageFacts(
    size=image.shape[:2],
    digest=_digest(image),
    look=_look(image),
    mean=mean,
    mean_square=mean**2 + deviation**2,
    is_constant=bool((pixels == pixels[0]).all()),
  )


def _look(image: np.ndarray) -> np.ndarray | None:
  """Brightness of 16 x 16 parts, whatever its mean and contrast are."""
  grey = fitting.grey(image)
  size = _LOOK_SIDE, _LOOK_SIDE
  small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
  small = small.astype(np.float32).ravel()
  if small.std() < _LEAST_CONTRAST:
    return None
  small -= small.mean()
  return small / np.linalg.norm(small)


def _mask(mask: np.ndarray) -> MaskFacts:
  is_colour = mask.ndim == 3 and not bool((mask == mask[..., :1]).all())
  if mask.ndim == 3 and not is_colour:
    mask = mask[..., 0]
  codes = masks.codes_of(mask) if is_colour else mask
  values = np.unique(codes).tolist()
  return MaskFacts(
    size=mask.shape[:2],
    is_colour=is_colour,
    values=frozenset(values[:_MOST_VALUES]),
    num_values=len(values),
    blending=blending.measure(mask),
    digest=_digest(mask),
  )


def _counts(label: np.ndarray) -> np.ndarray:
  return np.bincount(label.ravel(), minlength=256)


def _kept(
  label: np.ndarray, config: ml_collections.ConfigDict, stride: int
) -> np.ndarray:
  if config.resize_min:
    size = preprocess.range_size(
      label.shape, config.resize_min, config.resize_max, config.resize_factor
    )
    label = preprocess.resize_nearest(label, size)
  return _counts(label[::stride, ::stride]) > 0


def _digest(array: np.ndarray) -> bytes:
  content = np.ascontiguousarray(array)
  return hashlib.sha256(f"{array.shape}".encode() + content.tobytes()).digest()
