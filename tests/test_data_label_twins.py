"""One picture of labels, saved in every way, with every list of classes.

Training reads what the build wrote and the doctor reads the files. Both must
find the labels that were drawn, or both must refuse the folder by the same
fault: never other labels.
"""

import pathlib
import struct
import zlib

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.reading import Reading
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor.samples import FolderSamples
from tests import doctor_scenes as scenes

_NAMES = ("ground", "roof", "tree", "pool", "road", "car")
_COLOURS = ((0, 0, 0), (200, 30, 40), (10, 220, 60), (20, 40, 230))
_IGNORED = 255


def _write_image(root, name):
  rng = np.random.default_rng(0)
  (root / "images").mkdir(parents=True, exist_ok=True)
  image = rng.integers(0, 256, (12, 16, 3), np.uint8)
  scenes.save(root / f"images/{name}.png", image)


def _labels(seed, count):
  """Labels (12, 16) that have each class."""
  labels = np.random.default_rng(seed).integers(0, count, (12, 16), np.uint8)
  labels.ravel()[:count] = range(count)
  return labels


# ------------------------------------------------------- ways of saving a mask
#
# Each takes numbers uint8 (h, w), and where numbers stand for colours (256, 3)
# these: greys if they are what the numbers are. None: it cannot be saved so.


def _as_grey(path, numbers, colors):
  scenes.save(path.with_suffix(".png"), numbers)


def _as_index(path, numbers, colors):
  picture = PIL.Image.fromarray(numbers)
  picture.putpalette(colors.tobytes())
  picture.save(path.with_suffix(".png"))


def _as_rgb(path, numbers, colors):
  scenes.save(path.with_suffix(".png"), colors[numbers])


def _as_rgba(path, numbers, colors):
  opaque = np.full((*numbers.shape, 1), 255, np.uint8)
  array = np.concatenate([colors[numbers], opaque], -1)
  scenes.save(path.with_suffix(".png"), array)


def _as_grey_alpha(path, numbers, colors):
  opaque = np.full_like(numbers, 255)
  scenes.save(path.with_suffix(".png"), np.dstack([numbers, opaque]))


def _as_type(dtype):
  def save(path, numbers, colors):
    cv2.imwrite(str(path.with_suffix(".tif")), numbers.astype(dtype))

  return save


def _as_16_bit_png(path, numbers, colors):
  cv2.imwrite(str(path.with_suffix(".png")), numbers.astype(np.uint16))


def _as_bmp(path, numbers, colors):
  scenes.save(path.with_suffix(".bmp"), colors[numbers])


def _as_lossless_webp(path, numbers, colors):
  scenes.save(path.with_suffix(".webp"), colors[numbers], lossless=True)


def _mixed(path, numbers, colors):
  """A folder in which each mask is saved by another program."""
  ways = _as_grey, _as_rgb, _as_index, _as_rgba, _as_16_bit_png
  ways[int(path.name[1:]) % len(ways)](path, numbers, colors)


_GREY_WAYS = {
  "L": _as_grey,
  "P": _as_index,
  "RGB": _as_rgb,
  "RGBA": _as_rgba,
  "LA": _as_grey_alpha,
  "16 bits": _as_16_bit_png,
  "uint16 TIFF": _as_type(np.uint16),
  "int16 TIFF": _as_type(np.int16),
  "float32 TIFF": _as_type(np.float32),
  "float64 TIFF": _as_type(np.float64),
  "WebP": _as_lossless_webp,
  "mixed": _mixed,
}
_GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)


# --------------------------------------------------- what numbers mean, by list

# Kind of masks -> numbers of the classes.
_NUMBERS = {
  "ids and void": (0, 1, 2),
  "black and white": (0, 255),
  "black and grey": (0, 200),
  "grey levels": (0, 96, 128),
  "steps": (0, 85, 170, 255),
}


def _list(root, kind, numbers):
  """Writes the list of classes of a kind."""
  names = _NAMES[: len(numbers)]
  if kind == "txt":
    (root / "classes.txt").write_text("".join(f"{n}\n" for n in names))
  elif kind == "yaml names":
    text = f"classes: [{', '.join(names)}]\n"
    (root / "classes.yaml").write_text(text)
  elif kind == "yaml colours":
    lines = [f"  {n}: [{v}, {v}, {v}]\n" for n, v in zip(names, numbers)]
    (root / "classes.yaml").write_text("classes:\n" + "".join(lines))


