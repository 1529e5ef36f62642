"""What rasters hide, by no-data, masks and transparencies, is never learnt."""

import numpy as np
import pytest

from deeplab_jax import doctor, predict
from deeplab_jax.data import bands
from deeplab_jax.data.source import open_dataset
from tests import folders, rasters

rasterio = rasters.rasterio
pytestmark = pytest.mark.usefixtures("tiny_backbone")


def test_what_a_raster_hides_is_ignored_in_training_as_in_predict(tmp_path):
  pixels = rasters.pixels(40, 48, "uint8", 4)
  pixels[..., 3] = 255
  pixels[:9] = 0
  rgba = rasters.write(
    tmp_path / "rgba.tif", pixels, photometric="rgb", alpha="yes"
  )
  deep = rasters.pixels(40, 48)
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
    masked = rasters.write(tmp_path / "masked.tif", deep)
    with rasterio.open(masked, "r+") as raster:
      raster.write_mask(np.arange(40)[:, None].repeat(48, 1) >= 9)
  least = float(np.finfo(np.float32).min)
  floats = deep.astype(np.float32)
  floats[:9] = least
  decimals = rasters.write(tmp_path / "decimals.tif", floats, nodata=least)
  text = b"-3.40282346638529e+38".ljust(len(repr(least)), b"\0")
  encoded = decimals.read_bytes()  # as older programs write it
  assert repr(least).encode() in encoded
  decimals.write_bytes(encoded.replace(repr(least).encode(), text))
  unknown = np.arange(40)[:, None].repeat(48, 1) < 9
  for file, channels in ((rgba, 3), (masked, 4), (decimals, 4)):
    found = bands.decode(file.read_bytes(), channels)
    np.testing.assert_array_equal(found.unknown, unknown)
    assert found.hidden == (9 * 48 if file != decimals else 0)
    with rasterio.open(file) as raster:
      part = slice(5, 20), slice(0, 48)
      found = bands.of_raster(raster, channels, *part)
    np.testing.assert_array_equal(found.unknown, unknown[5:20])
  assert bands.decode(rgba.read_bytes(), 4).unknown is None  # a channel


def test_what_rgb_pictures_and_masks_hide_is_said(tmp_path, capfd):
  root = tmp_path / "mine"
  for i in range(2):
    pixels = rasters.pixels(40, 48, "uint8", 3) + np.uint8(i)
    options = {"photometric": "rgb", "nodata": 0}
    rasters.write(root / f"images/{i}.tif", pixels, **options)
    labels = np.arange(40)[:, None, None].repeat(48, 1) // 24
    mask = rasters.write(root / f"masks/{i}.tif", labels.astype(np.uint8))
    inside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with inside, rasterio.open(mask, "r+") as raster:
      raster.write_mask(labels[..., 0] == 0)
  codes = {"unread-nodata", "transparent-mask"}
  open_dataset(folders.make_config(root).data)
  said = capfd.readouterr().err
  assert all(f"warning: {code}" in said for code in codes)
  found = doctor.examine(folders.make_config(root), overfit_steps=0).warnings
  assert codes <= {finding.code for finding in found}


@pytest.mark.parametrize("overlap", [False, True])
def test_what_files_beside_pictures_hide_is_said(tmp_path, capfd, overlap):
  root = tmp_path / "mine"
  for i in range(3):
    pixels = rasters.pixels(40, 48, "uint8") + np.uint8(i)
    image = rasters.write(root / f"images/{i}.tif", pixels)
    labels = np.arange(40)[:, None, None].repeat(48, 1) // 24
    rasters.write(root / f"masks/{i}.tif", labels.astype(np.uint8))
    if i == 0:
      outside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False)
      with outside, rasterio.open(image, "r+") as raster:
        raster.write_mask(labels[..., 0] == 0)
      assert (root / "images/0.tif.msk").exists()
    elif i == 1:
      beside = (
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>0</NoDataValue>"
      )
      (root / "images/1.tif.aux.xml").write_text(
        beside + "</PAMRasterBand></PAMDataset>"
      )
    else:
      (root / "images/2.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
  config = folders.make_config(root, channels=4)
  open_dataset(config.data, multilabel=overlap)
  said = capfd.readouterr().err
  assert "warning: nodata-beside" in said
  assert "0.tif.msk" in said and "1.tif.aux.xml" in said
  assert "2.tif.aux" not in said
  if overlap:
    return
  # Where rasters are cut into tiles, such files are read.
  config = folders.make_config(root, channels=4, tile=32)
  open_dataset(config.data)
  said = capfd.readouterr().err
  assert "nodata-beside" not in said


def test_a_transparency_that_is_not_last_is_no_channel_by_mistake(tmp_path):
  colours = rasterio.enums.ColorInterp
  first = (colours.red, colours.green, colours.blue)
  pixels = rasters.pixels(40, 48, "uint8", 5)
  amid, last = (
    rasters.write(tmp_path / name, pixels, photometric="rgb")
    for name in ("amid.tif", "last.tif")
  )
  for path, rest in (
    (amid, (colours.alpha, colours.undefined)),
    (last, (colours.undefined, colours.alpha)),
  ):
    with rasterio.open(path, "r+") as raster:
      raster.colorinterp = (*first, *rest)

  def by_raster(path, channels):
    with rasterio.open(path) as raster:
      return bands.of_raster(raster, channels)

  for path in (amid, last):
    for read in (by_raster, lambda p, c: bands.decode(p.read_bytes(), c)):
      np.testing.assert_array_equal(read(path, 5).pixels, pixels)
      if path == last:
        np.testing.assert_array_equal(read(path, 4).pixels, pixels[..., :4])
        continue
      with pytest.raises(ValueError, match="transparency as the last band"):
        read(path, 4)
  out = tmp_path / "out"
  jobs = predict.find_jobs([amid, last], out)
  (failure,) = predict.predict_files(rasters.segmenter("uint8"), jobs, out)
  assert failure.source == amid
  assert "transparency as the last band" in failure.reason
