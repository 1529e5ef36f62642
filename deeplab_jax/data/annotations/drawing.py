"""Objects become masks by one rule, whatever the format: that of pycocotools.

Points are rounded to a fifth of a pixel, the picture's top left corner being
(0, 0); a pixel is in a polygon if its centre is, and where the outline crosses
itself the even-odd rule holds. Circles and lines become polygons first. So one
scene has the same mask in every format, and COCO's own polygons have the masks
that COCO's tools give them.

Only Supervisely's points are no places between pixels, but pixels: those that
an outline passes through belong to the object, or to the hole. OpenCV fills
such outlines, as Supervisely's own tools do.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from deeplab_jax.data.annotations import geometry, run_lengths
from deeplab_jax.data.annotations.files import png
from deeplab_jax.data.annotations.options import AREA, LISTED
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.classes import IGNORE, bit_colors
from deeplab_jax.data.datasets import Color

_SLACK = 1e-4  # of a pixel, by which a strip of one pixel may be thinner
_FARTHEST = 1e5  # pixels from the picture at which points may be
_MOST_PIXELS = 1e8  # of the box around an outline that leaves the picture


@dataclasses.dataclass(frozen=True)
class Shape:
  """One annotated object.

  Attributes:
    name: for messages, such as "annotation 33".
    label: 0..254, or `IGNORE`.
    rings: outlines (n, 2) of x and y in pixels; the object is all of them.
    holes: outlines (n, 2) of what is cut out of `rings`.
    bitmap: bool (h, w), in place of `rings`.
    corner: x and y in the picture of the bitmap's top left pixel.
    is_crowd: a region of many objects, which is ignored where none is drawn.
    is_line: whether `rings` are the overlapping parts of a line.
    of_pixels: whether points are pixels, rounded down, and not places.
  """

  name: str
  label: int
  rings: Sequence[np.ndarray] = ()
  holes: Sequence[np.ndarray] = ()
  bitmap: np.ndarray | None = None
  corner: tuple[int, int] = (0, 0)
  is_crowd: bool = False
  is_line: bool = False
  of_pixels: bool = False


@dataclasses.dataclass(frozen=True)
class Loss:
  """What of an object its mask does not show.

  Attributes:
    kind: one of `report.KINDS`.
    name: of the object.
    pixels: how many are concerned.
    labels: of an overlap: what is beneath, what is above.
  """

  kind: str
  name: str
  pixels: int = 0
  labels: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Drawing:
  """The mask of one picture.

  Attributes:
    labels: uint8 (h, w).
    losses: what it does not show.
    objects: how many of each label were to be drawn.
  """

  labels: np.ndarray
  losses: tuple[Loss, ...]
  objects: collections.Counter[int]


def draw(
  file: str,
  shapes: Sequence[Shape],
  size: tuple[int, int],
  order: str | Sequence[int],
) -> Drawing:
  """Draws the objects of one picture over label 0.

  Args:
    file: where they are, for messages.
    shapes: the objects, in the order in which they are listed.
    size: height and width of the picture.
    order: `AREA`, `LISTED`, or labels: those of a label named later are drawn
      over the others, of one label, and of those not named, the smaller.

  Raises:
    BadExample: coordinates are no numbers, or far outside.
  """
  losses: list[Loss] = []
  regions = [_Region.of(_pixels(file, shape, size, losses)) for shape in shapes]
  labels = np.zeros(size, np.uint8)
  owned = np.zeros(size, bool)
  for index in _sorted(shapes, regions, order):
    shape, region = shapes[index], regions[index]
    part, inside = labels[region.box], region.inside
    if shape.is_crowd:
      part[inside] = IGNORE
      losses.append(Loss("crowd", shape.name, region.area))
      continue
    beneath = part[inside & owned[region.box]]
    others = (beneath != shape.label) & (beneath != IGNORE)
    for label in np.unique(beneath[others]).tolist():
      count = int((beneath == label).sum())
      pair = (label, shape.label)
      losses.append(Loss("overlap", shape.name, count, pair))
    part[inside] = shape.label
    owned[region.box] |= inside
  objects = collections.Counter(shape.label for shape in shapes)
  return Drawing(labels, tuple(losses), objects)


def encode(labels: np.ndarray, colors: Sequence[Color]) -> bytes:
  """Labels as an indexed PNG with the colours of the classes."""
  height, width = labels.shape
  picture = PIL.Image.frombytes("P", (width, height), labels.tobytes())
  # All 256: of fewer colours Pillow writes fewer bits, and 255 is cut off.
  palette = [*colors, *bit_colors(256)[len(colors) :]]
  picture.putpalette([v for color in palette for v in color])
  return png(picture)


def _sorted(
  shapes: Sequence[Shape],
  regions: Sequence[_Region],
  order: str | Sequence[int],
) -> list[int]:
  """Indices of the objects as they are drawn, crowds first."""

  def place(index: int) -> tuple:
    shape = shapes[index]
    if order == LISTED:
      return (not shape.is_crowd, index)
    rank = 0
    if order != AREA and shape.label in order:
      rank = 1 + list(order).index(shape.label)
    return (not shape.is_crowd, rank, -regions[index].area, index)

  return sorted(range(len(shapes)), key=place)


@dataclasses.dataclass(frozen=True)
class _Region:
  """The pixels of an object: the box around them, and which of it they are."""

  box: tuple[slice, slice]
  inside: np.ndarray
  area: int

  @classmethod
  def of(cls, pixels: np.ndarray) -> _Region:
    """Of `pixels` (h, w) bool."""
    box = tuple(
      slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0)
      for found in (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    )
    inside = pixels[box].copy()
    return cls(box, inside, int(inside.sum()))


def _pixels(
  file: str, shape: Shape, size: tuple[int, int], losses: list[Loss]
) -> np.ndarray:
  """Pixels (h, w) bool of one object; notes what is lost."""
  if shape.bitmap is not None:
    pixels, cut = _placed(shape.bitmap, shape.corner, size)
    if cut:
      losses.append(Loss("outside", shape.name, cut))
    elif not pixels.any():
      losses.append(Loss("empty", shape.name))
    return pixels
  _check(f"{file}, {shape.name}", (*shape.rings, *shape.holes), size)
  rings = [ring for ring in shape.rings if len(ring) >= 3]
  holes = [hole for hole in shape.holes if len(hole) >= 3]
  few = len(shape.rings) + len(shape.holes) - len(rings) - len(holes)
  losses += [Loss("few-points", shape.name)] * (few or not shape.rings)
  pixels = _inside(rings, holes, size, shape.of_pixels)
  losses += _cut(shape, rings, holes, int(pixels.sum()), size)
  if not shape.is_line:
    crosses = [geometry.crosses_itself(r) for r in (*rings, *holes)]
    losses += [Loss("self-crossing", shape.name)] * sum(crosses)
  if not shape.is_line and not shape.of_pixels:
    losses += _filled(shape.name, rings, size)
    thick = map(geometry.thickness, rings)
    if rings and not any(crosses) and max(thick) < 1 - _SLACK:
      kind = "thin" if pixels.any() else "vanished"
      losses.append(Loss(kind, shape.name, int(pixels.sum())))
  return pixels


def _check(
  where: str, rings: Sequence[np.ndarray], size: tuple[int, int]
) -> None:
  """Refuses what is no outline in the picture, nor anywhere near it."""
  for ring in rings:
    for x, y in ring[~(np.abs(ring) <= _FARTHEST + max(size)).all(1)][:1]:
      raise BadExample(
        where,
        "coordinates-far-outside",
        f"points must be in the picture of {size[1]}x{size[0]} or near it, got "
        f"({x:g}, {y:g})",
      )


def _inside(
  rings: Sequence[np.ndarray],
  holes: Sequence[np.ndarray],
  size: tuple[int, int],
  of_pixels: bool,
) -> np.ndarray:
  """Pixels (h, w) bool of an object, see `Shape`."""
  if not of_pixels:
    pixels = _union(rings, size)
    for hole in holes:
      pixels &= ~_polygon(hole, size)
    return pixels
  filled = np.zeros(size, np.uint8)
  for color, outlines in ((1, rings), (0, holes)):
    corners = [np.floor(ring).astype(np.int32) for ring in outlines]
    if corners:
      cv2.fillPoly(filled, corners, color)
  return filled > 0


def _union(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
  """Pixels (h, w) bool of some outlines of three points or more."""
  if not rings:
    return np.zeros(size, bool)
  # A list of four numbers would be a box to pycocotools: here are six or more.
  numbers = [ring.ravel().tolist() for ring in rings]
  encoded = coco_mask.merge(coco_mask.frPyObjects(numbers, *size))
  return run_lengths.pixels(encoded["counts"], size)


def _polygon(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  return _union([ring], size)


def _filled(
  name: str, rings: Sequence[np.ndarray], size: tuple[int, int]
) -> list[Loss]:
  """Outlines inside another of the same object: holes that are filled."""
  losses = []
  boxes = [(ring.min(0), ring.max(0)) for ring in rings]
  for ring, (low, high) in zip(rings, boxes):
    around = [
      other
      for other, (lowest, highest) in zip(rings, boxes)
      if other is not ring and (lowest <= low).all() and (highest >= high).all()
    ]
    inner = _polygon(ring, size) if around else np.zeros(0, bool)
    area = int(inner.sum())
    outer = (_polygon(other, size) for other in around)
    if area and any(o.sum() > area and not (inner & ~o).any() for o in outer):
      losses.append(Loss("hole-filled", name, area))
  return losses


def _cut(
  shape: Shape,
  rings: Sequence[np.ndarray],
  holes: Sequence[np.ndarray],
  inside: int,
  size: tuple[int, int],
) -> list[Loss]:
  """What of an object is outside of the picture, by the same rule.

  `inside` is how many of its pixels are in the picture.
  """
  if not rings:
    return []
  points = np.concatenate(rings)
  low, high = points.min(0), points.max(0)
  end = np.floor(high) + 1 if shape.of_pixels else np.ceil(high)
  if (low >= 0).all() and (end <= size[::-1]).all():
    return []
  corner = np.floor(low)
  width, height = (end - corner).astype(int).tolist()
  if width * height > _MOST_PIXELS:
    return [Loss("outside", shape.name)]
  canvas = max(height, 1), max(width, 1)
  rings, holes = ([ring - corner for ring in part] for part in (rings, holes))
  pixels = _inside(rings, holes, canvas, shape.of_pixels)
  cut = int(pixels.sum()) - inside
  return [Loss("outside", shape.name, cut)] if cut > 0 else []


def _placed(
  bitmap: np.ndarray, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, int]:
  """A bitmap in the picture, and how many of its pixels are outside."""
  region = np.zeros(size, bool)
  x, y = corner
  top, left = max(y, 0), max(x, 0)
  bottom = min(y + bitmap.shape[0], size[0])
  right = min(x + bitmap.shape[1], size[1])
  if bottom > top and right > left:
    part = bitmap[top - y : bottom - y, left - x : right - x]
    region[top:bottom, left:right] = part
  return region, int(bitmap.sum()) - int(region.sum())
