"""Pictures of other channels and depths, on every path that they take."""

import io
import json
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import deeplab_jax
from deeplab_jax import checkpoints, doctor, evaluate, predict, prepare
from deeplab_jax import config as config_lib
from deeplab_jax.data import bands, preprocess, segmentation
from deeplab_jax.data.source import open_dataset
from deeplab_jax.export import as_onnx, as_stablehlo, job
from deeplab_jax.export.loading import Exported
from deeplab_jax.models import BACKBONES, normalisation, padding_value
from deeplab_jax.train import stem
from tests import folders
from tests.random_variables import random_variables
from tests.test_data_headers import tiff
from tests.tiny_segmenter import COLORS, NAMES, tiny_model

pytestmark = pytest.mark.usefixtures("tiny_backbone")

_SIZE = (40, 56)


def _labels(seed):
  coarse = np.random.default_rng(seed).integers(0, 3, (5, 7))
  return coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def _pixels(seed, channels, dtype, low=0, high=None):
  """Noise, and in the last channel the labels."""
  high = high or (255 if dtype == "uint8" else 3000)
  rng = np.random.default_rng(seed)
  values = rng.uniform(low, high, (*_SIZE, channels))
  values[..., -1] = low + (high - low) * (_labels(seed) / 2)
  return values.astype(dtype)


def _png(pixels):
  order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
  return cv2.imencode(".png", pixels[..., order])[1].tobytes()


def _folder(root, pictures):
  """Writes files by name, such as "s0.npy", and their masks."""
  for kind in ("images", "masks"):
    (root / kind).mkdir(parents=True, exist_ok=True)
  for seed, (name, content) in enumerate(pictures.items()):
    (root / "images" / name).write_bytes(content)
    mask = PIL.Image.fromarray(_labels(seed))
    mask.save(root / "masks" / f"{name.rpartition('.')[0]}.png")
  return root


def _arrays(channels=4, dtype="uint16", **limits):
  return {
    f"s{i}.npy": bands.encode(_pixels(i, channels, dtype, **limits))
    for i in range(6)
  }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13, 32])
def test_arrays_of_numpy_are_read_as_they_are(dtype, channels):
  pixels = _pixels(0, channels, dtype, low=0 if dtype[0] == "u" else -90)
  found = bands.decode(bands.encode(pixels), channels)
  assert found.pixels.dtype == dtype and found.unknown is None
  np.testing.assert_array_equal(found.pixels, pixels)
  assert not found.remark
  first = bands.decode(bands.encode(np.moveaxis(pixels, 2, 0)), channels)
  np.testing.assert_array_equal(first.pixels, pixels)
  assert "first axis" in first.remark
  swapped = pixels.astype(np.dtype(dtype).newbyteorder(">"))
  found = bands.decode(bands.encode(swapped), channels).pixels
  np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_keep_channels_and_bits(dtype, channels):
  pixels = _pixels(0, channels, dtype, high=np.iinfo(dtype).max)
  found = bands.decode(_png(pixels), channels).pixels
  np.testing.assert_array_equal(found, pixels)
  if channels == 4:  # without the transparency
    opaque = bands.decode(_png(pixels), 3).pixels
    np.testing.assert_array_equal(opaque, pixels[..., :3])


def test_palettes_are_colours_and_unknown_pixels_are_found():
  file = io.BytesIO()
  picture = PIL.Image.fromarray(_labels(0), "P")
  picture.putpalette(np.arange(9, dtype=np.uint8).tobytes())
  picture.save(file, "PNG")
  found = bands.decode(file.getvalue(), 3).pixels
  np.testing.assert_array_equal(found[..., 1], 3 * _labels(0) + 1)
  pixels = _pixels(0, 2, "float32")
  pixels[3:5, 4, :], pixels[9, 9, 0] = np.nan, np.inf
  unknown = bands.decode(bands.encode(pixels), 2).unknown
  assert np.argwhere(unknown).tolist() == [[3, 4], [4, 4]]


@pytest.mark.parametrize(
  ("content", "channels", "message"),
  [
    (bands.encode(np.zeros((4, 5, 3), np.int64)), 3, "float32, got int64"),
    (bands.encode(np.zeros((6, 5, 3), np.uint8)), 4, r"\(h, w, 4\), got"),
    (bands.encode(np.zeros((4, 5), np.uint8))[:90], 1, "cannot be read as"),
    (_png(np.zeros((4, 5, 1), np.uint8)), 4, "must have 4 channels, got 1"),
    (_png(np.zeros((4, 5, 3), np.uint16)), 4, "4 channels, got 3 of uint16"),
    (b"no picture", 3, "cannot be decoded"),
  ],
)
def test_other_channels_and_numbers_are_refused(content, channels, message):
  with pytest.raises(ValueError, match=message):
    bands.decode(content, channels)


