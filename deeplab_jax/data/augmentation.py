"""What may be done to training crops beyond the paper: all off by default.

Picture and mask move together, and masks are never interpolated. Every draw is
from the generator of its example, after those of the crop, and what is pasted
comes from another example of the split, drawn and cropped in the same way: so a
batch stays a function of the seed and the step. NumPy and OpenCV only.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import cv2
import ml_collections
import numpy as np

from deeplab_jax.data import preprocess
from deeplab_jax.data.preprocess import IGNORE, Crop, Size, ValueRange

Color = tuple[float, ...]  # of each channel
# An image (h, w, c) and its label: (h, w), or (h, w, classes) where classes
# overlap, whose planes all move together.
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """How strong each change is; see `config.data` for the fields.

  Attributes:
    rotation: degrees to either side, at most.
    vertical_flip: whether half of the crops are turned upside down.
    blur: deviation of the Gaussian in pixels, at most.
    noise: deviation of the noise of every value of 0..255, at most.
    cutout: sides of the hole as shares of the crop's, at most.
    cutmix: probability that a box of another crop is pasted.
    classmix: probability that half the classes of another crop are.
    copy_paste: probability that `copy_paste_classes` of another crop are.
    copy_paste_classes: indices of classes.
  """

  rotation: float = 0.0
  vertical_flip: bool = False
  blur: float = 0.0
  noise: float = 0.0
  cutout: float = 0.0
  cutmix: float = 0.0
  classmix: float = 0.0
  copy_paste: float = 0.0
  copy_paste_classes: tuple[int, ...] = ()


def _gaussian() -> np.ndarray:
  """The middles (256,) of equally likely parts of a Gaussian, of deviation 1.

  The largest is 2.9.
  """
  normal = statistics.NormalDist()
  middles = np.array([normal.inv_cdf((i + 0.5) / 256) for i in range(256)])
  return middles / middles.std()


_GAUSSIAN = _gaussian()

FIELDS = tuple(field.name for field in dataclasses.fields(Augmentation))


def from_config(config: ml_collections.ConfigDict) -> Augmentation | None:
  """What `config.data` asks for; None where that is nothing."""
  asked = Augmentation(**{n: config[n] for n in FIELDS if n in config})
  return None if asked == Augmentation() else asked


def crop(
  rng: np.random.Generator,
  image: np.ndarray,
  label: np.ndarray,
  drawn: Crop,
  crop_size: Size,
  padding_value: Color,
  asked: Augmentation,
) -> Pair:
  """`preprocess.take_crop`, turned about its middle and mirrored, if asked."""
  arguments = image, label, drawn, crop_size, padding_value
  if asked.rotation:
    angle = rng.uniform(-asked.rotation, asked.rotation)
    image, label = _turned_crop(*arguments, angle)
  else:
    image, label = preprocess.take_crop(*arguments)
  if asked.vertical_flip and rng.random() < 0.5:
    return preprocess.mirror(image, 0), preprocess.mirror(label, 0)
  return image, label


def mix(
  rng: np.random.Generator,
  image: np.ndarray,
  label: np.ndarray,
  other: Callable[[bool], Pair],
  asked: Augmentation,
) -> Pair:
  """Pastes parts of other crops.

  Args:
    rng: draws whether, and which part.
    image: (h, w, c).
    label: uint8 (h, w), or (h, w, classes).
    other: draws another crop; of an example with `copy_paste_classes` if asked
      for one.
    asked: how likely each kind is.

  Returns:
    image and label, not those passed in.
  """
  for chance, choose in (
    (asked.cutmix, _box),
    (asked.classmix, _half_of_classes),
    (asked.copy_paste, None),
  ):
    if not chance or rng.random() >= chance:
      continue
    image_there, label_there = other(choose is None)
    if choose is None:
      part = _where(label_there, asked.copy_paste_classes)
    else:
      part = choose(rng, label_there)
    image = np.where(part[..., None], image_there, image)
    part = part.reshape(part.shape + (1,) * (label.ndim - 2))
    label = np.where(part, label_there, label)
  return image, label


def disturb(
  rng: np.random.Generator,
  image: np.ndarray,
  label: np.ndarray,
  padding_value: Color,
  asked: Augmentation,
  value_range: ValueRange = (),
) -> Pair:
  """Blurs, adds noise, and cuts a hole, whose pixels are ignored."""
  if asked.blur and (deviation := rng.uniform(0, asked.blur)) > 0:
    blurred = cv2.GaussianBlur(image, (0, 0), deviation)
    image = blurred.reshape(image.shape)
  if asked.noise:
    deviation = rng.uniform(0, asked.noise)
    image = _noisy(rng, image, deviation, value_range)
  if asked.cutout:
    shares = rng.uniform(0, asked.cutout, 2)
    hole = _box_of_sides(rng, label.shape[:2], shares)
    image, label = image.copy(), label.copy()
    image[hole] = preprocess.as_color(padding_value, image.dtype)
    label[hole] = IGNORE
  return image, label


def _noisy(
  rng: np.random.Generator,
  image: np.ndarray,
  deviation: float,
  value_range: ValueRange,
) -> np.ndarray:
  """`image` with Gaussian noise of so much of each channel's 0..255.

  A byte is drawn for each value, and looked up among 256 equally likely ones,
  which takes a sixth of the time of numbers drawn from a Gaussian.
  """
  drawn = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
  if image.dtype == np.uint8 and not value_range:
    steps = np.rint(deviation * _GAUSSIAN).astype(np.int16)
    return cv2.add(image, cv2.LUT(drawn, steps), dtype=cv2.CV_8U)
  noise = (deviation * _GAUSSIAN).astype(np.float32)[drawn]
  if value_range:
    low, high = np.float32(value_range).T
    noise *= (high - low) / 255
  if image.dtype.kind == "f":
    return image + noise
  limits = np.iinfo(image.dtype)
  noisy = np.clip(np.rint(image + noise), limits.min, limits.max)
  return noisy.astype(image.dtype)


def _turned_crop(
  image: np.ndarray,
  label: np.ndarray,
  drawn: Crop,
  crop_size: Size,
  padding_value: Color,
  angle: float,
) -> Pair:
  """`preprocess.take_crop` with the crop turned about its middle.

  What lies beyond the image is as padding there: `angle`, in degrees, may bring
  it into any corner.
  """
  height, width = crop_size
  middle = np.array([(width - 1) / 2, (height - 1) / 2])
  cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
  turn = np.array([[cosine, -sine], [sine, cosine]])
  steps = [
    preprocess.pixel_step(n, out) for n, out in zip(label.shape, drawn.scaled)
  ][::-1]
  start = middle - turn @ middle + np.array(drawn.offset[::-1])
  matrix = np.diag(steps) @ np.column_stack([turn, start])

  def warp(array: np.ndarray, how: int, border: Sequence[float]) -> np.ndarray:
    if array.ndim == 3 and len(border) == 1:  # OpenCV knows borders of four
      planes = [warp(x, how, border) for x in np.moveaxis(array, -1, 0)]
      return np.stack(planes, -1)
    return cv2.warpAffine(
      array,
      matrix,
      (width, height),
      flags=how | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_CONSTANT,
      borderValue=border,
    )

  border = preprocess.as_color(padding_value, image.dtype).tolist()
  parts = [  # OpenCV knows borders of four channels
    warp(image[..., i : i + 4], cv2.INTER_LINEAR, border[i : i + 4])
    for i in range(0, image.shape[2], 4)
  ]
  image = np.dstack(parts) if len(parts) > 1 else parts[0]
  image = image.reshape(height, width, -1)
  label = warp(label, cv2.INTER_NEAREST, [IGNORE])
  if drawn.flip:
    return preprocess.mirror(image, 1), preprocess.mirror(label, 1)
  return image, label


def _box(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
  """True in a box of any area and of the crop's shape (Yun et al., CutMix)."""
  size = label.shape[:2]
  part = np.zeros(size, bool)
  side = rng.random() ** 0.5
  part[_box_of_sides(rng, size, (side, side))] = True
  return part


def _half_of_classes(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
  """True where half of the classes are (Olsson et al., ClassMix)."""
  if label.ndim == 3:
    there = np.flatnonzero((label == 1).any((0, 1)))
  else:
    there = np.unique(label)
    there = there[there != IGNORE]
  chosen = rng.permutation(there)[: -(-len(there) // 2)]
  return _where(label, chosen)


def _where(label: np.ndarray, classes: Sequence[int]) -> np.ndarray:
  """True (h, w) where a pixel is of one of `classes`."""
  if label.ndim == 3:
    return (label[..., list(classes)] == 1).any(-1)
  return np.isin(label, classes)


def _box_of_sides(
  rng: np.random.Generator, size: Size, shares: Sequence[float]
) -> tuple[slice, slice]:
  """A box somewhere in `size`, whose sides are these shares of its."""
  sides = [round(side * share) for side, share in zip(size, shares)]
  starts = [int(rng.integers(n - side + 1)) for n, side in zip(size, sides)]
  rows, columns = (
    slice(start, start + side) for start, side in zip(starts, sides)
  )
  return rows, columns
