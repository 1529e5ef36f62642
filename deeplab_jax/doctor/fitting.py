"""Whether masks lie on their images: edges of one should be edges of the other.

The control is the mask mirrored or moved, whose boundaries are elsewhere.
"""

import cv2
import numpy as np

from deeplab_jax.data import preprocess

_SIDE = 192  # images are shrunk to this: small shifts of a boundary are normal

# What is done to the mask: OpenCV's code of a flip, None = none.
_FLIPS = {
  "mirrored left to right": 1,
  "upside down": 0,
  "turned by 180°": -1,
}
_MOVES = {
  f"moved {where} by {distance / _SIDE:.0%} of the image": (
    down * distance,
    right * distance,
  )
  for distance in (6, 12)
  for where, (down, right) in {
    "left": (0, -1),
    "right": (0, 1),
    "up": (-1, 0),
    "down": (1, 0),
    "up and left": (-1, -1),
    "up and right": (-1, 1),
    "down and left": (1, -1),
    "down and right": (1, 1),
  }.items()
}
CHANGES = ("as they are", *_FLIPS, *_MOVES)
MIRRORED = slice(1, 1 + len(_FLIPS))  # the changes that say what chance is


def grey(image: np.ndarray) -> np.ndarray:
  """How bright (h, w, channels) of uint8 is: the luma of RGB, else the mean."""
  if image.shape[2] == 3:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  return np.rint(image.mean(-1, dtype=np.float32)).astype(np.uint8)


def edge_contrast(image: np.ndarray, label: np.ndarray) -> np.ndarray | None:
  """How much steeper the image is on the label's boundaries than elsewhere.

  Args:
    image: (h, w, channels) uint8.
    label: (h, w) uint8.

  Returns:
    logarithms of mean slope on the boundary over mean slope, for the label
    after each of `CHANGES`; None where there is no boundary or no slope.
  """
  scale = min(_SIDE / max(label.shape), 1)
  size = preprocess.scaled_size(label.shape, scale)
  small = cv2.resize(grey(image), size[::-1], interpolation=cv2.INTER_AREA)
  along = ((1, 0), (0, 1))
  slope = np.hypot(*(cv2.Sobel(small, cv2.CV_32F, *d) for d in along))
  boundary = _boundary(preprocess.resize_nearest(label, size))
  if not boundary.any() or not slope.any():
    return None
  changed = [boundary]
  changed += [_flip(boundary, code) for code in _FLIPS.values()]
  changed += [np.roll(boundary, move, (0, 1)) for move in _MOVES.values()]
  means = np.array([slope[mask].mean() for mask in changed])
  return np.log(np.maximum(means, 1e-3) / slope.mean())


def _boundary(label: np.ndarray) -> np.ndarray:
  """True at pixels whose right or lower neighbour has another label."""
  boundary = np.zeros(label.shape, bool)
  boundary[:, :-1] |= label[:, 1:] != label[:, :-1]
  boundary[:-1] |= label[1:] != label[:-1]
  return boundary


def _flip(mask: np.ndarray, code: int) -> np.ndarray:
  return cv2.flip(mask.astype(np.uint8), code).astype(bool)
