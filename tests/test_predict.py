"""Pictures of every kind from files to label files, and the command."""

import errno
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import checkpoints, predict, visualize
from deeplab_jax.models import DeepLab
from tests.random_variables import random_variables
from tests.test_data_headers import tiff
from tests.tiny_segmenter import random_image

_REPOSITORY = pathlib.Path(__file__).parent.parent
COLORS = ((0, 0, 0), (10, 200, 30), (30, 60, 250))


@pytest.fixture
def pixels() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> pathlib.Path:
  """A small model directory."""
  folder = tmp_path_factory.mktemp("model") / "tiny"
  model = DeepLab(
    num_classes=3,
    backbone="mobilenet_v2",
    width_multiplier=0.25,
    atrous_rates=(),
    decoder=(),
    output_stride=32,
  )
  checkpoints.save_model(
    folder,
    model,
    random_variables(model, np.zeros((1, 65, 65, 3), np.float32)),
    dataset={"name": "x", "class_names": ["a", "b", "c"], "colors": COLORS},
  )
  return folder


@pytest.fixture(scope="module")
def segmenter(checkpoint):
  return deeplab_jax.load(checkpoint)


# --------------------------------------------------------------- reading


@pytest.mark.parametrize(
  "name", ["a.png", "a.bmp", "a.tif", "a.webp", "a_without_ending"]
)
def test_read_image_is_exact_for_lossless_files(tmp_path, pixels, name):
  kind = {".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
  kind = kind.get(pathlib.Path(name).suffix, "PNG")
  Image.fromarray(pixels).save(tmp_path / name, kind, lossless=True)
  np.testing.assert_array_equal(predict.read_image(tmp_path / name), pixels)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_read_image_takes_the_high_bytes_of_16_bits(tmp_path, pixels, ending):
  wide = pixels.astype(np.uint16) * 256 + 77
  cv2.imwrite(str(tmp_path / f"rgb.{ending}"), wide[..., ::-1])
  cv2.imwrite(str(tmp_path / f"grey.{ending}"), wide[..., 0])
  rgb = predict.read_image(tmp_path / f"rgb.{ending}")
  np.testing.assert_array_equal(rgb, pixels)
  grey = predict.read_image(tmp_path / f"grey.{ending}")
  np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_read_image_converts_modes(tmp_path, pixels, mode):
  picture = Image.fromarray(pixels).convert(mode)
  ending = "tif" if mode in ("CMYK", "YCbCr") else "png"
  picture.save(tmp_path / f"a.{ending}")
  expected = np.asarray(picture.convert("RGB"))
  read = predict.read_image(tmp_path / f"a.{ending}")
  np.testing.assert_array_equal(read, expected)


def test_read_image_lays_transparent_pixels_on_white(tmp_path, pixels):
  alpha = np.full((20, 30), 255, np.uint8)
  alpha[:, :10] = 0
  Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png")
  read = predict.read_image(tmp_path / "a.png")
  assert (read[:, :10] == 255).all()
  np.testing.assert_array_equal(read[:, 10:], pixels[:, 10:])


def test_read_image_turns_upright(tmp_path, pixels):
  picture = Image.fromarray(pixels)
  exif = picture.getexif()
  exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
  picture.save(tmp_path / "a.png", exif=exif)
  read = predict.read_image(tmp_path / "a.png")
  np.testing.assert_array_equal(read, np.rot90(pixels, -1))


def test_read_image_takes_the_first_frame(tmp_path, pixels):
  frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
  frames[0].save(
    tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True
  )
  np.testing.assert_array_equal(predict.read_image(tmp_path / "a.webp"), pixels)


def test_read_image_says_what_is_wrong(tmp_path, pixels):
  (tmp_path / "text.jpg").write_text("no picture")
  (tmp_path / "empty.jpg").touch()
  Image.fromarray(pixels).save(tmp_path / "whole.png")
  half = (tmp_path / "whole.png").read_bytes()[:900]
  (tmp_path / "cut.png").write_bytes(half)
  Image.fromarray(pixels[..., 0].astype(np.float32)).save(tmp_path / "f.tif")
  wide = np.full((2, 2), 70000, np.int32)
  Image.fromarray(wide).save(tmp_path / "i.tif")
  for name, error, message in (
    ("text.jpg", OSError, "not a picture of 8 or 16 bits"),
    ("empty.jpg", OSError, "not a picture of 8 or 16 bits"),
    ("cut.png", OSError, "truncated"),
    ("missing.png", OSError, "No such file"),
    ("f.tif", ValueError, "floating point pixels; convert it to 8 or 16"),
    ("i.tif", ValueError, "32-bit pixels; convert it to 8 or 16"),
  ):
    with pytest.raises(error, match=message):
      predict.read_image(tmp_path / name)


def test_read_image_refuses_what_memory_cannot_hold(tmp_path, pixels):
  Image.fromarray(pixels).save(tmp_path / "a.png")
  content = bytearray((tmp_path / "a.png").read_bytes())
  side = 10_000_000
  content[16:24] = side.to_bytes(4, "big") * 2  # width and height
  content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
  (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(ValueError, match=f"{side} x {side} pixels, memory holds"):
    predict.read_image(tmp_path / "a.png")


def test_read_image_refuses_what_decoders_alter(tmp_path):
  for name, array, message in (
    ("signed.tif", np.zeros((4, 6), np.int16), "pixels with a sign"),
    ("bands.tif", np.zeros((4, 6, 3), np.float32), "floating point pixels"),
  ):
    cv2.imwrite(str(tmp_path / name), array)
    with pytest.raises(ValueError, match=message):
      predict.read_image(tmp_path / name)


def test_depth_and_bands_that_are_not_used_are_said(tmp_path, pixels):
  Image.fromarray(pixels).save(tmp_path / "usual.png")
  deep = pixels.astype(np.uint16) * 16
  for name in ("deep.png", "deep.tif"):
    cv2.imwrite(str(tmp_path / name), deep)
  four = np.dstack([pixels, pixels[..., :1]])
  (tmp_path / "four.tif").write_bytes(tiff(four, (0,)))
  np.testing.assert_array_equal(
    predict.read_image(tmp_path / "four.tif"), pixels
  )
  (tmp_path / "text.png").write_text("no picture")
  names = ["usual.png", "deep.png", "deep.tif", "four.tif", "text.png"]
  said = predict.remarks(tmp_path / name for name in names)
  # Of four.tif, unless rasterio is there to keep it.
  said = [line for line in said if not line.startswith("a place on earth")]
  assert len(said) == 2
  assert said[0].startswith("16 bits, of which the upper 8 are used")
  assert said[0].endswith(
    f": 2 pictures, {tmp_path / 'deep.png'}, {tmp_path / 'deep.tif'}"
  )
  assert said[1].startswith("4 bands, of which 3 are used: 1 pictures")


# ---------------------------------------------------------------- naming


def _touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_jobs_keep_the_tree_of_folders(tmp_path):
  _touch(
    tmp_path,
    "in/b.jpg",
    "in/deep/er/a.JPEG",
    "in/notes.txt",
    "in/film.mpg",
    "in/.hidden.png",
    "in/.git/a.png",
    "in/out/labels/b.png",
    "in/phone.HEIC",
  )
  jobs = predict.find_jobs([tmp_path / "in"], tmp_path / "in/out")
  names = [job.name for job in jobs]
  assert names == ["b.png", "deep/er/a.png", "phone.png"]
  assert jobs[1].source == tmp_path / "in/deep/er/a.JPEG"


def test_jobs_take_a_picture_once(tmp_path, monkeypatch):
  _touch(tmp_path, "in/a.jpg", "in/deep/b.jpg")
  monkeypatch.chdir(tmp_path)
  inputs = ["in", "in/", tmp_path / "in", "in/../in/a.jpg", "in/deep"]
  jobs = predict.find_jobs(inputs, tmp_path / "out")
  assert [job.name for job in jobs] == ["a.png", "deep/b.png"]


def test_jobs_never_replace_a_picture(tmp_path):
  _touch(tmp_path, "a.jpg", "labels/a.png", "overlays/a.png")
  jobs = predict.find_jobs([tmp_path], tmp_path)
  assert [job.source for job in jobs] == [tmp_path / "a.jpg"]
  with pytest.raises(ValueError, match="would replace the picture"):
    predict.find_jobs([tmp_path / "labels"], tmp_path)


def test_jobs_of_one_name_are_told_apart(tmp_path):
  _touch(tmp_path, "x/a.jpg", "x/A.png", "x/a.jpg.png", "y/a.jpg", "y/c.gif")
  folders = [tmp_path / "x", tmp_path / "y"]
  jobs = predict.find_jobs(folders, tmp_path / "out")
  names = {
    job.source.relative_to(tmp_path).as_posix(): job.name for job in jobs
  }
  assert names == {
    "x/A.png": "A.png.png",
    "x/a.jpg": "a.jpg.2.png",
    "x/a.jpg.png": "a.jpg.png",
    "y/a.jpg": "a.jpg.3.png",
    "y/c.gif": "c.png",
  }


def test_jobs_take_named_files_as_they_are(tmp_path):
  jobs = predict.find_jobs([tmp_path / "gone.xyz"], tmp_path / "out")
  assert jobs == [predict.Job(tmp_path / "gone.xyz", "gone.png")]


def test_jobs_refuse_a_folder_without_pictures(tmp_path):
  with pytest.raises(ValueError, match=f"no pictures in folder {tmp_path}"):
    predict.find_jobs([tmp_path], tmp_path / "out")


# ----------------------------------------------------------------- files


def test_files_receive_labels_and_overlays(tmp_path, segmenter):
  random = np.random.default_rng(1)
  for index in range(9):
    size = random.integers(1, 90, 2)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    path = tmp_path / f"in/sub{index % 2}/{index}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  jobs = predict.find_jobs([tmp_path / "in"], tmp_path / "out")
  assert predict.predict_files(segmenter, jobs, tmp_path / "out") == []
  for job in jobs:
    image = np.asarray(Image.open(job.source))
    with Image.open(tmp_path / "out/labels" / job.name) as picture:
      assert picture.mode == "P"
      labels = np.asarray(picture)
      palette = np.reshape(picture.getpalette(), (-1, 3))
    np.testing.assert_array_equal(labels, segmenter(image))
    np.testing.assert_array_equal(palette[:3], COLORS)
    overlay = np.asarray(Image.open(tmp_path / "out/overlays" / job.name))
    expected = visualize.overlay(image, labels, COLORS)
    expected = visualize.with_legend(expected, labels, COLORS, ("a", "b", "c"))
    np.testing.assert_array_equal(overlay, expected)


def test_files_receive_what_is_asked_for(tmp_path, segmenter, pixels):
  Image.fromarray(pixels).save(tmp_path / "a.png")
  jobs = [predict.Job(tmp_path / "a.png", "deep/a.png")]
  kinds = ("labels", "probabilities", "uncertainty")
  assert predict.predict_files(segmenter, jobs, tmp_path / "out", kinds) == []
  written = [
    path.relative_to(tmp_path / "out").as_posix()
    for path in sorted((tmp_path / "out").rglob("*"))
    if path.is_file()
  ]
  assert written == [
    "labels/deep/a.png",
    "probabilities/deep/a.npy",
    "uncertainty/deep/a.png",
  ]
  stored = np.load(tmp_path / "out/probabilities/deep/a.npy")
  assert stored.dtype == np.float16 and stored.shape == (20, 30, 3)
  probabilities = segmenter.probabilities(pixels)
  np.testing.assert_allclose(stored, probabilities, atol=6e-4)
  with Image.open(tmp_path / "out/uncertainty/deep/a.png") as picture:
    assert picture.mode == "L"
    grey = np.asarray(picture) / 255
  np.testing.assert_allclose(grey, segmenter.uncertainty(pixels), atol=3e-3)


@pytest.mark.parametrize("kinds", [(), ("labels", "logits")])
def test_kinds_of_results_are_checked(tmp_path, segmenter, kinds):
  with pytest.raises(ValueError, match=r"kinds must be of labels, .* got \("):
    predict.predict_files(segmenter, [], tmp_path, kinds)


def test_a_picture_has_one_answer_however_it_is_named(
  tmp_path, segmenter, pixels
):
  """As a file, without an ending, in a list, in folders of any name."""
  encoded = io.BytesIO()
  Image.fromarray(pixels).save(encoded, "PNG")
  for name in ("in/a.png", "bare", "b.2024", "folder.jpg/deep.png/a.png"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.getvalue())
  expected = segmenter(pixels)
  for inputs, names in (
    (["in/a.png"], ["a"]),
    (["bare"], ["bare"]),
    (["b.2024", "in/a.png", "bare"], ["b", "a", "bare"]),
    (["in"], ["a"]),
    (["folder.jpg"], ["deep.png/a"]),
    (["folder.jpg", "in", "bare"], ["deep.png/a", "a", "bare"]),
  ):
    jobs = predict.find_jobs([tmp_path / x for x in inputs], tmp_path / "out")
    assert [job.name for job in jobs] == [f"{name}.png" for name in names]
    assert predict.predict_files(segmenter, jobs, tmp_path / "out") == []
    for job in jobs:
      labels = np.asarray(Image.open(tmp_path / "out/labels" / job.name))
      np.testing.assert_array_equal(labels, expected)
    shutil.rmtree(tmp_path / "out")


def test_files_that_fail_are_named_and_the_others_done(
  tmp_path, segmenter, pixels
):
  for index in range(10):
    Image.fromarray(pixels).save(tmp_path / f"{index}.png")
  (tmp_path / "3.png").write_bytes(b"broken")
  # Where a folder should be made, a file is in the way.
  (tmp_path / "out").mkdir()
  (tmp_path / "out/overlays").mkdir()
  (tmp_path / "out/overlays/7.png").mkdir()
  jobs = predict.find_jobs([tmp_path], tmp_path / "out")
  failures = predict.predict_files(segmenter, jobs, tmp_path / "out")
  reasons = {failure.source.name: failure.reason for failure in failures}
  assert set(reasons) == {"3.png", "7.png"}
  assert "not a picture of 8 or 16 bits" in reasons["3.png"]
  assert "Is a directory" in reasons["7.png"]
  assert len(list((tmp_path / "out/overlays").glob("*.png"))) == 9


# -------------------------------------------------------------- packages


def _predicted(folder, names, labels) -> list[predict.Job]:
  """Pictures in FOLDER/in with their labels in FOLDER/out/labels."""
  for name in names:
    for path, array in (
      (folder / "in" / f"{name}.png", np.zeros((*labels.shape, 3), np.uint8)),
      (folder / "out/labels" / f"{name}.png", labels),
    ):
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(array).save(path)
  return predict.find_jobs([folder / "in"], folder / "out")


def _small(monkeypatch, name, num_images):
  """Makes the test split of a server as small as the test's."""
  server = predict.SERVERS[name]._replace(num_images=num_images)
  monkeypatch.setitem(predict.SERVERS, name, server)


def test_servers_expect_the_published_splits():
  assert predict.SERVERS["voc2012_comp6"].num_images == 1456
  assert predict.SERVERS["cityscapes"].num_images == 1525


def test_voc_package_has_folder_and_palette(tmp_path, monkeypatch):
  labels = np.array([[0, 1, 20], [15, 7, 0]], np.uint8)
  jobs = _predicted(tmp_path, ("2008_000006", "2011_003276"), labels)
  _small(monkeypatch, "voc2012_comp5", 2)
  archive = predict.pack("voc2012_comp5", jobs, tmp_path / "out")
  assert archive == tmp_path / "out/voc2012_comp5.tar.gz"
  folder = "results/VOC2012/Segmentation/comp5_test_cls"
  with tarfile.open(archive) as packed:
    names = [f"{folder}/2008_000006.png", f"{folder}/2011_003276.png"]
    assert packed.getnames() == names
    picture = Image.open(packed.extractfile(names[1]))
    np.testing.assert_array_equal(np.asarray(picture), labels)
  palette = np.reshape(picture.getpalette(), (256, 3))
  np.testing.assert_array_equal(palette, visualize.voc_colormap())


def test_cityscapes_package_has_the_own_ids(tmp_path, monkeypatch):
  labels = np.array([[0, 1, 2], [13, 17, 18]], np.uint8)
  name = "berlin/berlin_000000_000019_leftImg8bit"
  jobs = _predicted(tmp_path, (name,), labels)
  _small(monkeypatch, "cityscapes", 1)
  with zipfile.ZipFile(predict.pack("cityscapes", jobs, tmp_path / "out")) as f:
    assert f.namelist() == ["berlin_000000_000019.png"]
    with Image.open(f.open("berlin_000000_000019.png")) as picture:
      assert picture.mode == "L"
      sent = np.asarray(picture)
  # road, sidewalk, building; car, motorcycle, bicycle
  np.testing.assert_array_equal(sent, [[7, 8, 11], [26, 32, 33]])


def test_package_lists_every_fault(tmp_path, monkeypatch):
  labels = np.array([[0, 255]], np.uint8)
  jobs = _predicted(tmp_path, ("2008_000006", "holiday"), labels)
  Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(jobs[1].source)
  jobs.append(predict.Job(tmp_path / "2008_000007.jpg", "2008_000007.png"))
  with pytest.raises(ValueError) as caught:
    predict.pack("voc2012_comp6", jobs, tmp_path / "out")
  for fault in (
    "has 1456 pictures, got 3",
    "2008_000006.png: label 255, allowed are 0..20",
    "holiday.png: name is not like",
    "holiday.png: size is (2, 1), its picture's (2, 2)",
    "2008_000007.png: missing",
  ):
    assert fault in str(caught.value)
  assert not list((tmp_path / "out").glob("*.tar.gz"))


# --------------------------------------------------------------- command


def _run(*arguments, cache) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "deeplab_jax.predict", *map(str, arguments)],
    cwd=_REPOSITORY,
    env={**os.environ, "DEEPLAB_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )


def test_command_reports_what_failed(tmp_path, checkpoint, pixels, monkeypatch):
  Image.fromarray(pixels).save(tmp_path / "good.png")
  (tmp_path / "bad.jpg").write_text("no picture")
  done = _run(
    *(checkpoint, tmp_path, "--out", tmp_path / "out"),
    *("--output_stride", "16", "--scales", "1,1.5", "--flip"),
    cache=tmp_path / "cache",
  )
  assert done.returncode == 1, done.stderr
  assert "1 of 2 pictures done" in done.stdout
  assert f"failed: {tmp_path / 'bad.jpg'}: not a picture" in done.stderr
  with Image.open(tmp_path / "out/labels/good.png") as picture:
    assert picture.size == (30, 20)
  monkeypatch.setattr("deeplab_jax.runtime.start_runtime", lambda: None)
  alone = [str(checkpoint), str(tmp_path / "good.png")]
  assert predict.main([*alone, "--out", str(tmp_path / "again")]) == 0


def test_command_writes_what_its_flags_say(
  tmp_path, checkpoint, monkeypatch, capsys
):
  """A picture without an ending in a folder called like one, in windows."""
  monkeypatch.setattr("deeplab_jax.runtime.start_runtime", lambda: None)
  image = random_image(40, 130)
  (tmp_path / "x.jpg").mkdir()
  Image.fromarray(image).save(tmp_path / "x.jpg/a.png")
  Image.fromarray(image).save(tmp_path / "bare", "PNG")
  arguments = [str(checkpoint), str(tmp_path / "x.jpg"), str(tmp_path / "bare")]
  arguments += ["--out", str(tmp_path / "out"), "--no_overlay", "--tile", "65"]
  arguments += ["--probabilities", "--uncertainty"]
  assert predict.main(arguments) == 0
  said = capsys.readouterr()
  assert f"{tmp_path / 'x.jpg'} is a folder: the pictures in" in said.err
  assert "bare" not in said.err
  assert "2 of 2 pictures done" in said.out
  kinds = sorted(path.name for path in (tmp_path / "out").iterdir())
  assert kinds == ["labels", "probabilities", "uncertainty"]
  options = {"tile": 65, "max_pixels": 65 * 65}
  cut = deeplab_jax.load(checkpoint, **options).probabilities(image)
  whole = deeplab_jax.load(checkpoint).probabilities(image)
  assert np.abs(cut - whole).max() > 0.01  # so the flag makes a difference
  for name in ("a", "bare"):
    stored = np.load(tmp_path / f"out/probabilities/{name}.npy")
    np.testing.assert_allclose(stored, cut, atol=6e-4)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      ("{checkpoint}", "a.png", "--tile", "64"),
      "tile must be a multiple of 32",
    ),
    (("{checkpoint}", "a.png", "--tile", "0"), "plus 1, got 0"),
    (("{checkpoint}", "{checkpoint}"), "no pictures in folder"),
    (("nowhere", "a.png"), "no checkpoint at"),
    (("{checkpoint}", "a.png", "--output_stride", "12"), "must be 8, 16 or 32"),
    (("{checkpoint}", "a.png", "--scales", "0.3"), "multiples of 1/4"),
    (("{checkpoint}", "a.png", "--out", "/proc/x"), "--out /proc/x: "),
  ],
)
def test_command_refuses_in_one_line(
  arguments, message, tmp_path, checkpoint, monkeypatch, capsys
):
  monkeypatch.setattr("deeplab_jax.runtime.start_runtime", lambda: None)
  arguments = [word.format(checkpoint=checkpoint) for word in arguments]
  status = predict.main(["--out", str(tmp_path), *arguments])
  error = capsys.readouterr().err
  assert status == 1
  assert message in error.splitlines()[0] and error.startswith("error: ")


def test_a_full_disk_ends_the_command_in_one_line(
  checkpoint, pixels, tmp_path, monkeypatch, capsys
):
  """The next pictures would fare no better."""
  monkeypatch.setattr("deeplab_jax.runtime.start_runtime", lambda: None)
  for index in range(3):
    Image.fromarray(pixels).save(tmp_path / f"{index}.png")

  def fail(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", fail)
  arguments = [str(checkpoint), str(tmp_path), "--out", str(tmp_path / "out")]
  assert predict.main(arguments) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: the disk is full: ")
  assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
