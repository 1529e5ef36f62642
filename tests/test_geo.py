"""Rasters with a place on earth, and labels of the same place."""

import json
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from deeplab_jax import checkpoints, predict, remote
from deeplab_jax.data import bands
from deeplab_jax.data.builders import (
  channel_masks,
  masks,
)
from deeplab_jax.inference import Segmenter
from deeplab_jax.predict import geo, sources
from tests import rasters
from tests.random_variables import random_variables
from tests.tiny_segmenter import COLORS, NAMES, tiny_model

rasterio = rasters.rasterio
pytestmark = pytest.mark.usefixtures("tiny_backbone")

_TIFFS = {
  "strips": {},
  "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
  "planes": {"interleave": "band", "compress": "lzw"},
  "deflate": {"interleave": "pixel", "compress": "deflate", "predictor": 2},
  "big": {"bigtiff": "yes", "photometric": "rgb"},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("kind", _TIFFS)
def test_tiffs_of_any_kind_are_read_as_they_are(tmp_path, dtype, kind):
  for channels in (1, 3, 4, 13):
    pixels = rasters.pixels(40, 56, dtype, channels)
    options = dict(_TIFFS[kind])
    if channels < 3:
      options.pop("photometric", None)
    if dtype == "float32":
      options.pop("predictor", None)
    file = rasters.write(tmp_path / "a.tif", pixels, nodata=0, **options)
    found = bands.decode(file.read_bytes(), channels)
    assert found.pixels.dtype == dtype
    np.testing.assert_array_equal(found.pixels, pixels)
    unknown = (pixels == 0).all(-1)
    assert (found.unknown is None) == (not unknown.any())


def test_pages_are_channels_where_asked_for(tmp_path):
  file = tmp_path / "pages.tif"
  pixels = rasters.pixels(20, 30, "uint16", 12)
  pages = [PIL.Image.fromarray(pixels[..., i]) for i in range(12)]
  pages[0].save(file, save_all=True, append_images=pages[1:])
  found = bands.decode(file.read_bytes(), 12)
  assert found.remark == "12 pages, read as 12 channels"
  np.testing.assert_array_equal(found.pixels, pixels)
  first = bands.decode(file.read_bytes(), 1)
  np.testing.assert_array_equal(first.pixels, pixels[..., :1])
  with pytest.raises(ValueError, match="got 1 in each of 12 pages"):
    bands.decode(file.read_bytes(), 5)


def test_labels_keep_the_place_and_windows_change_nothing(tmp_path):
  pixels = rasters.pixels(1100, 300)
  pixels[40:60, 30:90] = 0
  pixels[700, 200, 1] = 0  # of one band alone
  source = rasters.write(tmp_path / "scene.tif", pixels, nodata=0)
  segmenter = rasters.segmenter(max_pixels=129 * 129, tile=129)
  out = tmp_path / "out"
  (job,) = predict.find_jobs([source], out)
  kinds = ("labels", "overlays", "probabilities", "uncertainty")
  assert not predict.predict_files(segmenter, [job], out, kinds)
  wanted = segmenter.outputs(pixels, "labels", "probabilities")
  unknown = (pixels == 0).all(-1)
  assert unknown.sum() == 20 * 60
  with rasterio.open(out / "labels/scene.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == rasters.PLACE
    assert labels.shape == (1100, 300) and labels.nodata == 255
    found = labels.read(1)
    assert labels.colormap(1)[1] == (*COLORS[1], 255)
    assert json.loads(labels.tags()["class_names"]) == list(NAMES)
  assert len(np.unique(found)) > 2
  np.testing.assert_array_equal(found, np.where(unknown, 255, wanted["labels"]))
  with rasterio.open(out / "probabilities/scene.tif") as raster:
    assert raster.count == 3 and np.isnan(raster.nodata)
    shares = np.moveaxis(raster.read(), 0, 2)
  np.testing.assert_allclose(
    shares[~unknown], wanted["probabilities"][~unknown], atol=1e-6
  )
  assert np.isnan(shares[unknown]).all()
  assert not (out / "overlays").exists()  # it is larger than a window

  whole = rasters.segmenter()
  assert not predict.predict_files(whole, [job], out, polygons="gpkg")
  assert (out / "overlays/scene.png").exists()
  with rasterio.open(out / "labels/scene.tif") as labels:
    one = labels.read(1)
  np.testing.assert_array_equal(one, np.where(unknown, 255, whole(pixels)))
  _check_polygons(tmp_path, out, one)
  again = predict.predict_files(whole, [job], out, polygons="geojson")
  assert not again
  content = json.loads((out / "polygons/scene.geojson").read_text())
  lon, lat = np.array(content["features"][0]["geometry"]["coordinates"][0]).T
  assert (np.abs(lon - 13.73) < 0.1).all() and (np.abs(lat - 45.15) < 0.1).all()


def _check_polygons(tmp_path, out, labels):
  """Every region once: drawn again, the polygons are the labels."""
  from rasterio import features

  database = sqlite3.connect(out / "polygons/scene.gpkg")
  rows = database.execute("SELECT geom, label, class FROM labels").fetchall()
  system = database.execute("SELECT srs_id FROM gpkg_contents").fetchall()
  database.close()
  assert system == [(32633,)]
  assert {(label, name) for _, label, name in rows} == {
    (int(v), NAMES[v]) for v in np.unique(labels) if v != 255
  }
  shapes = [(_geometry(blob), label) for blob, label, _ in rows]
  drawn = features.rasterize(
    shapes,
    labels.shape,
    fill=255,
    transform=rasters.PLACE["transform"],
    dtype="uint8",
  )
  np.testing.assert_array_equal(drawn, labels)


def _geometry(blob):
  assert blob[:4] == b"GP\0\x01"
  at, rings = 8 + 9, []
  for _ in range(int.from_bytes(blob[13:17], "little")):
    count = int.from_bytes(blob[at : at + 4], "little")
    points = np.frombuffer(blob, "<f8", 2 * count, at + 4).reshape(-1, 2)
    rings.append(points.tolist())
    at += 4 + 16 * count
  return {"type": "Polygon", "coordinates": rings}


def test_rasters_of_another_kind_are_refused_by_name(tmp_path):
  segmenter = rasters.segmenter()
  out = tmp_path / "out"
  three = rasters.write(
    tmp_path / "three.tif", rasters.pixels(30, 40, channels=3)
  )
  signed = rasters.write(
    tmp_path / "signed.tif", rasters.pixels(30, 40, "int16")
  )
  jobs = predict.find_jobs([three, signed], out)
  failures = predict.predict_files(segmenter, jobs, out)
  assert [f.source for f in failures] == [three, signed]
  for failure, found in zip(
    failures, ("3 bands of uint16", "4 bands of int16")
  ):
    assert failure.reason == (
      "must have 4 bands of uint16, as what the model was trained on, got "
      + found
    )
  assert not list(out.rglob("*.tif"))


def test_the_command_labels_rasters(tmp_path, capsys):
  segmenter = rasters.segmenter()
  model = tmp_path / "model"
  facts = {"class_names": NAMES, "colors": COLORS}
  variables = random_variables(
    segmenter.model, np.zeros((1, 33, 33, 4), np.float32)
  )
  checkpoints.save_model(model, segmenter.model, variables, dataset=facts)
  rasters.write(tmp_path / "in/a.tif", rasters.pixels(50, 60))
  (tmp_path / "in/b.npy").write_bytes(bands.encode(rasters.pixels(50, 60)))
  command = [str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
  assert predict.main([*command, "--polygons", "gpkg"]) == 0
  assert "1 pictures have no place on earth" in capsys.readouterr().err
  found = {
    p.relative_to(tmp_path / "out").as_posix()
    for p in (tmp_path / "out").rglob("*.*")
  }
  assert found == {
    "labels/a.tif",
    "labels/b.png",
    "overlays/a.png",
    "overlays/b.png",
    "polygons/a.gpkg",
  }
  pack = shutil.make_archive(tmp_path / "shard", "tar", tmp_path, "in")
  command = [str(model), pack, "--out", str(tmp_path / "packed")]
  assert predict.main(command) == 0
  wanted = segmenter(rasters.pixels(50, 60))
  for place in ("out/labels/a.tif", "packed/labels/shard/in/a.tif"):
    with rasterio.open(tmp_path / place) as labels:
      assert {"crs": labels.crs, "transform": labels.transform} == rasters.PLACE
      np.testing.assert_array_equal(labels.read(1), wanted)
  assert (tmp_path / "packed/labels/shard/in/b.png").exists()


def test_classes_that_overlap_have_a_band_each(tmp_path):
  pixels = rasters.pixels(50, 60)
  pixels[:9] = 0
  source = rasters.write(tmp_path / "a.tif", pixels, nodata=0)
  segmenter = rasters.segmenter(thresholds=(0.3, 0.33, 0.36))
  out = tmp_path / "out"
  (job,) = predict.find_jobs([source], out)
  assert not predict.predict_files(segmenter, [job], out)
  wanted = segmenter(pixels)
  assert wanted.shape == (50, 60, 3) and len(np.unique(wanted)) == 2
  with rasterio.open(out / "labels/a.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == rasters.PLACE
    assert labels.descriptions == NAMES and labels.nodata == 255
    found = np.moveaxis(labels.read(), 0, 2)
  assert (found[:9] == 255).all()
  np.testing.assert_array_equal(found[9:], wanted[9:])
  assert (out / "overlays/a.png").exists()


def test_where_the_place_of_rasters_is_lost_is_said():
  address = remote.as_path("gs://bucket/a.TIF")
  shard = remote.as_path("gs://bucket/shard.tar")
  members = [
    sources.Member(shard, name, 512, 9) for name in ("b.tiff", "c.png")
  ]
  (line,) = predict.reading.remarks([address, *members])
  assert "place on earth, if they have one, is not kept (copy them" in line
  assert line.endswith(
    "2 pictures, gs://bucket/a.TIF, gs://bucket/shard.tar/b.tiff"
  )


def test_a_network_for_rgb_reads_rasters_as_pictures(tmp_path):
  segmenter = Segmenter(
    model := tiny_model(),
    random_variables(model, np.zeros((1, 33, 33, 3), np.float32)),
    class_names=NAMES,
    colors=COLORS,
  )
  rgb = (rasters.pixels(50, 60, "uint16", 3) >> 4).astype(np.uint8)
  index = rgb[..., :1] // 8
  deep = rgb[..., :3].astype(np.uint16) * 256 + 7
  grey = rgb[..., :1]
  kinds = {"rgb": rgb, "index": index, "deep": deep, "grey": grey}
  for name, pixels in kinds.items():
    options = {"photometric": "rgb"} if pixels.shape[2] == 3 else {}
    source = rasters.write(tmp_path / f"{name}.tif", pixels, **options)
    if name == "index":
      with rasterio.open(source, "r+") as raster:
        table = {i: (7 * i % 256, 255 - i, 3, 255) for i in range(256)}
        raster.write_colormap(1, table)
    geo.label(segmenter, source, {"labels": tmp_path / "labels.tif"})
    wanted = segmenter(predict.read_image(source))
    with rasterio.open(tmp_path / "labels.tif") as labels:
      np.testing.assert_array_equal(labels.read(1), wanted, name)


def test_a_fourth_band_called_transparency_is_a_channel(tmp_path):
  pixels = (rasters.pixels(30, 40) >> 4).astype(np.uint8)
  pixels[:5, :, 3] = 0
  source = rasters.write(tmp_path / "a.tif", pixels)
  with rasterio.open(source) as raster:
    assert raster.colorinterp[3].name == "alpha"
  model = tiny_model(channels=4)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  segmenter = Segmenter(model, variables, class_names=NAMES, colors=COLORS)
  geo.label(segmenter, source, {"labels": tmp_path / "labels.tif"})
  with rasterio.open(tmp_path / "labels.tif") as labels:
    np.testing.assert_array_equal(labels.read(1), segmenter(pixels))


def test_a_float_raster_has_no_data_where_it_is_no_number(tmp_path):
  pixels = rasters.pixels(30, 40, "float32")
  pixels[2:5, 3:9] = np.nan
  source = rasters.write(tmp_path / "a.tif", pixels)
  segmenter = rasters.segmenter("float32")
  out = tmp_path / "labels.tif"
  geo.label(segmenter, source, {"labels": out})
  with rasterio.open(out) as labels:
    unknown = labels.read(1) == 255
  np.testing.assert_array_equal(unknown, np.isnan(pixels).all(-1))


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_numbers_are_as_stored_whether_0_is_black_or_white(
  tmp_path, photometric
):
  for bits in (1, 2, 4, 8):
    stored = (np.arange(35).reshape(5, 7, 1) % 2**bits).astype(np.uint8)
    path = rasters.write(
      *(tmp_path / f"{bits}.tif", stored), photometric=photometric, nbits=bits
    )
    encoded = path.read_bytes()
    mask = masks.decode("a", encoded)
    np.testing.assert_array_equal(mask.pixels, stored[..., 0])
    planes = channel_masks.decode_channels("a", encoded, None)
    np.testing.assert_array_equal(planes, stored)
    if bits < 8:  # what is looked at is turned around with the numbers
      assert mask.palette[0][0] == 255 * (photometric == "miniswhite")
  picture = bands.decode(encoded, 1)
  np.testing.assert_array_equal(picture.pixels, stored)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_raster(tmp_path):
  """Of 20 000 x 20 000 pixels of four bands of 16 bits, 3.2 GB."""
  peaks = {}
  for side in (2500, 20_000):
    source = tmp_path / f"{side}.tif"
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 4}
    profile |= {"dtype": "uint16", "tiled": True, "compress": "lzw"}
    with rasterio.open(source, "w", **profile, **rasters.PLACE) as raster:
      rows = np.resize(rasters.pixels(1000, 1000), (1000, side, 4))
      for top in range(0, side, 1000):
        window = (top, min(top + 1000, side)), (0, side)
        part = np.moveaxis(rows[: window[0][1] - top], 2, 0)
        raster.write(part, window=window)
    command = [sys.executable, "-m", "tests.programs.label_raster", source]
    done = subprocess.run(
      [*command, tmp_path / "labels.tif"], check=True, capture_output=True
    )
    peaks[side] = int(done.stdout)
    source.unlink()
  print({side: f"{peak / 1e9:.2f} GB" for side, peak in peaks.items()})
  assert peaks[20_000] < peaks[2500] + 400e6


def test_deep_colours_in_planes_are_read_right(tmp_path):
  pixels = rasters.pixels(40, 48, "uint16", 3) * 20
  options = {"photometric": "rgb", "interleave": "band"}
  file = rasters.write(tmp_path / "a.tif", pixels, **options)
  found = predict.read_image(file).astype(int)
  assert np.abs(found - (pixels >> 8)).max() <= 1  # as OpenCV rounds them


def test_control_points_are_kept(tmp_path):
  points = [
    rasterio.control.GroundControlPoint(row, column, 4e5 + column, 5e6 - row)
    for row, column in ((0, 0), (0, 48), (40, 0))
  ]
  options = {"gcps": points, "transform": None}
  source = rasters.write(tmp_path / "a.tif", rasters.pixels(40, 48), **options)
  out = tmp_path / "out"
  jobs = predict.find_jobs([source], out)
  failures = predict.predict_files(
    rasters.segmenter(), jobs, out, polygons="gpkg"
  )
  assert "control points alone" in failures[0].reason
  with rasterio.open(out / "labels/a.tif") as labels:
    kept, crs = labels.gcps
  assert crs == rasters.PLACE["crs"] and [(p.x, p.y) for p in kept] == [
    (p.x, p.y) for p in points
  ]
