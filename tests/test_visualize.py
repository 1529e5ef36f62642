"""Palettes, label files and pictures, read back and checked by value."""

import numpy as np
import pytest
from PIL import Image

from deeplab_jax import visualize

COLORS = ((0, 0, 0), (200, 30, 40), (10, 220, 60))
NAMES = ("ground", "tree", "a rather long class name")
IGNORE_COLOR = (224, 224, 192)


def test_voc_colormap_has_published_colors():
  colormap = visualize.voc_colormap(256)
  published = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: IGNORE_COLOR,
  }
  for number, color in published.items():
    assert tuple(colormap[number]) == color
  assert len(np.unique(colormap, axis=0)) == 256


def test_voc_colormap_equals_palette_of_voc_files(shared):
  folder = shared / "data/voc2012-sample/VOCdevkit/VOC2012/SegmentationClass"
  with Image.open(folder / "2007_000033.png") as picture:
    stored = np.reshape(picture.getpalette(), (256, 3))
  np.testing.assert_array_equal(visualize.voc_colormap(256), stored)


def test_label_png_keeps_numbers_and_palette(tmp_path):
  labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
  visualize.write_label_png(tmp_path / "a.png", labels, COLORS)
  with Image.open(tmp_path / "a.png") as picture:
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), labels)
    painted = np.asarray(picture.convert("RGB"))
  assert tuple(painted[0, 1]) == COLORS[1]
  assert tuple(painted[1, 0]) == IGNORE_COLOR
  np.testing.assert_array_equal(painted, visualize.colorize(labels, COLORS))


def test_label_png_of_many_classes_has_16_bits(tmp_path):
  labels = np.array([[0, 300], [65535, 2]], np.uint16)
  visualize.write_label_png(tmp_path / "a.png", labels, COLORS)
  with Image.open(tmp_path / "a.png") as picture:
    np.testing.assert_array_equal(np.asarray(picture), labels)


def test_label_png_refuses_other_types():
  with pytest.raises(ValueError, match="uint8 or uint16, got int64"):
    visualize.label_picture(np.zeros((2, 2), np.int64), COLORS)


def test_overlay_mixes_by_opacity():
  image = np.full((1, 2, 3), 100, np.uint8)
  labels = np.array([[0, 1]], np.uint8)
  mixed = visualize.overlay(image, labels, COLORS, opacity=0.25)
  assert mixed[0, 0].tolist() == [75, 75, 75]
  assert mixed[0, 1].tolist() == [125, 82, 85]


