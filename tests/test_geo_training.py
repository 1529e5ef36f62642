"""Training on rasters: tiles, masks and their places, bands."""

import contextlib
import re

import numpy as np
import PIL.Image
import pytest

from deeplab_jax import doctor, predict, prepare, train
from deeplab_jax.data import bands
from deeplab_jax.data.builders import (
  folder_masks,
  mask_windows,
  masks,
)
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import checkup_text
from tests import folders, rasters

rasterio = rasters.rasterio
pytestmark = pytest.mark.usefixtures("tiny_backbone")


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
    rasters.write(root / f"images/s{i}.tif", pixels, nodata=0)
    mask = labels[..., None].copy()
    mask[-5:] = 9
    rasters.write(root / f"masks/s{i}.tif", mask, nodata=9)
  return root


def test_rasters_are_cut_into_tiles_that_stay_where_they_are(
  tmp_path, monkeypatch
):
  root = _scenes(tmp_path / "mine", 3, 150, 100)
  # Neither training nor the doctor reads a whole mask.
  monkeypatch.setattr(masks, "decode", None)
  config = folders.make_config(
    root, channels=4, tile=64, tile_overlap=16, tile_nodata=0.25
  )
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
  assert not checkup.errors
  assert checkup.survey.size_of("val") == len(dataset.eval) == 4
  with pytest.raises(ValueError, match=r"set data\.channels"):
    open_dataset(folders.make_config(root, tile=64).data)
  with pytest.raises(ValueError, match="must have 3 channels, got 4 bands of"):
    open_dataset(folders.make_config(root, channels=3, tile=64).data)
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
  yield "numbers", rasters.write(root / "numbers.tif", numbers, **options)
  yield "declares", rasters.write(root / "declares.tif", numbers, nodata=3)
  yield "colours", rasters.write(root / "colours.tif", colours)
  yield "grey", rasters.write(root / "grey.tif", grey, compress="deflate")
  yield (
    "wide",
    rasters.write(root / "wide.tif", numbers * np.int16(-300), nodata=-600),
  )
  yield "floats", rasters.write(root / "floats.tif", holes, nodata=np.nan)
  noise = rng.integers(0, 255, numbers.shape, np.uint8)
  yield "noise", rasters.write(root / "noise.tif", noise)
  indexed = rasters.write(root / "indexed.tif", numbers, photometric="palette")
  with rasterio.open(indexed, "r+") as raster:
    raster.write_colormap(1, palette)
  yield "indexed", indexed
  for dtype in ("uint8", "int8", "uint16", "int32", "float32"):
    for photometric in ("miniswhite", "minisblack"):  # 0 is white, or black
      name, stored = f"{photometric}_{dtype}.tif", numbers.astype(dtype)
      yield name, rasters.write(root / name, stored, photometric=photometric)
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


@pytest.mark.slow
def test_what_the_fourth_band_alone_tells_is_learnt(tmp_path):
  """Build, doctor, training and prediction of GeoTIFFs of four bands."""
  root = tmp_path / "mine"
  for i in range(10):
    pixels, labels = _scene(i, 96, 96)
    rasters.write(root / f"images/s{i}.tif", pixels)
    rasters.write(root / f"masks/s{i}.tif", labels[..., None])
  config = folders.make_config(root, channels=4, min_scale=1.0, max_scale=1.0)
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
  source = rasters.write(tmp_path / "new.tif", pixels, nodata=0)
  command = [str(workdir), str(source), "--out", str(tmp_path / "out")]
  assert predict.main([*command, "--polygons=geojson"]) == 0
  with rasterio.open(tmp_path / "out/labels/new.tif") as labels:
    assert {"crs": labels.crs, "transform": labels.transform} == rasters.PLACE
    found = labels.read(1)
  assert (found[:10] == 255).all()
  assert (found[10:] == truth[10:]).mean() > 0.85
  assert (tmp_path / "out/polygons/new.geojson").exists()


