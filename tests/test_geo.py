"""Rasters with a place on earth: labels of the same place, polygons, tiles."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from deeplab_jax import checkpoints, doctor, predict, prepare, remote, train
from deeplab_jax import config as config_lib
from deeplab_jax.data import bands
from deeplab_jax.data.builders import (
  channel_masks,
  folder_masks,
  mask_windows,
  masks,
)
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.source import open_dataset
from deeplab_jax.inference import Segmenter
from deeplab_jax.predict import geo, shares, sources
from tests.random_variables import random_variables
from tests.tiny_segmenter import COLORS, NAMES, tiny_model

rasterio = pytest.importorskip(
  "rasterio", reason="SKIPPED FOR LACK OF RASTERIO: pip install '.[geo]'"
)
pytestmark = pytest.mark.usefixtures("tiny_backbone")

_RANGE = ((0.0, 3000.0),) * 4
_PLACE = {
  "crs": rasterio.crs.CRS.from_epsg(32633),
  "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5e6),
}


def _write(path, pixels, nodata=None, **options):
  """A raster of (h, w, channels)."""
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width, count = pixels.shape
  profile = {"driver": "GTiff", "height": height, "width": width}
  profile |= {"count": count, "dtype": pixels.dtype, "nodata": nodata}
  with rasterio.open(path, "w", **(profile | _PLACE | options)) as raster:
    raster.write(np.moveaxis(pixels, 2, 0))
  return path


def _pixels(height, width, dtype="uint16", channels=4):
  rng = np.random.default_rng(0)
  coarse = rng.uniform(1, 3000, (height // 9 + 1, width // 9 + 1, channels))
  fine = coarse.repeat(9, 0).repeat(9, 1)[:height, :width]
  return fine.astype(dtype)


def _segmenter(dtype="uint16", **options):
  model = tiny_model(channels=4, image_dtype=dtype, value_range=_RANGE)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  facts = {"class_names": NAMES, "colors": COLORS}
  return Segmenter(model, variables, **(facts | options))


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
    pixels = _pixels(40, 56, dtype, channels)
    options = dict(_TIFFS[kind])
    if channels < 3:
      options.pop("photometric", None)
    if dtype == "float32":
      options.pop("predictor", None)
    file = _write(tmp_path / "a.tif", pixels, nodata=0, **options)
    found = bands.decode(file.read_bytes(), channels)
    assert found.pixels.dtype == dtype
    np.testing.assert_array_equal(found.pixels, pixels)
    unknown = (pixels == 0).all(-1)
    assert (found.unknown is None) == (not unknown.any())


def test_pages_are_channels_where_asked_for(tmp_path):
  file = tmp_path / "pages.tif"
  pixels = _pixels(20, 30, "uint16", 12)
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
  pixels = _pixels(1100, 300)
  pixels[40:60, 30:90] = 0
  pixels[700, 200, 1] = 0  # of one band alone
  source = _write(tmp_path / "scene.tif", pixels, nodata=0)
  segmenter = _segmenter(max_pixels=129 * 129, tile=129)
  out = tmp_path / "out"
  (job,) = predict.find_jobs([source], out)
  kinds = ("labels", "overlays", "probabilities", "uncertainty")
  assert not predict.predict_files(segmenter, [job], out, kinds)
  wanted = segmenter.outputs(pixels, "labels", "probabilities")
  unknown = (pixels == 0).all(-1)
  assert unknown.sum() == 20 * 60
  with rasterio.open(out / "labels/scene.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == _PLACE
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

  whole = _segmenter()
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
    transform=_PLACE["transform"],
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
  segmenter = _segmenter()
  out = tmp_path / "out"
  three = _write(tmp_path / "three.tif", _pixels(30, 40, channels=3))
  signed = _write(tmp_path / "signed.tif", _pixels(30, 40, "int16"))
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
  segmenter = _segmenter()
  model = tmp_path / "model"
  facts = {"class_names": NAMES, "colors": COLORS}
  variables = random_variables(
    segmenter.model, np.zeros((1, 33, 33, 4), np.float32)
  )
  checkpoints.save_model(model, segmenter.model, variables, dataset=facts)
  _write(tmp_path / "in/a.tif", _pixels(50, 60))
  (tmp_path / "in/b.npy").write_bytes(bands.encode(_pixels(50, 60)))
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
  wanted = segmenter(_pixels(50, 60))
  for place in ("out/labels/a.tif", "packed/labels/shard/in/a.tif"):
    with rasterio.open(tmp_path / place) as labels:
      assert {"crs": labels.crs, "transform": labels.transform} == _PLACE
      np.testing.assert_array_equal(labels.read(1), wanted)
  assert (tmp_path / "packed/labels/shard/in/b.png").exists()


def test_classes_that_overlap_have_a_band_each(tmp_path):
  pixels = _pixels(50, 60)
  pixels[:9] = 0
  source = _write(tmp_path / "a.tif", pixels, nodata=0)
  segmenter = _segmenter(thresholds=(0.3, 0.33, 0.36))
  out = tmp_path / "out"
  (job,) = predict.find_jobs([source], out)
  assert not predict.predict_files(segmenter, [job], out)
  wanted = segmenter(pixels)
  assert wanted.shape == (50, 60, 3) and len(np.unique(wanted)) == 2
  with rasterio.open(out / "labels/a.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == _PLACE
    assert labels.descriptions == NAMES and labels.nodata == 255
    found = np.moveaxis(labels.read(), 0, 2)
  assert (found[:9] == 255).all()
  np.testing.assert_array_equal(found[9:], wanted[9:])
  assert (out / "overlays/a.png").exists()
  for given in ((), (job,)):  # a picture of that name is yet to be labelled
    left = shares.undone([job], out, ("labels", "overlays"), NAMES, given)
    assert left == ([] if given else [job])


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
  rgb = (_pixels(50, 60, "uint16", 3) >> 4).astype(np.uint8)
  index = rgb[..., :1] // 8
  deep = rgb[..., :3].astype(np.uint16) * 256 + 7
  grey = rgb[..., :1]
  rasters = {"rgb": rgb, "index": index, "deep": deep, "grey": grey}
  for name, pixels in rasters.items():
    options = {"photometric": "rgb"} if pixels.shape[2] == 3 else {}
    source = _write(tmp_path / f"{name}.tif", pixels, **options)
    if name == "index":
      with rasterio.open(source, "r+") as raster:
        table = {i: (7 * i % 256, 255 - i, 3, 255) for i in range(256)}
        raster.write_colormap(1, table)
    geo.label(segmenter, source, {"labels": tmp_path / "labels.tif"})
    wanted = segmenter(predict.read_image(source))
    with rasterio.open(tmp_path / "labels.tif") as labels:
      np.testing.assert_array_equal(labels.read(1), wanted, name)


def test_a_fourth_band_called_transparency_is_a_channel(tmp_path):
  pixels = (_pixels(30, 40) >> 4).astype(np.uint8)
  pixels[:5, :, 3] = 0
  source = _write(tmp_path / "a.tif", pixels)
  with rasterio.open(source) as raster:
    assert raster.colorinterp[3].name == "alpha"
  model = tiny_model(channels=4)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  segmenter = Segmenter(model, variables, class_names=NAMES, colors=COLORS)
  geo.label(segmenter, source, {"labels": tmp_path / "labels.tif"})
  with rasterio.open(tmp_path / "labels.tif") as labels:
    np.testing.assert_array_equal(labels.read(1), segmenter(pixels))


def test_a_float_raster_has_no_data_where_it_is_no_number(tmp_path):
  pixels = _pixels(30, 40, "float32")
  pixels[2:5, 3:9] = np.nan
  source = _write(tmp_path / "a.tif", pixels)
  segmenter = _segmenter("float32")
  out = tmp_path / "labels.tif"
  geo.label(segmenter, source, {"labels": out})
  with rasterio.open(out) as labels:
    unknown = labels.read(1) == 255
  np.testing.assert_array_equal(unknown, np.isnan(pixels).all(-1))


def _config(root, **fields):
  config = config_lib.base_config()
  config.update(batch_size=2, steps=3)
  config.model.update(backbone="tiny", atrous_rates=(), decoder=())
  config.data.update(name="folder", path=str(root), crop_size=(33, 33))
  config.data.update(data_dir=str(root.parent / "built"), **fields)
  return config


def _scene(seed, height, width):
  """Four bands, of which the last alone tells the labels 0 and 1."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 2, (height // 16 + 1, width // 16 + 1))
  labels = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
  pixels = rng.integers(200, 3000, (height, width, 4))
  pixels[..., 3] = 400 + 1500 * labels + rng.integers(0, 400, labels.shape)
  return pixels.astype(np.uint16), labels.astype(np.uint8)