# (kind of masks, list) -> what all ways of saving give: labels, or a fault.
_FAULTS = {
  ("black and grey", "none"): "grey-levels",
  ("black and grey", "txt"): "id-out-of-range",
  ("black and grey", "yaml names"): "id-out-of-range",
  ("grey levels", "none"): "grey-levels",
  ("grey levels", "txt"): "id-out-of-range",
  ("grey levels", "yaml names"): "id-out-of-range",
  ("steps", "none"): "grey-levels",
  ("steps", "txt"): "id-out-of-range",
  ("steps", "yaml names"): "id-out-of-range",
}


def _built(config):
  """Class names and labels by name as training reads them; or the fault."""
  try:
    dataset = open_dataset(config.data)
  except BadExample as fault:
    return fault.code, None
  found = {}
  for source in (dataset.train, dataset.eval):
    for i in range(len(source)):
      found[source[i]["name"]] = _ignoring(source[i]["label"], dataset.info)
  return dataset.info.class_names, found


def _examined(config):
  """The same as the doctor reads them, and all faults."""
  root = pathlib.Path(config.data.path)
  samples = FolderSamples(Tree.open(root), Reading(nodata=config.data.nodata))
  codes = {fault.code for fault in samples.faults}
  found = {}
  for split in ("train", "val"):
    for i in range(len(samples.names(split))):
      sample = samples.read(split, i)
      codes |= {fault.code for fault in sample.faults}
      found[sample.name] = sample.label
  return (samples.info and samples.info.class_names), found, codes


def _ignoring(label, info):
  if info.ignore_label is None:
    return label
  return np.where(label == info.ignore_label, _IGNORED, label)


def _check(config, expected, fault=None):
  """Both doors give `expected` by name, or `fault`."""
  names, built = _built(config)
  looked, examined, codes = _examined(config)
  if fault:
    assert (names, built) == (fault, None)
    assert fault in codes
    return
  assert not codes
  assert names == looked
  assert built.keys() == examined.keys() == expected.keys()
  for name, labels in expected.items():
    np.testing.assert_array_equal(built[name], labels)
    np.testing.assert_array_equal(examined[name], labels)


@pytest.mark.parametrize("way", _GREY_WAYS)
@pytest.mark.parametrize(
  "listing", ["none", "txt", "yaml names", "yaml colours"]
)
@pytest.mark.parametrize("kind", _NUMBERS)
def test_numbers_mean_the_same_however_they_are_saved(
  tmp_path, kind, listing, way
):
  numbers, root = _NUMBERS[kind], tmp_path / "mine"
  table = np.array(numbers, np.uint8)
  expected = {}
  (root / "masks").mkdir(parents=True)
  for i in range(5):
    name = f"s{i}"
    labels = _labels(i, len(numbers))
    saved = table[labels]
    if kind == "ids and void":
      labels[5:7], saved[5:7] = _IGNORED, 255
    _write_image(root, name)
    _GREY_WAYS[way](root / f"masks/{name}", saved, _GREYS)
    expected[name] = labels
  _list(root, listing, numbers)
  _check(scenes.config(root), expected, _FAULTS.get((kind, listing)))


_COLOUR_WAYS = {
  "P": _as_index,
  "RGB": _as_rgb,
  "RGBA": _as_rgba,
  "BMP": _as_bmp,
  "WebP": _as_lossless_webp,
}
_PAINT = np.full((256, 3), 255, np.uint8)
_PAINT[:4] = _COLOURS