def test_overlay_takes_more_than_256_classes():
  colors = [(i % 256, i // 256, 0) for i in range(300)]
  labels = np.array([[299, 7]], np.uint16)
  image = np.zeros((1, 2, 3), np.uint8)
  painted = visualize.overlay(image, labels, colors, opacity=1.0)
  assert painted.tolist() == [[[43, 1, 0], [7, 0, 0]]]


def test_error_map_marks_wrong_pixels_only():
  labels = np.array([[0, 1, 255]], np.uint8)
  right, wrong, unjudged = visualize.error_map(labels, np.uint8([[0, 2, 2]]))[0]
  assert wrong[0] > 200 and wrong[1] < 60
  assert right[1] > 200 and unjudged.min() > 200


def test_picture_grid_shows_every_part():
  image = np.full((40, 60, 3), 77, np.uint8)
  labels = np.zeros((40, 60), np.uint8)
  labels[:, 30:] = 1
  wrong = np.full_like(labels, 1)
  grid = visualize.picture_grid(
    [image, image], [labels, labels], [labels, wrong], COLORS, NAMES
  )
  cell = grid.shape[1] // 4
  row = grid[20:].shape[0] // 2
  middle = grid[60]  # a line of the first row's cells
  assert middle[cell // 2].tolist() == [77, 77, 77]
  assert middle[cell + cell * 3 // 4].tolist() == list(COLORS[1])
  reds = (grid == (214, 39, 40)).all(-1)
  assert not reds[:200].any() and reds[row:].any()
  patches = grid[-30:].reshape(-1, 3).tolist()
  assert list(COLORS[1]) in patches and list(COLORS[2]) not in patches


def test_picture_grid_takes_any_sizes_and_all_ignored():
  images = [np.zeros((h, w, 3), np.uint8) for h, w in ((1, 1), (3, 700))]
  labels = [np.full(image.shape[:2], 255, np.uint8) for image in images]
  grid = visualize.picture_grid(images, labels, labels, COLORS, NAMES)
  assert grid.dtype == np.uint8 and grid.shape[2] == 3


def test_picture_grid_refuses_unequal_lists():
  with pytest.raises(ValueError, match="equally many, at least one; got 0"):
    visualize.picture_grid([], [], [], COLORS, NAMES)


def test_legend_wraps_to_width():
  narrow = visualize.legend(NAMES, COLORS, 220)
  wide = visualize.legend(NAMES, COLORS, 900)
  assert narrow.shape[1] == 220 and narrow.shape[0] > wide.shape[0]


def test_legend_shortens_a_name_of_any_length():
  legend = visualize.legend(["x" * 5000], COLORS, 220)
  assert legend.shape[1] < 500


@pytest.mark.parametrize("size", [(5, 7), (60, 90), (900, 200), (1400, 1800)])
def test_a_picture_keeps_its_pixels_above_the_classes_that_occur(size):
  rng = np.random.default_rng(0)
  picture = rng.integers(1, 250, (*size, 3), np.uint8)
  labels = np.zeros(size, np.uint8)
  labels[1:], labels[0, 0] = 2, 255
  sheet = visualize.with_legend(picture, labels, COLORS, NAMES)
  height, width = size
  np.testing.assert_array_equal(sheet[:height, :width], picture)
  assert (sheet[:height, width:] == 255).all()
  below = sheet[height:].reshape(-1, 3).tolist()
  assert [list(color) in below for color in COLORS] == [True, False, True]


def test_letters_below_a_picture_grow_with_it():
  heights = []
  for side in (300, 600, 1200, 2400):
    picture = np.zeros((side, side, 3), np.uint8)
    labels = np.zeros((side, side), np.uint8)
    sheet = visualize.with_legend(picture, labels, COLORS, NAMES)
    assert sheet.shape[1] == side
    heights.append(sheet.shape[0] - side)
  assert heights[0] == heights[1] < heights[2] < heights[3]
  assert heights[3] < 0.06 * 2400


def _bar_widths(figure):
  return [patch.get_width() for patch in figure.axes[0].patches]


def test_iou_figure_draws_both_runs():
  iou = {"a": 0.5, "b": None}
  figure = visualize.iou_figure(iou, {"a": 0.25, "b": 1.0}, ("x", "y"))
  assert _bar_widths(figure) == [50, 0, 25, 100]
  texts = [text.get_text() for text in figure.axes[0].texts]
  assert texts == ["50.0", "absent", "25.0", "100.0"]


def test_curves_show_loss_without_decay_its_mean_scores_and_rate():
  rows = [
    {"step": s, "train/loss": 3.0 + s % 2, "train/learning_rate": 0.1}
    | ({"train/weight_decay": 1.0} if s > 10 else {"train/loss": None})
    for s in range(1, 101)
  ]
  rows += [{"step": 50, "eval/miou": 0.25}, {"step": 100, "eval/miou": None}]
  figure = visualize.curves_figure({"_$x$": rows, "b": []}, "eval/miou", "mIoU")
  left, middle, right = figure.axes
  raw, mean = (line.get_xydata() for line in left.lines[:2])
  assert raw[0].tolist() == [11, 3] and raw[-1].tolist() == [100, 2]
  np.testing.assert_allclose(mean[0], [11, 3])
  np.testing.assert_allclose(mean[-1], [100, (2 + 3 + 2 + 3 + 2) / 5])
  assert middle.lines[0].get_xydata().tolist() == [[50, 25]]
  assert set(right.lines[0].get_ydata()) == {0.1}
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == [" _$x$", "b"]


@pytest.mark.parametrize(
  ("last", "scale"), [(1.0, "linear"), (0.1, "log"), (0.0, "linear")]
)
def test_losses_that_fall_far_have_a_log_scale(last, scale):
  rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": last}]
  figure = visualize.curves_figure({"a": rows}, "eval/miou", "mIoU")
  assert figure.axes[0].get_yscale() == scale
  assert not figure.legends


def test_confusion_figure_shows_row_shares():
  figure = visualize.confusion_figure(
    np.array([[9, 1], [0, 0]]), ("sky", "sea")
  )
  shown = figure.axes[0].images[0].get_array()
  np.testing.assert_allclose(shown[0], [0.9, 0.1])
  assert shown.mask[1].all()


def test_trimap_and_reliability_figures_draw_their_values():
  line = visualize.trimap_figure({"run": [0.2, 0.4]}).axes[0].lines[0]
  np.testing.assert_allclose(line.get_xydata(), [[1, 20], [2, 40]])
  curve = {
    "confidence": np.array([np.nan, 0.9]),
    "accuracy": np.array([np.nan, 0.7]),
    "pixels": np.array([0.0, 10.0]),
  }
  upper, lower = visualize.reliability_figure(curve).axes
  np.testing.assert_allclose(upper.lines[1].get_xydata()[1], [0.9, 0.7])
  assert [bar.get_height() for bar in lower.patches] == [0, 1]


def test_html_shows_text_as_it_is():
  page = visualize.html.page("<b>", "a & b", {"x < y": "<p>kept</p>"})
  assert "<h1>&lt;b&gt;</h1><p>a &amp; b</p>" in page
  assert "<h2>x &lt; y</h2><p>kept</p>" in page
  assert "rgb(1, 2, 3)" in visualize.html.legend({"sky": (1, 2, 3)})
