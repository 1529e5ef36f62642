"""Which pictures of a split go through the network together.

Pictures are of many sizes, and each is evaluated at its own crop. Those that
share a canvas are put into batches, so that a split costs time by its pixels: a
large picture does not enlarge the others.
"""

import collections
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from deeplab_jax.data.segmentation import View, Views
from deeplab_jax.inference.protocol import Protocol, Window

Size = tuple[int, int]


class Group(NamedTuple):
  """Windows of pictures that are computed by one program.

  Attributes:
    canvas: height and width of the program's input.
    shared: whether crops are smaller than the canvas.
    members: picture's index and window, in order.
  """

  canvas: Size
  shared: bool
  members: list[tuple[int, Window]]


def groups(
  sizes: Sequence[Size],
  protocol: Protocol,
  crop_stride: int,
  may_share: Callable[[], bool],
) -> list[Group]:
  """Groups pictures by canvas, the largest canvas first.

  Args:
    sizes: heights and widths of the pictures.
    protocol: how each is evaluated.
    crop_stride: the model's.
    may_share: whether the model can be kept to a crop; asked if it matters.
  """
  members = [
    (index, window)
    for index, size in enumerate(sizes)
    for window in protocol.windows(size, crop_stride)
  ]
  crops = {window.crop for _, window in members}
  sharing = len(crops) > 1 and may_share()

  def canvas_of(window):
    fits = protocol.fits_a_canvas(window.crop, crop_stride)
    shares = sharing and fits and window.crop != protocol.least_crop
    return (window.canvas, True) if shares else (window.crop, False)

  by_canvas = collections.defaultdict(list)
  for index, window in members:
    by_canvas[canvas_of(window)].append((index, window))
  found = [_group(parts) for parts in by_canvas.values()]
  return sorted(found, key=lambda g: g.canvas[0] * g.canvas[1], reverse=True)


def _group(members: list[tuple[int, Window]]) -> Group:
  """On the smallest canvas that holds all crops."""
  crops = {window.crop for _, window in members}
  height, width = (max(sides) for sides in zip(*crops))
  return Group((height, width), len(crops) > 1, members)


def plan(
  group: Group, rows: int, process_index: int, process_count: int
) -> list[Views]:
  """One process's rows of all batches of a group.

  All windows of a picture go to one process, which can put it together again,
  whatever groups they are in. Whole pictures are dealt out in turn.

  Args:
    group: what is evaluated.
    rows: of a batch on each process.
    process_index: which process.
    process_count: all processes get as many batches.
  """
  shares = [[] for _ in range(process_count)]
  turns = itertools.count()
  for index, window in group.members:
    turn = next(turns) if window.is_whole else index
    shares[turn % process_count].append(_view(index, window))
  count = -(-max(map(len, shares)) // rows)
  own = shares[process_index]
  own = own + [None] * (count * rows - len(own))
  return [
    Views(group.canvas, tuple(own[start : start + rows]))
    for start in range(0, len(own), rows)
  ]


def _view(index: int, window: Window) -> View:
  (rows, columns), crop = window[:2], window.crop
  return View(
    index=index,
    rows=(rows.start, rows.start + crop[0]),
    columns=(columns.start, columns.start + crop[1]),
    decided_rows=(rows.first - rows.start, rows.end - rows.start),
    decided_columns=(
      columns.first - columns.start,
      columns.end - columns.start,
    ),
    crop=crop,
  )