def _write_colours(root, way, order):
  """Masks of four colours with numbers in another order; labels by name."""
  labels = {}
  ways = list(_COLOUR_WAYS.values())
  (root / "masks").mkdir(parents=True)
  for i in range(5):
    name = f"s{i}"
    labels[name] = _labels(i, 4)
    numbers = np.array(order, np.uint8)[labels[name]]
    colors = _PAINT.copy()
    colors[list(order)] = _COLOURS
    save = ways[i] if way == "mixed" else _COLOUR_WAYS[way]
    _write_image(root, name)
    save(root / f"masks/{name}", numbers, colors)
  return labels


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
@pytest.mark.parametrize("way", [*_COLOUR_WAYS, "mixed"])
def test_listed_colours_mean_the_same_however_they_are_saved(
  tmp_path, order, way
):
  """Also where a palette numbers the colours in another order than the list."""
  root = tmp_path / "mine"
  expected = _write_colours(root, way, order)
  lines = [f"  {n}: {list(c)}\n" for n, c in zip(_NAMES, _COLOURS)]
  (root / "classes.yaml").write_text("classes:\n" + "".join(lines))
  _check(scenes.config(root), expected)


@pytest.mark.parametrize("way", [*_COLOUR_WAYS, "mixed"])
def test_several_colours_are_one_class_however_they_are_saved(tmp_path, way):
  root = tmp_path / "mine"
  labels = _write_colours(root, way, (0, 2, 1, 3))
  first, second, third, fourth = map(list, _COLOURS)
  (root / "classes.yaml").write_text(
    f"classes: {{a: {first}, b: [{second}, {fourth}], c: {third}}}"
  )
  expected = {name: np.where(x == 3, 1, x) for name, x in labels.items()}
  _check(scenes.config(root), expected)


@pytest.mark.parametrize("way", ["L", "P", "RGB", "16 bits", "mixed"])
def test_several_greys_are_one_class_however_they_are_saved(tmp_path, way):
  root, expected = tmp_path / "mine", {}
  (root / "masks").mkdir(parents=True)
  for i in range(5):
    labels = _labels(i, 3)
    _write_image(root, f"s{i}")
    saved = np.array((0, 96, 128), np.uint8)[labels]
    _GREY_WAYS[way](root / f"masks/s{i}", saved, _GREYS)
    expected[f"s{i}"] = np.minimum(labels, 1)
  (root / "classes.yaml").write_text(
    "classes: {a: [0, 0, 0], b: [[128, 128, 128], [96, 96, 96]]}"
  )
  _check(scenes.config(root), expected)


@pytest.mark.parametrize("listing", ["none", "txt", "yaml names"])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("way", ["1", "P", "L", "RGB", "mixed"])
def test_black_and_white_are_two_classes_however_they_are_saved(
  tmp_path, way, swapped, listing
):
  """One bit a pixel, or a palette that starts with white, as if quantised."""
  root, expected = tmp_path / "mine", {}
  (root / "masks").mkdir(parents=True)
  for i in range(4):
    name = f"s{i}"
    labels = expected[name] = _labels(i, 2)
    _write_image(root, name)
    kind = ("1", "P", "L", "RGB")[i] if way == "mixed" else way
    if kind == "P":
      picture = PIL.Image.fromarray(1 - labels if swapped else labels)
      order = [255] * 3 + [0] * 3 if swapped else [0] * 3 + [255] * 3
      picture.putpalette(order)
    else:
      picture = PIL.Image.fromarray(labels * np.uint8(255)).convert(kind)
    picture.save(root / f"masks/{name}.png")
  _list(root, listing, (0, 255))
  _check(scenes.config(root), expected)


@pytest.mark.parametrize(
  ("dtype", "value"),
  [
    (np.int16, -1),
    (np.int16, -9999),
    (np.int8, -1),
    (np.uint16, 65535),
    (np.int32, -(2**31)),
    (np.float32, np.nan),
    (np.float32, -9999.0),
    (np.float32, np.float32(-3.4e38)),
    (np.float64, np.nan),
    (np.uint8, 77),
  ],
)
@pytest.mark.parametrize("listing", ["none", "txt", "yaml names"])
def test_nothing_known_is_ignored_once_declared_and_else_refused(
  tmp_path, listing, dtype, value
):
  root, expected = tmp_path / "mine", {}
  (root / "masks").mkdir(parents=True)
  for i in range(3):
    labels = _labels(i, 3)
    mask = labels.astype(dtype)
    mask[5:7], labels[5:7] = value, _IGNORED
    _write_image(root, f"s{i}")
    picture = root / f"masks/s{i}.tif"
    assert cv2.imwrite(str(picture), mask)
    expected[f"s{i}"] = labels
  _list(root, listing, (0, 1, 2))
  config = scenes.config(root)
  names, built = _built(config)
  assert built is None, names  # refused
  _, _, codes = _examined(config)
  assert names in codes
  config.data.nodata = float(value)
  _check(config, expected)


