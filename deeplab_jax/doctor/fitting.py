"""Whether masks lie on their images: edges of one should be edges of the other.

The control is the mask mirrored, which has the same boundaries elsewhere.
"""

import cv2
import numpy as np

from deeplab_jax.data import preprocess

_SIDE = 192  # images are shrunk to this: small shifts of a boundary are normal

# What is done to the mask; the first is nothing.
TURNS = ("as it is", "mirrored left to right", "upside down", "turned by 180°")
_FLIPS = (None, 1, 0, -1)


def edge_contrast(image: np.ndarray, label: np.ndarray) -> np.ndarray | None:
  """How much steeper the image is on the label's boundaries than elsewhere.

  Args:
    image: (h, w, 3) uint8.
    label: (h, w) uint8.

  Returns:
    (4,) logarithms of mean slope on the boundary over mean slope, for the
    label in each of `TURNS`; None where there is no boundary or no slope.
  """
  scale = min(_SIDE / max(label.shape), 1)
  size = preprocess.scaled_size(label.shape, scale)
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
  slope = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *d) for d in ((1, 0), (0, 1))))
  boundary = _boundary(preprocess.resize_nearest(label, size))
  if not boundary.any() or not slope.any():
    return None
  turned = [boundary if f is None else _flip(boundary, f) for f in _FLIPS]
  means = np.array([slope[mask].mean() for mask in turned])
  return np.log(np.maximum(means, 1e-3) / slope.mean())


def _boundary(label: np.ndarray) -> np.ndarray:
  """True at pixels whose right or lower neighbour has another label."""
  boundary = np.zeros(label.shape, bool)
  boundary[:, :-1] |= label[:, 1:] != label[:, :-1]
  boundary[:-1] |= label[1:] != label[:-1]
  return boundary


def _flip(mask: np.ndarray, code: int) -> np.ndarray:
  return cv2.flip(mask.astype(np.uint8), code).astype(bool)