def _scenes(root, count, height, width):
  """GeoTIFFs and their masks; the first 20 rows of each have no data."""
  for i in range(count):
    pixels, labels = _scene(i, height, width)
    pixels[:20] = 0
    _write(root / f"images/s{i}.tif", pixels, nodata=0)
    mask = labels[..., None].copy()
    mask[-5:] = 9
    _write(root / f"masks/s{i}.tif", mask, nodata=9)
  return root


def test_rasters_are_cut_into_tiles_that_stay_where_they_are(
  tmp_path, monkeypatch
):
  root = _scenes(tmp_path / "mine", 3, 150, 100)
  # Neither training nor the doctor reads a whole mask.
  monkeypatch.setattr(masks, "decode", None)
  config = _config(root, channels=4, tile=64, tile_overlap=16, tile_nodata=0.25)
  dataset = open_dataset(config.data)
  assert dataset.info.image_dtype == "uint16"
  (low, high) = dataset.info.value_range[3]
  assert 400 <= low < 450 and 2250 < high < 2300, "no-data would be 0"
  assert len(dataset.train.encoded(0)["image"]) < 400, "not its pixels"
  # Rows 0 (20 of 64 unknown: left out), 48, 86; columns 0, 36.
  places = {"48,0", "48,36", "86,0", "86,36"}
  seen = {}
  for source in (dataset.train, dataset.eval):
    for i in range(len(source)):
      example = source[i]
      name, _, place = example["name"].partition("@")
      seen.setdefault(name, set()).add(place)
      pixels, labels = _scene(int(name[1:]), 150, 100)
      top, left = map(int, place.split(","))
      part = slice(top, top + 64), slice(left, left + 64)
      np.testing.assert_array_equal(example["image"], pixels[part])
      labels[-5:] = 255
      np.testing.assert_array_equal(example["label"], labels[part])
  assert seen == {f"s{i}": places for i in range(3)}
  checkup = doctor.examine(config, overfit_steps=0)
  assert not checkup.errors and checkup.survey.size_of("val") == 6
  with pytest.raises(ValueError, match=r"set data\.channels"):
    open_dataset(_config(root, tile=64).data)
  with pytest.raises(ValueError, match="must have 3 channels, got 4 bands of"):
    open_dataset(_config(root, channels=3, tile=64).data)
  arguments = ["folder", "--manual_dir", str(root), "--channels=4"]
  arguments += ["--tile=70", "--data_dir", str(tmp_path / "other")]
  assert prepare.main(arguments) == 0
  (root / "images/s0.tif").unlink()
  with pytest.raises(ValueError, match=r"s0.tif, of which the data set has"):
    for source in (dataset.train, dataset.eval):
      for i in range(len(source)):
        source[i]


