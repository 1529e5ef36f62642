"""Class names and colours of the data sets, index = label."""

import numpy as np

SHAPES = (
  "background",
  "disc",
  "box",
  "triangle",
  "star",
  "ring",
  "pole",
)

CAMVID = (
  "Sky",
  "Building",
  "Pole",
  "Road",
  "Pavement",
  "Tree",
  "SignSymbol",
  "Fence",
  "Car",
  "Pedestrian",
  "Bicyclist",
)

CAMVID_COLORS = (
  (128, 128, 128),
  (128, 0, 0),
  (192, 192, 128),
  (128, 64, 128),
  (60, 40, 222),
  (128, 128, 0),
  (192, 128, 128),
  (64, 64, 128),
  (64, 0, 128),
  (64, 64, 0),
  (0, 128, 192),
)


def bit_colors(count: int) -> tuple[tuple[int, int, int], ...]:
  """The first `count` colours of the PASCAL VOC palette.

  Bits 0, 1, 2 of the index become bit 7 of red, green, blue; bits 3, 4, 5
  become bit 6; and so on.
  """
  index = np.arange(count)
  colors = np.zeros((count, 3), int)
  for bit in range(8):
    for channel in range(3):
      colors[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
  return tuple(tuple(int(v) for v in color) for color in colors)
