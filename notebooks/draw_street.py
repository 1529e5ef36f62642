"""Draws street.jpg, a street that no camera has seen, for the notebook.

  python notebooks/draw_street.py

Everything in the picture comes from this file, so it may be used by anybody for
anything. It is no photograph: a network that was trained on photographs knows
its large parts, and errs in its small ones.
"""

import pathlib

import cv2
import numpy as np
from PIL import Image

_HEIGHT, _WIDTH = 360, 480
_VANISHING = np.array([250.0, 168.0])
_PATH = pathlib.Path(__file__).parent / "street.jpg"


def draw(seed: int = 0) -> np.ndarray:
  """The street, uint8 RGB (360, 480, 3), as a camera in a car would see it."""
  rng = np.random.default_rng(seed)
  image = _sky(rng)
  _trees(rng, image, [(228, 150, 26), (282, 152, 20), (258, 158, 14)])
  for side in (-1, 1):
    _houses(rng, image, side)
  _ground(rng, image)
  _trees(rng, image, [(128, 118, 42), (398, 112, 46)])
  for x, bottom in ((128, 214), (398, 222)):
    _fill(image, _box(x - 4, 140, x + 4, bottom), (70, 55, 42))
  for x, top, bottom, arm in ((178, 74, 204, 14), (338, 58, 216, -14)):
    _fill(image, _box(x - 2, top, x + 2, bottom), (88, 90, 92))
    _fill(image, _box(x - 2, top, x + arm, top + 3), (88, 90, 92))
  _car(image, 330, 236, 62, (150, 28, 30))
  _car(image, 176, 216, 40, (42, 62, 110))
  _car(image, 262, 194, 20, (205, 206, 204))
  _person(image, 92, 262, 66)
  return _photograph(rng, image)


def _sky(rng: np.random.Generator) -> np.ndarray:
  y = np.linspace(0, 1, _HEIGHT)[:, None, None]
  image = (1 - y) * (186, 204, 226) + y * (250, 246, 236)
  clouds = _blotches(rng, 7) * np.clip(1 - 1.6 * y, 0, 1)
  return np.broadcast_to(image, (_HEIGHT, _WIDTH, 3)) + 26 * clouds


def _blotches(rng: np.random.Generator, cells: int) -> np.ndarray:
  """Smooth noise of about -1..1, (h, w, 1)."""
  coarse = rng.normal(0, 0.5, (cells, 2 * cells)).astype(np.float32)
  size = _WIDTH, _HEIGHT
  return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)[..., None]


def _box(left, top, right, bottom) -> np.ndarray:
  corners = (left, top), (right, top), (right, bottom), (left, bottom)
  return np.array(corners, float)


def _fill(image: np.ndarray, points: np.ndarray, color, grain=0.0, rng=None):
  """Paints a polygon of (x, y) with soft edges, and grain if asked for."""
  mask = np.zeros(image.shape[:2], np.uint8)
  corners = np.rint(np.asarray(points, float) * 16).astype(np.int32)
  cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, shift=4)
  paint = np.broadcast_to(np.asarray(color, float), image.shape)
  if grain:
    paint = paint + grain * rng.normal(0, 1, (*image.shape[:2], 1))
  part = _bounds(mask)  # most polygons are small
  alpha = mask[part][..., None] / 255
  image[part] += alpha * (paint[part] - image[part])


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
  """The smallest rectangle outside of which `mask` is 0."""
  left, top, width, height = cv2.boundingRect(mask)
  return slice(top, top + height), slice(left, left + width)


def _towards(point, depth: float) -> np.ndarray:
  """`point` moved into the picture: all the way at `depth` 1."""
  return (1 - depth) * np.asarray(point, float) + depth * _VANISHING


def _houses(rng: np.random.Generator, image: np.ndarray, side: int) -> None:
  """A row of fronts along the street, far ones first, with windows."""
  edge = _VANISHING[0] + side * 300
  depths = [0.0, 0.3, 0.52, 0.68, 0.8, 0.88]
  tops = rng.uniform(-190, -90, len(depths))
  colors = [(150, 104, 84), (176, 160, 138), (128, 92, 78), (186, 176, 160)]
  for index in reversed(range(len(depths) - 1)):
    near, far, top = depths[index], depths[index + 1], tops[index]
    color = np.array(colors[(index + (side > 0)) % len(colors)])
    color = color * (1.0 if side > 0 else 0.8)  # the left is in the shade
    base = 300.0
    corners = [
      _towards((edge, top), near),
      _towards((edge, top), far),
      _towards((edge, base), far),
      _towards((edge, base), near),
    ]
    _fill(image, corners, color, 7.0, rng)
    _windows(image, edge, (near, far), (top, base), color)