def _masks(root):
  """Masks of each kind that is read by parts, and one that is not."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 5, (120, 9, 1)).repeat(7, 0).repeat(21, 1)
  numbers = coarse.astype(np.uint8)
  grey = np.repeat(numbers * 9, 3, 2)
  colours = grey.copy()
  colours[600:, 50:] = 7, 0, 200  # only the last strip has any
  palette = {i: (40 * i, 9, 200) for i in range(256)}
  holes = numbers.astype(np.float32)
  holes[300:340, 5:9] = np.nan
  options = {"tiled": True, "blockxsize": 64, "blockysize": 64}
  yield "numbers", _write(root / "numbers.tif", numbers, **options)
  yield "declares", _write(root / "declares.tif", numbers, nodata=3)
  yield "colours", _write(root / "colours.tif", colours)
  yield "grey", _write(root / "grey.tif", grey, compress="deflate")
  yield "wide", _write(root / "wide.tif", numbers * np.int16(-300), nodata=-600)
  yield "floats", _write(root / "floats.tif", holes, nodata=np.nan)
  noise = rng.integers(0, 255, numbers.shape, np.uint8)
  yield "noise", _write(root / "noise.tif", noise)
  indexed = _write(root / "indexed.tif", numbers, photometric="palette")
  with rasterio.open(indexed, "r+") as raster:
    raster.write_colormap(1, palette)
  yield "indexed", indexed
  for dtype in ("uint8", "int8", "uint16", "int32", "float32"):
    for photometric in ("miniswhite", "minisblack"):  # 0 is white, or black
      name, stored = f"{photometric}_{dtype}.tif", numbers.astype(dtype)
      yield name, _write(root / name, stored, photometric=photometric)
  PIL.Image.fromarray(numbers[..., 0]).save(root / "plain.png")
  yield "plain", root / "plain.png"


def test_masks_of_rasters_are_read_by_parts(tmp_path, monkeypatch):
  kinds = dict(_masks(tmp_path))
  tree = Tree.open(tmp_path)
  names = {kind: path.name for kind, path in kinds.items()}
  found = folder_masks.scan(tree, list(names.values()), None)
  monkeypatch.setattr(mask_windows, "_STRIP", 256 * 189)
  through = folder_masks.scan(tree, list(names.values()), None, True)
  place = slice(590, 640), slice(30, 90)
  for kind, name in names.items():
    for field in ("file", "counts", "declares", "solid", "blending"):
      one, other = getattr(found[name], field), getattr(through[name], field)
      assert one == other, (kind, field)
    one, other = found[name].mask, through[name].mask
    assert (one.is_colour, one.is_rgb) == (other.is_colour, other.is_rgb)
    assert one.palette == other.palette
    with mask_windows.opened(tree, name, None) as windows:
      assert (windows is None) == (kind == "plain")
      whole = masks.decode(name, tree.read(name))
      if kind.startswith("minis"):
        stored = masks.decode("numbers", tree.read("numbers.tif")).pixels
        np.testing.assert_array_equal(whole.pixels, stored, err_msg=kind)
      if windows is not None:
        part = windows.read(*place)
        np.testing.assert_array_equal(part.pixels, whole.pixels[place])
        if whole.unknown is not None:
          np.testing.assert_array_equal(part.unknown, whole.unknown[place])


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_numbers_are_as_stored_whether_0_is_black_or_white(
  tmp_path, photometric
):
  for bits in (1, 2, 4, 8):
    stored = (np.arange(35).reshape(5, 7, 1) % 2**bits).astype(np.uint8)
    path = _write(
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


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_three_bands_called_grey_are_read_where_asked_for(tmp_path, dtype):
  root = tmp_path / "mine"
  for i in range(3):
    pixels, labels = _scene(i, 40, 50)
    pixels = (pixels[..., 1:] >> 4).astype(dtype)
    _write(root / f"images/s{i}.tif", pixels, photometric="minisblack")
    _write(root / f"masks/s{i}.tif", labels[..., None])
  with pytest.raises(ValueError, match="3 bands that the file calls grey"):
    open_dataset(_config(root).data)
  example = open_dataset(_config(root, channels=3).data).train[0]
  pixels, _ = _scene(int(example["name"][1:]), 40, 50)
  wanted = (pixels[..., 1:] >> 4).astype(dtype)
  np.testing.assert_array_equal(example["image"], wanted)


@pytest.mark.slow
def test_what_the_fourth_band_alone_tells_is_learnt(tmp_path):
  """Build, doctor, training and prediction of GeoTIFFs of four bands."""
  root = tmp_path / "mine"
  for i in range(10):
    pixels, labels = _scene(i, 96, 96)
    _write(root / f"images/s{i}.tif", pixels)
    _write(root / f"masks/s{i}.tif", labels[..., None])
  config = _config(root, channels=4, min_scale=1.0, max_scale=1.0)
  config.update(batch_size=4, steps=200, lr=0.05, slow_start_steps=0)
  config.update(checkpoint_every=200, weight_decay=0.0)
  config.model.update(decoder=("conv2",), batch_norm_momentum=0.9)
  config.data.crop_size = (65, 65)
  checkup = doctor.examine(config, overfit_steps=30, overfit_seconds=60)
  assert not checkup.errors and checkup.overfit.fell
  workdir = tmp_path / "run"
  miou = train.train_and_evaluate(config, workdir)
  print(f"mIoU {miou:.3f}; of one class alone at most 0.3")
  assert miou > 0.7
  pixels, truth = _scene(99, 200, 150)
  pixels[:10] = 0
  source = _write(tmp_path / "new.tif", pixels, nodata=0)
  command = [str(workdir), str(source), "--out", str(tmp_path / "out")]
  assert predict.main([*command, "--polygons=geojson"]) == 0
  with rasterio.open(tmp_path / "out/labels/new.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == _PLACE
    found = labels.read(1)
  assert (found[:10] == 255).all()
  assert (found[10:] == truth[10:]).mean() > 0.85
  assert (tmp_path / "out/polygons/new.geojson").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_raster(tmp_path):
  """Of 20 000 x 20 000 pixels of four bands of 16 bits, 3.2 GB."""
  peaks = {}
  for side in (2500, 20_000):
    source = tmp_path / f"{side}.tif"
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 4}
    profile |= {"dtype": "uint16", "tiled": True, "compress": "lzw"}
    with rasterio.open(source, "w", **profile, **_PLACE) as raster:
      rows = np.resize(_pixels(1000, 1000), (1000, side, 4))
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


# What a mask says of its place, and how it is cut or read. A picture's first
# corner is where a program says it is, or half a pixel from there.
_MOVED = {
  "moved": {"transform": rasterio.Affine(10, 0, 4e5 + 20, 0, -10, 5e6)},
  "finer": {"transform": rasterio.Affine(5, 0, 4e5, 0, -5, 5e6)},
  "turned": {"transform": rasterio.Affine(9.9, 1, 4e5, 1, -9.9, 5e6)},
  "alike": {"transform": rasterio.Affine(10, 0, 4e5 + 5, 0, -10, 5e6 + 5)},
  "nowhere": {},
}
_READINGS = ({"channels": 4, "tile": 32}, {"channels": 4}, {"nodata": 7.0})


@pytest.mark.parametrize("place", _MOVED)
def test_masks_at_another_place_are_refused_at_every_door(
  tmp_path, place, capsys
):
  root = tmp_path / "mine"
  for i in range(2):
    pixels = _pixels(40, 48, "uint8", 3 if place == "moved" else 4)
    options = {"photometric": "rgb"}
    _write(root / f"images/{i}.tif", pixels, **options)
    labels = np.arange(40)[:, None, None].repeat(48, 1) // 24
    labels = labels.astype(np.uint8)
    _write(root / f"masks/{i}.tif", labels, **_MOVED[place])
    if place == "nowhere":
      PIL.Image.fromarray(labels[..., 0]).save(root / f"masks/{i}.tif")
  readings = _READINGS[2:] if place == "moved" else _READINGS[:2]
  for fields, overlap in [
    *((f, False) for f in readings),
    (readings[-1], True),
  ]:
    config = _config(root, **fields)
    config.task = "multilabel" if overlap else "segmentation"
    checkup = doctor.examine(config, overfit_steps=0)
    codes = [finding.code for finding in checkup.errors]
    arguments = [f"--{name}={value}" for name, value in fields.items()]
    arguments += ["--manual_dir", str(root), "--data_dir", str(tmp_path / "p")]
    arguments += ["--multilabel"] * overlap
    if place in ("alike", "nowhere"):
      assert "mask-place" not in codes
      assert len(open_dataset(config.data, multilabel=overlap).train) > 0
      continue
    assert "mask-place" in codes
    wanted = (
      r"masks/\d\.tif: a mask must be at the place of its image.*gdalwarp"
    )
    with pytest.raises(ValueError, match=wanted):
      open_dataset(config.data, multilabel=overlap)
    capsys.readouterr()
    assert prepare.main(["folder", *arguments]) == 1
    assert "must be at the place of its image" in capsys.readouterr().err


def test_what_a_raster_hides_is_ignored_in_training_as_in_predict(tmp_path):
  pixels = _pixels(40, 48, "uint8", 4)
  pixels[..., 3] = 255
  pixels[:9] = 0
  rgba = _write(tmp_path / "rgba.tif", pixels, photometric="rgb", alpha="yes")
  deep = _pixels(40, 48)
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
    masked = _write(tmp_path / "masked.tif", deep)
    with rasterio.open(masked, "r+") as raster:
      raster.write_mask(np.arange(40)[:, None].repeat(48, 1) >= 9)
  least = float(np.finfo(np.float32).min)
  floats = deep.astype(np.float32)
  floats[:9] = least
  decimals = _write(tmp_path / "decimals.tif", floats, nodata=least)
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
    pixels = _pixels(40, 48, "uint8", 3) + np.uint8(i)
    options = {"photometric": "rgb", "nodata": 0}
    _write(root / f"images/{i}.tif", pixels, **options)
    labels = np.arange(40)[:, None, None].repeat(48, 1) // 24
    mask = _write(root / f"masks/{i}.tif", labels.astype(np.uint8))
    inside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with inside, rasterio.open(mask, "r+") as raster:
      raster.write_mask(labels[..., 0] == 0)
  codes = {"unread-nodata", "transparent-mask"}
  open_dataset(_config(root).data)
  said = capfd.readouterr().err
  assert all(f"warning: {code}" in said for code in codes)
  found = doctor.examine(_config(root), overfit_steps=0).warnings
  assert codes <= {finding.code for finding in found}


def test_numbers_of_a_palette_are_no_channel(tmp_path):
  numbers = _pixels(40, 48, "uint8", 1) % 4
  file = _write(tmp_path / "a.tif", numbers, photometric="palette")
  greys = {i: (i, i, i) for i in range(256)}
  for colors in (greys, greys | {3: (9, 0, 0)}):
    with rasterio.open(file, "r+") as raster:
      raster.write_colormap(1, colors)
    message = "stand for colours of a palette"
    refused = pytest.raises(ValueError, match=message)
    with contextlib.nullcontext() if colors is greys else refused:
      assert (bands.decode(file.read_bytes(), 1).pixels == numbers).all()
    raised = contextlib.nullcontext() if colors is greys else refused
    with rasterio.open(file) as raster, raised:
      assert (bands.of_raster(raster, 1).pixels == numbers).all()


def test_one_raster_and_tiles_left_out_are_said(tmp_path, capfd):
  root = _scenes(tmp_path / "mine", 1, 150, 100)
  config = _config(root, channels=4, tile=64, tile_nodata=0.25)
  dataset = open_dataset(config.data)
  said = capfd.readouterr().err
  assert "val-inside-train" in said and "tiles-left-out" in said
  assert "31% of that at 0,0" in said and len(dataset.train) == 4
  codes = [f.code for f in doctor.examine(config, overfit_steps=0).warnings]
  assert {"val-inside-train", "tiles-left-out"} <= set(codes)
  PIL.Image.fromarray(np.eye(149, 100, dtype=np.uint8)).save(
    root / "masks/s0.png"
  )
  (root / "masks/s0.tif").rename(tmp_path / "s0.tif")
  codes = {f.code for f in doctor.examine(config, overfit_steps=0).errors}
  assert "mask-size" in codes
  with pytest.raises(ValueError, match="must have the size of its image"):
    open_dataset(config.data)
  (root / "masks/s0.png").unlink()
  (tmp_path / "s0.tif").rename(root / "masks/s0.tif")
  config.data.update(tile=150, tile_nodata=0.0)
  with pytest.raises(ValueError, match=r"more than 0 of each tile is ignored"):
    open_dataset(config.data)


def test_deep_colours_in_planes_are_read_right(tmp_path):
  pixels = _pixels(40, 48, "uint16", 3) * 20
  options = {"photometric": "rgb", "interleave": "band"}
  file = _write(tmp_path / "a.tif", pixels, **options)
  found = predict.read_image(file).astype(int)
  assert np.abs(found - (pixels >> 8)).max() <= 1  # as OpenCV rounds them


def test_exports_have_pictures_of_any_channels(tmp_path):
  root = tmp_path / "mine"
  line = "0 .25 .25 .75 .25 .75 .75 .25 .75\n"
  for name in "abc":
    _write(root / f"images/{name}.tif", _pixels(40, 48) + np.uint16(ord(name)))
    (root / "labels").mkdir(exist_ok=True)
    (root / f"labels/{name}.txt").write_text(line if name != "c" else "")
  (root / "data.yaml").write_text("names: [road]\n")
  config = _config(root, channels=4)
  codes = {f.code for f in doctor.examine(config, overfit_steps=0).errors}
  assert not codes & {"undecodable", "other-channels", "unsupported-image"}
  dataset = open_dataset(config.data)
  for source in (dataset.train, dataset.eval):
    for example in (source[i] for i in range(len(source))):
      wanted = _pixels(40, 48) + np.uint16(ord(example["name"]))
      np.testing.assert_array_equal(example["image"], wanted)
      road = np.zeros((40, 48), np.uint8)
      road[10:30, 12:36] = example["name"] != "c"
      np.testing.assert_array_equal(example["label"], road)


def test_control_points_are_kept(tmp_path):
  points = [
    rasterio.control.GroundControlPoint(row, column, 4e5 + column, 5e6 - row)
    for row, column in ((0, 0), (0, 48), (40, 0))
  ]
  options = {"gcps": points, "transform": None}
  source = _write(tmp_path / "a.tif", _pixels(40, 48), **options)
  out = tmp_path / "out"
  jobs = predict.find_jobs([source], out)
  failures = predict.predict_files(_segmenter(), jobs, out, polygons="gpkg")
  assert "control points alone" in failures[0].reason
  with rasterio.open(out / "labels/a.tif") as labels:
    kept, crs = labels.gcps
  assert crs == _PLACE["crs"] and [(p.x, p.y) for p in kept] == [
    (p.x, p.y) for p in points
  ]