@pytest.mark.parametrize("way", ["RGB", "RGBA", "BMP", "WebP"])
def test_nothing_known_is_ignored_in_masks_of_colours_as_well(tmp_path, way):
  """It is where red, green and blue are all the number."""
  root, expected = tmp_path / "mine", {}
  (root / "masks").mkdir(parents=True)
  for i in range(3):
    labels = _labels(i, 4)
    _write_image(root, f"s{i}")
    _COLOUR_WAYS[way](root / f"masks/s{i}", labels, _PAINT)
    expected[f"s{i}"] = np.where(labels == 0, _IGNORED, labels - 1)
  lines = [f"  {n}: {list(c)}\n" for n, c in zip(_NAMES, _COLOURS[1:])]
  (root / "classes.yaml").write_text("classes:\n" + "".join(lines))
  config = scenes.config(root)
  assert _built(config) == ("unlisted-colour", None)
  config.data.nodata = 0.0
  _check(config, expected)


@pytest.mark.parametrize("turn", [3, 6])
def test_a_mask_that_exif_turns_is_read_as_it_is_looked_at(tmp_path, turn):
  """As its image is, which has the same tag."""
  root, expected = tmp_path / "mine", {}
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = turn
  for i in range(3):
    labels = _labels(i, 3)
    for kind in ("images", "masks"):
      (root / kind).mkdir(parents=True, exist_ok=True)
      stored = np.dstack([40 * labels] * 3) if kind == "images" else labels
      scenes.save(root / kind / f"s{i}.png", stored, exif=exif)
    expected[f"s{i}"] = np.rot90(labels, 2 if turn == 3 else 3)
  config = scenes.config(root)
  _check(config, expected)
  for example in (open_dataset(config.data).eval[0],):
    image = expected[example["name"]] * 40
    np.testing.assert_array_equal(example["image"][..., 0], image)


@pytest.mark.parametrize("ignore", ["", "ignore_label: 255\n"])
def test_class_that_never_occurs_beside_ignored_pixels_is_refused(
  tmp_path, ignore
):
  """Unless the user says that 255 is ignored: it may be the missing class."""
  root, expected = tmp_path / "mine", {}
  (root / "masks").mkdir(parents=True)
  for i in range(3):
    labels = expected[f"s{i}"] = _labels(i, 2)
    labels[5:7] = 255
    _write_image(root, f"s{i}")
    scenes.save(root / f"masks/s{i}.png", labels)
  (root / "classes.yaml").write_text(f"classes: [a, b, c]\n{ignore}")
  fault = None if ignore else "absent-while-ignored"
  _check(scenes.config(root), expected, fault)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_numbers_of_few_bits_are_not_stretched(tmp_path, bits):
  """Decoders make 0..255 of greys of 1, 2 and 4 bits."""
  root, expected, count = tmp_path / "mine", {}, 2**bits
  (root / "masks").mkdir(parents=True)
  for i in range(3):
    labels = expected[f"s{i}"] = _labels(i, count)
    _write_image(root, f"s{i}")
    flags = [cv2.IMWRITE_PNG_BILEVEL, 1] if bits == 1 else []
    path = root / f"masks/s{i}.png"
    if flags:
      cv2.imwrite(str(path), labels * np.uint8(255), flags)
    else:
      path.write_bytes(_png(labels, bits))
  _check(scenes.config(root), expected)


def _png(labels, bits):
  """A grey PNG of `bits`, which neither Pillow nor OpenCV writes."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  height, width = labels.shape
  spread = np.unpackbits(labels[..., None], axis=-1)[..., 8 - bits :]
  packed = np.packbits(spread.reshape(height, -1), axis=1)
  rows = b"".join(b"\0" + row.tobytes() for row in packed)
  header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
  return b"".join(
    (
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", header),
      chunk(b"IDAT", zlib.compress(rows)),
      chunk(b"IEND", b""),
    )
  )