# What a mask says of its place, and how it is cut or read. A picture's first
# corner is where a program says it is, or half a pixel from there.
_MOVED = {
  "moved": {"transform": rasterio.Affine(10, 0, 4e5 + 20, 0, -10, 5e6)},
  "finer": {"transform": rasterio.Affine(5, 0, 4e5, 0, -5, 5e6)},
  "turned": {"transform": rasterio.Affine(9.9, 1, 4e5, 1, -9.9, 5e6)},
  "in another system": {"crs": rasterio.crs.CRS.from_epsg(32634)},
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
    pixels = rasters.pixels(40, 48, "uint8", 3 if place == "moved" else 4)
    options = {"photometric": "rgb"}
    rasters.write(root / f"images/{i}.tif", pixels, **options)
    labels = np.arange(40)[:, None, None].repeat(48, 1) // 24
    labels = labels.astype(np.uint8)
    rasters.write(root / f"masks/{i}.tif", labels, **_MOVED[place])
    if place == "nowhere":
      PIL.Image.fromarray(labels[..., 0]).save(root / f"masks/{i}.tif")
  readings = _READINGS[2:] if place == "moved" else _READINGS[:2]
  for fields, overlap in [
    *((f, False) for f in readings),
    (readings[-1], True),
  ]:
    config = folders.make_config(root, **fields)
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
      r"masks/\d\.tif: a mask must be (at the place|in the coordinate system) "
      r"of its image.*gdalwarp"
    )
    with pytest.raises(ValueError, match=wanted):
      open_dataset(config.data, multilabel=overlap)
    capsys.readouterr()
    assert prepare.main(["folder", *arguments]) == 1
    assert re.search(wanted, capsys.readouterr().err, re.DOTALL)


def test_numbers_of_a_palette_are_no_channel(tmp_path):
  numbers = rasters.pixels(40, 48, "uint8", 1) % 4
  file = rasters.write(tmp_path / "a.tif", numbers, photometric="palette")
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
  config = folders.make_config(root, channels=4, tile=64, tile_nodata=0.25)
  dataset = open_dataset(config.data)
  said = capfd.readouterr().err
  assert "val-inside-train" in said and "tiles-left-out" in said
  assert "31% of that at 0,0" in said and len(dataset.train) == 4
  checkup = doctor.examine(config, overfit_steps=0)
  codes = [f.code for f in checkup.warnings]
  assert {"val-inside-train", "tiles-left-out"} <= set(codes)
  # What a build leaves out is not counted as if it were trained on.
  survey = checkup.survey
  assert survey.size_of("train") == len(survey.of("train")) == 4
  assert survey.left_out("train") == len(survey.samples.names("train")) - 4
  labels = [dataset.train[i]["label"] for i in range(4)]
  wanted = sum(np.bincount(x.ravel(), minlength=256) for x in labels)
  np.testing.assert_array_equal(survey.counts["train"], wanted)
  assert "4 images in train (and 2 tiles left out)" in checkup_text.text(
    checkup
  )
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


def test_exports_have_pictures_of_any_channels(tmp_path):
  root = tmp_path / "mine"
  line = "0 .25 .25 .75 .25 .75 .75 .25 .75\n"
  for name in "abc":
    rasters.write(
      root / f"images/{name}.tif", rasters.pixels(40, 48) + np.uint16(ord(name))
    )
    (root / "labels").mkdir(exist_ok=True)
    (root / f"labels/{name}.txt").write_text(line if name != "c" else "")
  (root / "data.yaml").write_text("names: [road]\n")
  config = folders.make_config(root, channels=4)
  codes = {f.code for f in doctor.examine(config, overfit_steps=0).errors}
  assert not codes & {"undecodable", "other-channels", "unsupported-image"}
  dataset = open_dataset(config.data)
  for source in (dataset.train, dataset.eval):
    for example in (source[i] for i in range(len(source))):
      wanted = rasters.pixels(40, 48) + np.uint16(ord(example["name"]))
      np.testing.assert_array_equal(example["image"], wanted)
      road = np.zeros((40, 48), np.uint8)
      road[10:30, 12:36] = example["name"] != "c"
      np.testing.assert_array_equal(example["label"], road)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_three_bands_called_grey_are_read_where_asked_for(tmp_path, dtype):
  root = tmp_path / "mine"
  for i in range(3):
    pixels, labels = _scene(i, 40, 50)
    pixels = (pixels[..., 1:] >> 4).astype(dtype)
    rasters.write(root / f"images/s{i}.tif", pixels, photometric="minisblack")
    rasters.write(root / f"masks/s{i}.tif", labels[..., None])
  with pytest.raises(ValueError, match="3 bands that the file calls grey"):
    open_dataset(folders.make_config(root).data)
  example = open_dataset(folders.make_config(root, channels=3).data).train[0]
  pixels, _ = _scene(int(example["name"][1:]), 40, 50)
  wanted = (pixels[..., 1:] >> 4).astype(dtype)
  np.testing.assert_array_equal(example["image"], wanted)