def test_a_folder_is_built_as_its_files_are(tmp_path, capsys):
  root = _folder(tmp_path / "mine", _arrays())
  config = folders.make_config(root, channels=4)
  dataset = open_dataset(config.data)
  info = dataset.info
  assert (info.channels, info.image_dtype) == (4, "uint16")
  said = capsys.readouterr().err
  assert "channels: 4 of uint16; percentiles 0.1 %" in said
  pixels = np.stack([_pixels(i, 4, "uint16") for i in range(6)])
  for channel, (low, high) in enumerate(info.value_range):
    values = pixels[..., channel]
    assert values.min() <= low <= np.percentile(values, 1)
    assert np.percentile(values, 99) <= high <= values.max()
  example = dataset.train[0]
  number = int(example["name"][1:])
  np.testing.assert_array_equal(example["image"], pixels[number])
  np.testing.assert_array_equal(example["label"], _labels(number))
  config.data.value_range = (0, 10000)
  assert open_dataset(config.data).info.value_range == ((0.0, 10000.0),) * 4
  config.data.value_range = ((0, 1), (2, 1), (0, 1), (0, 1))
  with pytest.raises(ValueError, match=r"data.value_range must be a pair"):
    open_dataset(config.data)


def test_a_folder_says_which_pictures_differ(tmp_path):
  pictures = _arrays() | {
    "t0.npy": bands.encode(_pixels(0, 4, "float32")),
    "t1.png": _png(np.zeros((*_SIZE, 3), np.uint8)),
  }
  root = _folder(tmp_path / "mine", pictures)
  config = folders.make_config(root, channels=4)
  with pytest.raises(ValueError) as refused:
    open_dataset(config.data)
  assert "t0.npy: pictures must all hold uint16, as most do, got float32" in (
    str(refused.value)
  )
  assert "t1.png: must have 4 channels, got 3 of uint8" in str(refused.value)
  codes = {f.code for f in doctor.examine(config, overfit_steps=0).errors}
  assert codes == {"mixed-depth", "other-channels"}
  arguments = ["folder", "--manual_dir", str(root), "--channels=40"]
  assert prepare.main(arguments) == 1
  config.data.update(channels=0)
  with pytest.raises(ValueError, match="a mask must have an image of its name"):
    open_dataset(config.data)


def test_rasters_without_rasterio_are_refused_once(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "rasterio", None)
  encoded = tiff(_pixels(0, 4, "uint16"), (0,))
  root = _folder(tmp_path / "mine", {f"s{i}.tif": encoded for i in range(3)})
  with pytest.raises(ValueError) as refused:
    open_dataset(folders.make_config(root, channels=4).data)
  said = str(refused.value)
  assert "\n" not in said
  assert "a TIFF of 4 bands of uint16 needs the package rasterio" in said
  assert "the same of 2 more" in said
  with pytest.raises(ValueError, match="is cut into tiles needs the package"):
    open_dataset(folders.make_config(root, channels=4, tile=32).data)


def test_8_bits_of_rgb_stay_what_they_were(tmp_path):
  pictures = {
    f"s{i}.png": _png(_pixels(i, 3, "uint8", high=255)) for i in range(6)
  }
  root = _folder(tmp_path / "mine", pictures)
  found = [
    next(
      segmentation.train_batches(
        open_dataset(folders.make_config(root, channels=channels).data),
        folders.make_config(
          root, channels=channels, color_jitter=(0.3, 0.3, 0.3)
        ).data,
        batch_size=4,
        seed=3,
        padding_value=BACKBONES["tiny"].mean,
      )
    )
    for channels in (0, 3)
  ]
  np.testing.assert_array_equal(found[0]["image"], found[1]["image"])
  assert found[0]["image"].dtype == np.uint8
  images = found[0]["image"]
  mean, scale = (
    BACKBONES["resnet_50_torch"].mean,
    (BACKBONES["resnet_50_torch"].scale),
  )
  offset = np.multiply(mean, scale).astype(np.float32)
  wanted = jnp.asarray(images, jnp.float32) * np.float32(scale) - offset
  given = deeplab_jax.preprocess(images, "resnet_50_torch")
  np.testing.assert_array_equal(given, wanted)


def test_rgb_of_8_bits_may_be_arrays(tmp_path):
  pictures = _arrays(3, "uint8", high=255)
  config = folders.make_config(_folder(tmp_path / "mine", pictures), channels=3)
  dataset = open_dataset(config.data)
  assert dataset.info.is_plain
  example = dataset.train[0]
  wanted = _pixels(int(example["name"][1:]), 3, "uint8", high=255)
  np.testing.assert_array_equal(example["image"], wanted)
  assert not doctor.examine(config, overfit_steps=0).errors
  found = predict.read_for(tiny_model(), tmp_path / "mine/images/s0.npy")
  np.testing.assert_array_equal(found, _pixels(0, 3, "uint8", high=255))