def _windows(image, edge, depths, heights, color) -> None:
  columns, rows = 4, 5
  near, far = depths
  # Even steps along the street are even in the inverse of the distance.
  steps = np.linspace(1 / (1 - near), 1 / (1 - far), 3 * columns + 1)
  at = 1 - 1 / steps
  levels = np.linspace(*heights, 3 * rows + 1)
  for column in range(columns):
    left, right = at[3 * column + 1], at[3 * column + 2]
    for row in range(rows):
      top, bottom = levels[3 * row + 1], levels[3 * row + 2]
      corners = [
        _towards((edge, top), left),
        _towards((edge, top), right),
        _towards((edge, bottom), right),
        _towards((edge, bottom), left),
      ]
      _fill(image, corners, (58, 66, 78))
      sill = [corners[3], corners[2], corners[2] + 1.5, corners[3] + 1.5]
      _fill(image, sill, color * 1.15)


def _ground(rng: np.random.Generator, image: np.ndarray) -> None:
  """Pavements, kerbs, the road and its marks."""
  bottom, (x, y) = _HEIGHT, _VANISHING
  for side in (-1, 1):
    wall, kerb, road = ((x + side * away, bottom) for away in (700, 300, 288))
    _fill(image, [(x, y), wall, kerb], (158, 152, 146), 5.0, rng)
    _fill(image, [(x, y), kerb, road], (186, 184, 180))
  road = [(x, y), (x - 288, bottom), (x + 288, bottom)]
  _fill(image, road, (104, 104, 108), 6.0, rng)
  for start in (0.02, 0.3, 0.5, 0.64, 0.74, 0.81):
    near, far = start, start + 0.4 * (1 - start) * 0.45
    stripe = [
      _towards((x - 5, bottom), near),
      _towards((x + 5, bottom), near),
      _towards((x + 5, bottom), far),
      _towards((x - 5, bottom), far),
    ]
    _fill(image, stripe, (212, 212, 206))


def _trees(rng: np.random.Generator, image: np.ndarray, crowns) -> None:
  """Crowns of many leaves: (x, y, radius) each."""
  for x, y, radius in crowns:
    for _ in range(260):
      turn, away = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform())
      center = x + away * np.cos(turn), y + 0.9 * away * np.sin(turn)
      light = rng.uniform(0.55, 1.15) - 0.3 * (center[1] - y) / radius
      angles = np.arange(6) * np.pi / 3 + rng.uniform(0, 1)
      size = radius * rng.uniform(0.06, 0.16)
      leaf = np.stack([np.cos(angles), np.sin(angles)], 1) * size + center
      _fill(image, leaf, np.array((70, 92, 44)) * light)


def _car(
  image: np.ndarray, x: float, bottom: float, width: float, color
) -> None:
  """The back of a car: body, window, lamps, wheels, shadow."""
  color = np.asarray(color, float)
  unit = width / 10

  def part(left, top, right, low, paint, slant=0.0):
    corners = _box(left + slant, -top, right - slant, -top)
    corners[2:] = (right, -low), (left, -low)
    corners = corners * unit + (x, bottom)
    _fill(image, corners, paint)

  part(-5.2, 0.4, 5.2, -0.5, (58, 58, 60))
  part(-4.6, 1.6, -3.0, 0, (24, 24, 26))
  part(3.0, 1.6, 4.6, 0, (24, 24, 26))
  part(-5, 4.6, 5, 0.9, color, 0.3)
  part(-4.6, 8, 4.6, 4.5, color * 0.9, 1.1)
  part(-4, 7.5, 4, 4.8, (52, 62, 74), 0.9)
  part(-5, 2.2, 5, 1.2, color * 0.6)
  part(-4.8, 4.2, -3.8, 3.2, (196, 40, 36))
  part(3.8, 4.2, 4.8, 3.2, (196, 40, 36))
  part(-1.4, 3.4, 1.4, 2.5, (222, 222, 214))


def _person(image: np.ndarray, x: float, bottom: float, height: float) -> None:
  """Somebody on the pavement: legs, coat, head."""
  unit = height / 8
  for left in (x - 0.9 * unit, x + 0.15 * unit):
    leg = _box(left, bottom - 4 * unit, left + 0.75 * unit, bottom)
    _fill(image, leg, (40, 42, 54))
  coat = [(-1.2, 3.4), (-0.9, 6.6), (0.9, 6.6), (1.2, 3.4)]
  _fill(
    image, [(x + a * unit, bottom - b * unit) for a, b in coat], (92, 40, 46)
  )
  turns = np.arange(12) * np.pi / 6
  head = np.stack([np.cos(turns), np.sin(turns)], 1) * 0.6 * unit
  middle = np.array((x, bottom - 7.3 * unit))
  _fill(image, head + middle, (186, 146, 122))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
  """The softness, uneven light and noise of a camera; gives uint8."""
  image = cv2.GaussianBlur(image, (3, 3), 0.8)
  image = image * (1 + 0.08 * _blotches(rng, 3))
  noise = rng.normal(0, 3, image.shape)
  return np.clip(image + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
  Image.fromarray(draw()).save(_PATH, quality=92)
