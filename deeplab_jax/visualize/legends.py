"""Names of classes beside patches of their colours, below a picture."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab_jax import messages
from deeplab_jax.visualize.colors import Colors, classes_in

FONT_SIZE = 13
"""Height of letters, in pixels, that suits pictures of up to 500 x 500."""

_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_LINE = 20 / FONT_SIZE  # lengths in font sizes
_GAP = 6 / FONT_SIZE
_PATCH = 13 / FONT_SIZE
_BETWEEN = 14 / FONT_SIZE
_LONGEST = 40  # letters of a name that are shown
_SIDE = 45  # font sizes: the side of a picture whose legend has larger letters
_FEWEST = 20  # font sizes that fit beside each other, of such letters


def font(size: int = FONT_SIZE) -> ImageFont.FreeTypeFont:
  """The font of all that is drawn here."""
  return ImageFont.load_default(size=size)


def legend(
  class_names: Sequence[str],
  colors: Colors,
  width: int,
  font_size: int = FONT_SIZE,
) -> np.ndarray:
  """Colour patches with names, in as many lines as they take.

  Args:
    class_names: shortened to 40 letters.
    colors: one per name.
    width: of the result in pixels; more if the longest name needs it.
    font_size: height of its letters in pixels; all else follows.

  Returns:
    uint8 RGB (h, w, 3), dark on white.
  """
  letters = font(font_size)
  gap, line = round(_GAP * font_size), round(_LINE * font_size)
  patch, between = round(_PATCH * font_size), round(_BETWEEN * font_size)
  names = [_short(messages.printable(name)) for name in class_names]
  lengths = [patch + gap + math.ceil(letters.getlength(name)) for name in names]
  width = max(width, 2 * gap + max(lengths, default=0))
  places = list(_flow(lengths, width - 2 * gap, between))
  rows = 1 + max((row for row, _ in places), default=0)
  canvas = Image.new("RGB", (width, rows * line + 2 * gap), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for name, color, (row, left) in zip(names, colors, places):
    x, middle = gap + left, gap + row * line + line // 2
    top = middle - patch // 2
    box = (x, top, x + patch - 1, top + patch - 1)
    edge = max(font_size // FONT_SIZE, 1)
    draw.rectangle(box, fill=tuple(color), outline=_INK, width=edge)
    place = (x + patch + gap, middle)
    draw.text(place, name, fill=_INK, font=letters, anchor="lm")
  return np.asarray(canvas)


def _flow(
  lengths: Sequence[int], width: int, between: int
) -> Iterator[tuple[int, int]]:
  """Row, and distance from the left, of entries that fill lines of `width`."""
  row = left = 0
  for length in lengths:
    if left and left + length > width:
      row, left = row + 1, 0
    yield row, left
    left += length + between


def _short(name: str) -> str:
  if len(name) <= _LONGEST:
    return name
  return f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def with_legend(
  picture: np.ndarray,
  labels: np.ndarray,
  colors: Colors,
  class_names: Sequence[str],
) -> np.ndarray:
  """`picture`, and below it the names and colours of the classes in `labels`.

  The letters grow with the picture, so that they can be read when all of it is
  looked at. A picture narrower than a name stands on white paper.

  Args:
    picture: uint8 RGB (h, w, 3).
    labels: integers (h, w); numbers beyond the classes are passed over. Or of
      overlapping classes, (h, w, classes) of 0 and 1.
    colors: one per class.
    class_names: one per class.

  Returns:
    uint8 RGB; its first h rows and w columns are `picture`.
  """
  seen = classes_in(labels, len(class_names))
  height, width = picture.shape[:2]
  font_size = max(FONT_SIZE, round(math.sqrt(height * width) / _SIDE))
  font_size = min(font_size, max(FONT_SIZE, width // _FEWEST))
  below = legend(
    [class_names[c] for c in seen], [colors[c] for c in seen], width, font_size
  )
  shape = height + below.shape[0], below.shape[1], 3
  sheet = np.full(shape, _PAPER, np.uint8)
  sheet[:height, :width], sheet[height:] = picture, below
  return sheet