def test_every_change_of_a_crop_takes_any_channels(tmp_path):
  limits = {"low": -900, "high": 2000}
  for dtype, channels in (("int16", 13), ("float32", 1), ("uint16", 2)):
    limits["low"] = 0 if dtype == "uint16" else -900
    root = tmp_path / dtype / "mine"
    pictures = _arrays(channels, dtype, **limits)
    if dtype == "float32":
      pixels = _pixels(0, 1, dtype, **limits)
      pixels[:9, :9] = np.nan
      pictures["s0.npy"] = bands.encode(pixels)
    config = folders.make_config(
      _folder(root, pictures),
      channels=channels,
      color_jitter=(0.1, 0.1, 0.5),
      rotation=20.0,
      vertical_flip=True,
      blur=0.5,
      noise=2.0,
      cutout=0.3,
      cutmix=0.5,
      classmix=0.5,
    )
    dataset = open_dataset(config.data)
    color = padding_value("tiny", channels, dataset.info.value_range)
    batches = segmentation.train_batches(
      dataset, config.data, batch_size=8, seed=0, padding_value=color
    )
    image = next(batches)["image"]
    assert image.shape == (8, 33, 33, channels) and image.dtype == dtype
    assert np.isfinite(image).all()
    spread = image.reshape(-1, channels).std(0)
    assert (spread > 100).all(), "noise, or too little of the pictures"


def test_jitter_of_a_range_is_jitter_of_8_bits():
  image = _pixels(0, 3, "uint8", high=255)
  strengths = (0.3, 0.2, 0.5)
  wanted = preprocess.jitter_colors(np.random.default_rng(1), image, strengths)
  wide = (image.astype(np.float32) * 10 - 400).astype(np.int16)
  ranges = ((-400.0, 2150.0),) * 3
  found = preprocess.jitter_colors(
    np.random.default_rng(1), wide, strengths, ranges
  )
  inside = (wanted > 0) & (wanted < 255)
  difference = (found.astype(float) + 400) / 10 - wanted
  assert np.abs(difference[inside]).max() < 1.01 and inside.mean() > 0.5


def _model(**arguments):
  info = {"channels": 4, "image_dtype": "uint16"}
  ranges = ((0.0, 3000.0), (100.0, 2000.0), (0.0, 65535.0), (0.0, 3000.0))
  return tiny_model(**(info | {"value_range": ranges} | arguments))


