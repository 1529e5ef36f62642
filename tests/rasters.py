"""Rasters with a place on earth, for tests."""

import numpy as np
import pytest

from deeplab_jax.inference import Segmenter
from tests.random_variables import random_variables
from tests.tiny_segmenter import COLORS, NAMES, tiny_model

rasterio = pytest.importorskip(
  "rasterio", reason="SKIPPED FOR LACK OF RASTERIO: pip install '.[geo]'"
)

RANGE = ((0.0, 3000.0),) * 4

PLACE = {
  "crs": rasterio.crs.CRS.from_epsg(32633),
  "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5e6),
}


def write(path, pixels, nodata=None, **options):
  """A raster of (h, w, channels)."""
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width, count = pixels.shape
  profile = {"driver": "GTiff", "height": height, "width": width}
  profile |= {"count": count, "dtype": pixels.dtype, "nodata": nodata}
  with rasterio.open(path, "w", **(profile | PLACE | options)) as raster:
    raster.write(np.moveaxis(pixels, 2, 0))
  return path


def pixels(height, width, dtype="uint16", channels=4):
  rng = np.random.default_rng(0)
  coarse = rng.uniform(1, 3000, (height // 9 + 1, width // 9 + 1, channels))
  fine = coarse.repeat(9, 0).repeat(9, 1)[:height, :width]
  return fine.astype(dtype)


def segmenter(dtype="uint16", **options):
  model = tiny_model(channels=4, image_dtype=dtype, value_range=RANGE)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  facts = {"class_names": NAMES, "colors": COLORS}
  return Segmenter(model, variables, **(facts | options))
