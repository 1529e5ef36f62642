"""Draws the random scenes of the `shapes` data set with NumPy and OpenCV.

Sizes are pixels, angles radians, colours RGB 0..255 (float32 until the end).
Labels follow `classes.SHAPES`: 0 background, 1 disc, 2 box, 3 triangle, 4 star,
5 ring, 6 pole; 255 where two labels meet.
"""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from deeplab_jax.data.classes import IGNORE

# Middle of each class's hues, in turns; neighbours overlap at the ends, so
# that colour alone does not tell the classes apart.
_HUES = {label: label / 6 for label in range(1, 7)}
_HUE_SPREAD = 0.09
_POLE = 6

Points = np.ndarray  # (n, 2) float: x, y


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """One scene: image (h, w, 3) uint8 RGB and labels (h, w) uint8.

  Both sides are 96 to 128 pixels.
  """
  height, width = (int(side) for side in rng.integers(96, 129, 2))
  image = _background(rng, height, width)
  mask = np.zeros((height, width), np.uint8)
  for _ in range(rng.integers(3, 7)):
    _add_object(rng, image, mask)
  return _photograph(rng, image), _with_border(mask)


def _add_object(
  rng: np.random.Generator, image: np.ndarray, mask: np.ndarray
) -> None:
  """Paints one object of a random class over what is there."""
  height, width = mask.shape
  label = int(rng.integers(1, 7))
  center = rng.uniform(0.1, 0.9, 2) * (width, height)
  region = np.zeros(mask.shape, np.uint8)
  if label == _POLE:
    _draw_poles(rng, region)
  else:
    radius, angle = rng.uniform(16, 34), rng.uniform(0, 2 * np.pi)
    _OUTLINES[label](rng, region, center, radius, angle)
  surface = _texture(rng, label, height, width) * _color(rng, label)
  # Soft edges, as a lens gives; the label's edge stays hard.
  alpha = cv2.GaussianBlur(region.astype(np.float32), (3, 3), 0.7)[..., None]
  image += alpha * (surface - image)
  mask[region > 0] = label


def _fill(region: np.ndarray, points: Points) -> None:
  cv2.fillPoly(region, [np.rint(points).astype(np.int32)], 1)


def _around(center: np.ndarray, radii: np.ndarray, angle: float) -> Points:
  """Points at `radii` from `center`, evenly spaced in angle."""
  turns = angle + np.arange(len(radii)) * 2 * np.pi / len(radii)
  offsets = np.stack([np.cos(turns), np.sin(turns)], axis=1)
  return center + radii[:, None] * offsets


def _disc(rng, region, center, radius, angle) -> None:
  squeeze = np.array([1.0, rng.uniform(0.8, 1.0)])
  points = _around(np.zeros(2), np.full(48, radius), 0.0) * squeeze
  _fill(region, center + points @ _rotation(angle))


def _box(rng, region, center, radius, angle) -> None:
  sides = np.array([1.0, rng.uniform(0.5, 1.0)]) * radius * 0.85
  corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides
  _fill(region, center + corners @ _rotation(angle))


def _triangle(rng, region, center, radius, angle) -> None:
  _fill(region, _around(center, radius * rng.uniform(0.85, 1.15, 3), angle))


def _star(rng, region, center, radius, angle) -> None:
  radii = np.tile([1.15, rng.uniform(0.45, 0.6)], int(rng.integers(5, 8)))
  _fill(region, _around(center, radius * radii, angle))


def _ring(rng, region, center, radius, angle) -> None:
  _disc(rng, region, center, radius, angle)
  hole = _around(center, np.full(48, radius * rng.uniform(0.4, 0.55)), angle)
  cv2.fillPoly(region, [np.rint(hole).astype(np.int32)], 0)


def _draw_poles(rng: np.random.Generator, region: np.ndarray) -> None:
  """One to three bars across the scene: a pole, a fence, wires."""
  height, width = region.shape
  count, thickness = int(rng.integers(1, 4)), int(rng.integers(4, 8))
  spacing = rng.uniform(3.5, 5) * thickness
  tilt = rng.uniform(-0.25, 0.25)
  long, across = height, width
  if rng.random() < 0.3:
    long, across = width, height
  start = rng.uniform(0.05, 0.9) * across + spacing * np.arange(count)
  ends = np.stack([start, start + tilt * long], axis=1)
  for near, far in np.rint(ends).astype(int).tolist():
    points = [(near, -4), (far, long + 4)]
    if (long, across) != (height, width):
      points = [(y, x) for x, y in points]
    cv2.line(region, *points, 1, thickness)


_OUTLINES: dict[int, Callable[..., None]] = {
  1: _disc,
  2: _box,
  3: _triangle,
  4: _star,
  5: _ring,
}


def _rotation(angle: float) -> np.ndarray:
  cos, sin = np.cos(angle), np.sin(angle)
  return np.array([[cos, -sin], [sin, cos]])


def _color(rng: np.random.Generator, label: int) -> np.ndarray:
  hue = _HUES[label] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)
  rgb = colorsys.hsv_to_rgb(
    hue % 1.0, rng.uniform(0.5, 0.9), rng.uniform(0.55, 0.95)
  )
  return np.array(rgb, np.float32) * 255


def _texture(
  rng: np.random.Generator, label: int, height: int, width: int
) -> np.ndarray:
  """Brightness (h, w, 1) of a class's surface, about 0.6 to 1.1."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  angle, period = rng.uniform(0, np.pi), rng.uniform(5, 9)
  u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
  v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period)
  pattern = {
    1: np.cos(u) * np.cos(v),  # dots
    2: np.sign(np.cos(u) * np.cos(v)),  # checks
    3: np.cos(u),  # stripes
    4: cv2.resize(
      rng.normal(0, 0.6, (height // 2, width // 2)), (width, height)
    ),
    5: np.cos(u / 3),  # broad bands
    6: np.sign(np.cos(y * (2 * np.pi / 14))),  # marks along a pole
  }[label]
  contrast = rng.uniform(0.15, 0.28)
  shade = 1 + rng.uniform(-0.15, 0.15) * (x / width - 0.5)
  return ((0.9 + contrast * pattern) * shade)[..., None].astype(np.float32)


def _background(
  rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
  """Smooth blotches of two faint colours, with grain: (h, w, 3) float32."""
  first, second = (
    np.array(colorsys.hsv_to_rgb(*rng.uniform((0, 0, 0.3), (1, 0.35, 0.9))))
    for _ in range(2)
  )
  coarse = rng.uniform(0, 1, (5, 5)).astype(np.float32)
  blend = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
  grain = rng.normal(0, 0.05, (height // 3, width // 3)).astype(np.float32)
  grain = cv2.resize(grain, (width, height))
  image = first + (second - first) * blend[..., None] + grain[..., None]
  return np.ascontiguousarray(image * 255, np.float32)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
  """Uneven light, exposure and sensor noise; gives uint8."""
  height, width, _ = image.shape
  y, x = np.mgrid[:height, :width].astype(np.float32)
  angle = rng.uniform(0, 2 * np.pi)
  slope = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
  light = rng.uniform(0.75, 1.15) + rng.uniform(0, 0.4) * slope
  noise = rng.normal(0, rng.uniform(3, 10), image.shape)
  return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8)


def _with_border(mask: np.ndarray) -> np.ndarray:
  """Labels with `IGNORE` in the two pixels where different ones meet."""
  cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
  border = cv2.dilate(mask, cross) != cv2.erode(mask, cross)
  return np.where(border, IGNORE, mask).astype(np.uint8)