def _definition(model, variables, image):
  """Labels of one picture, by NumPy and the network alone."""
  low, high = np.transpose(model.value_range)
  known = np.isfinite(image)
  values = (np.clip(image, low, high) - low) / (high - low) * 255
  inputs = np.where(known, values / 127.5 - 1, 0)
  stride = model.output_stride
  crop = [-(-(side - 1) // stride) * stride + 1 for side in image.shape[:2]]
  padded = np.zeros((1, *crop, model.channels), np.float32)
  padded[0, : image.shape[0], : image.shape[1]] = inputs
  logits = jax.jit(model.apply)(variables, padded)
  resized = deeplab_jax.resize_bilinear(logits, crop)
  return np.asarray(resized)[0, : image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_one_range_holds_on_every_path(tmp_path, dtype):
  """Batches, training's scaling, evaluation, prediction, files that are
  exported: all make the same of a picture as the definition."""
  root = _folder(tmp_path / "mine", _arrays(dtype=dtype))
  config = folders.make_config(root, channels=4)
  ranges = ((0, 3000), (100, 2000), (0, 65535), (0, 3000))
  config.data.value_range = ranges
  dataset = open_dataset(config.data)
  images = config_lib.image_arguments(dataset.info)
  model = config_lib.make_model(config, 3, **images)
  assert model == _model(image_dtype=dtype, backbone="tiny")
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  image = _pixels(0, 4, dtype)
  if dtype == "float32":
    image[5:9, 7:9] = np.nan
  logits = _definition(model, variables, image)
  wanted = logits.argmax(-1)
  assert len(np.unique(wanted)) > 1

  mean, scale = normalisation("tiny", 4, model.value_range)
  low, high = np.transpose(model.value_range)
  np.testing.assert_allclose(
    deeplab_jax.preprocess(image[:2, :2], "tiny", model.value_range),
    (np.clip(image[:2, :2], low, high) - mean) * scale,
    atol=1e-5,
  )
  stored = tmp_path / "model"
  facts = {"class_names": NAMES, "colors": COLORS}
  checkpoints.save_model(stored, model, variables, dataset=facts)
  content = json.loads((stored / "model.json").read_text())
  assert content["model"]["channels"] == 4
  np.testing.assert_allclose(content["preprocessing"]["scale"], scale)

  segmenter = deeplab_jax.load(stored)
  np.testing.assert_array_equal(segmenter(image), wanted)
  assert segmenter.overlay(image).shape == (*_SIZE, 3)
  with pytest.raises(ValueError, match=r"of shape \(h, w, 4\), got uint8"):
    segmenter(np.zeros(image.shape, np.uint8))

  file = tmp_path / "one.npy"
  file.write_bytes(bands.encode(image))
  out = tmp_path / "out"
  (job_,) = predict.find_jobs([file], out)
  assert not predict.predict_files(segmenter, [job_], out)
  labels = np.asarray(PIL.Image.open(out / "labels" / job_.name))
  np.testing.assert_array_equal(labels, wanted)
  bad = tmp_path / "bad.npy"
  bad.write_bytes(bands.encode(_pixels(0, 4, "int16")))
  (failure,) = predict.predict_files(
    segmenter, predict.find_jobs([bad], out), out
  )
  assert f"must hold {dtype}" in failure.reason

  exported = job.read_job(stored, sizes=[_SIZE])
  assert exported.metadata()["image_dtype"] == dtype
  run = Exported(as_stablehlo.make(exported))
  np.testing.assert_array_equal(run(image[None])[0], wanted)
  with pytest.raises(ValueError, match=r"of shape \(b, h, w, 4\), got uint8"):
    run(np.zeros((1, *image.shape), np.uint8))

  found = evaluate.evaluate(model, variables, config, dataset=dataset)
  confusion = np.zeros((3, 3), int)
  for i in range(len(dataset.eval)):
    example = dataset.eval[i]
    guess = _definition(model, variables, example["image"]).argmax(-1)
    np.add.at(confusion, (example["label"], guess), 1)
  np.testing.assert_array_equal(found.confusion, confusion)
  assert found.examples[0].image.dtype == np.uint8
  with pytest.raises(ValueError, match="the model takes 3 channels of uint8"):
    rgb = tiny_model()
    evaluate.evaluate(rgb, variables, config, dataset=dataset)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_an_onnx_file_takes_pictures_as_they_are(tmp_path, dtype):
  runtime = pytest.importorskip("onnxruntime", reason="SKIPPED: no onnxruntime")
  model = _model(image_dtype=dtype)
  variables = random_variables(model, np.zeros((1, 33, 33, 4), np.float32))
  checkpoints.save_model(tmp_path / "model", model, variables)
  exported = job.read_job(tmp_path / "model", output="logits", sizes=[_SIZE])
  session = runtime.InferenceSession(as_onnx.make(exported))
  image = _pixels(0, 4, dtype)
  if dtype == "float32":
    image[3, 3] = np.nan
  (logits,) = session.run(None, {"image": image[None]})
  wanted = _definition(model, variables, image)
  np.testing.assert_allclose(logits[0], wanted, atol=1e-4)


def test_the_doctor_looks_at_any_channels(tmp_path):
  root = _folder(tmp_path / "mine", _arrays(7, "int16", low=-500))
  config = folders.make_config(root, channels=7)
  checkup = doctor.examine(config, overfit_steps=0)
  assert not checkup.errors
  assert {f.image.mean.shape for f in checkup.survey.facts} == {(7,)}
  from deeplab_jax.doctor import page

  assert "<img" in page.render(checkup)


def test_first_kernels_of_other_channels():
  rng = np.random.default_rng(0)
  name, other = "params/backbone/a/kernel", "params/backbone/b/kernel"
  source = {
    name: jnp.asarray(rng.normal(size=(3, 3, 3, 8)), jnp.float32),
    other: jnp.zeros((1, 1, 8, 8)),
  }
  kernel = np.asarray(source[name])
  target = dict(source, **{name: jnp.zeros((3, 3, 5, 8))})
  found, (note,) = stem.adapt(source, target)
  mean = kernel.mean(2, keepdims=True)
  np.testing.assert_allclose(found[name], np.tile(mean * 3 / 5, (5, 1)), 1e-5)
  assert note == (
    "backbone/a/kernel: 5 channels of the data, each from the mean of its 3, "
    "times 3/5"
  )
  found, (note,) = stem.adapt(source, target, (2, 1, 0, -1, 0))
  np.testing.assert_array_equal(
    found[name][:, :, [0, 1, 2, 4]], kernel[:, :, [2, 1, 0, 0]]
  )
  assert "0 from its 2" in note and "3 from the mean of its 3" in note
  same, notes = stem.adapt(source, source)
  assert same[name] is source[name] and not notes
  turned, _ = stem.adapt(source, source, (2, 1, 0))
  np.testing.assert_array_equal(turned[name], kernel[:, :, ::-1])
  with pytest.raises(ValueError, match=r"init_channels must be \(\) or 5 num"):
    stem.adapt(source, target, (0, 1, 2))
