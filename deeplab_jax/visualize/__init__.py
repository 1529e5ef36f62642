"""Everything that is looked at: palettes, overlays, grids, plots, pages."""

from deeplab_jax.visualize import html
from deeplab_jax.visualize.colors import (
  classes_in,
  colorize,
  label_picture,
  overlay,
  palette,
  to_8_bits,
  viewable,
  voc_colormap,
  write_label_png,
)
from deeplab_jax.visualize.curves import curves_figure
from deeplab_jax.visualize.legends import legend, with_legend
from deeplab_jax.visualize.pictures import error_map, picture_grid
from deeplab_jax.visualize.plots import (
  confusion_figure,
  iou_figure,
  reliability_figure,
  trimap_figure,
  write_figure,
)

__all__ = [
  "classes_in",
  "colorize",
  "confusion_figure",
  "curves_figure",
  "error_map",
  "html",
  "iou_figure",
  "label_picture",
  "legend",
  "overlay",
  "palette",
  "picture_grid",
  "reliability_figure",
  "to_8_bits",
  "trimap_figure",
  "viewable",
  "voc_colormap",
  "with_legend",
  "write_figure",
  "write_label_png",
]
