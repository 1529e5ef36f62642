"""Which pictures are evaluated together, and that each counts once."""

import numpy as np
import pytest

from deeplab_jax.evaluate.batches import groups, plan
from deeplab_jax.inference.protocol import Protocol

_STRIDE = 16


def _sizes(count=60):
  random = np.random.default_rng(0)
  sizes = [tuple(size) for size in random.integers(1, 400, (count, 2)).tolist()]
  return [*sizes, (700, 90), (90, 900), (321, 321), (321, 321), (1, 1)]


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize(
  "protocol",
  [
    Protocol(),
    Protocol(least_crop=(257, 321), max_pixels=200 * 200, tile=129),
    Protocol(scales=(0.75, 1.0), max_pixels=300 * 300, tile=257),
  ],
)
def test_every_pixel_is_decided_once_by_one_process(
  protocol, shares, processes
):
  sizes = _sizes()
  found = groups(sizes, protocol, _STRIDE, lambda: shares)
  decided = [np.zeros(size, int) for size in sizes]
  owners = [set() for _ in sizes]
  for group in found:
    plans = [plan(group, 2, i, processes) for i in range(processes)]
    assert len({len(one) for one in plans}) == 1  # or they would wait
    for process, batches in enumerate(plans):
      for views in batches:
        assert views.canvas == group.canvas and len(views.rows) == 2
        for view in filter(None, views.rows):
          owners[view.index].add(process)
          top, left = view.rows[0], view.columns[0]
          rows = slice(top + view.decided_rows[0], top + view.decided_rows[1])
          columns = slice(
            left + view.decided_columns[0], left + view.decided_columns[1]
          )
          decided[view.index][rows, columns] += 1
          assert view.crop[0] <= group.canvas[0]
          assert view.crop[1] <= group.canvas[1]
          assert group.shared or view.crop == group.canvas
  assert all((counts == 1).all() for counts in decided)
  assert all(len(processes) == 1 for processes in owners)


@pytest.mark.parametrize("shares", [True, False])
def test_a_large_picture_does_not_enlarge_the_others(shares):
  sizes = [(375, 500), (500, 375), (333, 500)] * 10
  pixels = _pixels(groups(sizes, Protocol(), _STRIDE, lambda: shares))
  both = groups([*sizes, (1500, 2000)], Protocol(), _STRIDE, lambda: shares)
  assert _pixels(both) == pixels + 1505 * 2001


def test_pictures_of_one_crop_need_no_shared_canvas():
  def unasked():
    raise AssertionError("it does not matter whether they may share")

  (group,) = groups([(360, 480)] * 9, Protocol(), _STRIDE, unasked)
  assert group.canvas == (369, 481) and not group.shared


def test_the_official_crop_is_computed_as_it_is():
  protocol = Protocol(least_crop=(513, 513))
  found = groups([(375, 500), (500, 500), (600, 300)], protocol, 16, lambda: 1)
  assert [(g.canvas, g.shared) for g in found] == [
    ((609, 513), False),
    ((513, 513), False),
  ]


def _pixels(found):
  return sum(g.canvas[0] * g.canvas[1] * len(g.members) for g in found)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"scales": ()}, "scales must be positive multiples of 1/4"),
    ({"scales": (0.3,)}, "scales must be positive multiples of 1/4, got"),
    ({"least_crop": (0, 5)}, r"positive \(height, width\), got \(0, 5\)"),
    ({"tile": 1000}, "tile must be a multiple of 32 plus 1, got 1000"),
    ({"tile": 97, "scales": (0.25, 1.0)}, "multiple of 128 plus 1, got 97"),
    ({"max_pixels": 0}, "max_pixels must be positive"),
  ],
)
def test_protocol_refuses(fields, message):
  with pytest.raises(ValueError, match=message):
    Protocol(**fields)


@pytest.mark.parametrize(
  "scales, stride, crop",
  [
    ((1.0,), 8, (105, 201)),
    ((1.0,), 16, (113, 209)),
    ((1.0,), 32, (129, 225)),
    ((0.5, 1.0), 16, (129, 225)),
    ((0.75, 1.0), 16, (129, 257)),
    ((1.0, 2.0), 16, (113, 209)),
  ],
)
def test_crops_are_no_larger_than_strides_and_scales_need(scales, stride, crop):
  found = Protocol(scales=scales).crop((100, 200), stride)
  assert found == crop
  for scale in scales:
    assert all((side - 1) * scale % stride == 0 for side in found)
