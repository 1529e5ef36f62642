"""Any user's folder: layouts, classes, kinds of masks, faults."""

import os
import re
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build, datasets, segmentation
from deeplab_jax.data.builders import base, folder_classes
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import Tree
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor.samples import FolderSamples

_COLORS = np.array([(0, 0, 0), (200, 30, 40), (10, 220, 60)], np.uint8)


def _config(path, **fields):
  config = base_config().data
  config.update(
    name="folder",
    path=str(path),
    data_dir=str(path.parent / "data"),
    crop_size=(33, 33),
    **fields,
  )
  return config


def _write(root, masks, *, images="images", folder="masks"):
  """Images of noise, and masks as they are given, by name."""
  rng = np.random.default_rng(0)
  for name, mask in masks.items():
    for kind in (images, folder):
      (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(0, 256, (*mask.shape[:2], 3), np.uint8)
    PIL.Image.fromarray(image).save(root / images / f"{name}.png")
    PIL.Image.fromarray(mask).save(root / folder / f"{name}.png")


def _masks(count, classes=3, size=(20, 24)):
  rng = np.random.default_rng(1)
  return {
    f"scene_{i:02d}": rng.integers(0, classes, size, np.uint8)
    for i in range(count)
  }


def _examples(config, split):
  source = open_dataset(config).source(split)
  return {source[i]["name"]: source[i] for i in range(len(source))}


def _all(config):
  return _examples(config, "train") | _examples(config, "val")


@pytest.fixture
def root(tmp_path):
  folder = tmp_path / "mine"
  folder.mkdir()
  return folder


@pytest.mark.parametrize(
  "line",
  [
    "day/{}",
    "day/{}.png",
    r"day\{}",
    r".\images\day\{}.png",
    "images/day/{}.png",
    "images/day/{0}.png masks/day/{0}_gt.png",
    "images/day/{0}.png,masks/day/{0}_gt.png",
    r"images\day\{0}.png" + "\t" + r"masks\day\{0}_gt.png",
    "./images/day/{0} ./masks/day/{0}_gt",
    "day/{0} day/{0}",
  ],
)
def test_lines_of_lists_are_names_or_paths(root, line):
  names = ["a", "b c", "d", "e"] if " " not in line else ["a", "b", "d", "e"]
  masks = {f"day/{name}": np.eye(20, dtype=np.uint8) for name in names}
  _write(root, masks)
  for name in names:
    path = root / f"masks/day/{name}.png"
    path.rename(path.with_name(f"{name}_gt.png"))
  lines = [line.format(name) for name in names]
  (root / "train.txt").write_text("\r\n".join(lines[:3]))
  (root / "val.txt").write_text(lines[3])
  config = _config(root)
  assert sorted(_examples(config, "train")) == sorted(list(masks)[:3])
  assert list(_examples(config, "val")) == ["day/e"]
  if " " in line or "," in line or "\t" in line:
    (root / "val.txt").write_text(line.format("e").replace("e_gt", "d_gt"))
    if "_gt" in line:
      with pytest.raises(BadExample, match="must list images that are there"):
        open_dataset(config)


def test_indexed_masks_and_nothing_else(root):
  masks = _masks(25)
  _write(root, masks)
  config = _config(root)
  info = open_dataset(config).info
  assert info.class_names == ("class_0", "class_1", "class_2")
  assert info.ignore_label == 255 and len(info.colors) == 3
  assert len(_examples(config, "val")) == 2  # a tenth
  found = _all(config)
  assert found.keys() == masks.keys()
  for name, mask in masks.items():
    np.testing.assert_array_equal(found[name]["label"], mask)
    image = cv2.imread(str(root / f"images/{name}.png"))[..., ::-1]
    np.testing.assert_array_equal(found[name]["image"], image)


def test_drawn_split_moves_few_images_when_one_is_added(root):
  masks = _masks(40)
  names = list(masks)
  _write(root, {name: masks[name] for name in names[:-1]})
  before = _examples(_config(root), "val").keys()
  _write(root, {names[-1]: masks[names[-1]]})
  assert len(before - _examples(_config(root), "val").keys()) <= 1


def test_changed_files_are_built_anew(root):
  masks = _masks(3)
  _write(root, masks)
  _all(_config(root))
  name = "scene_00"
  changed = np.full((20, 24), 2, np.uint8)
  PIL.Image.fromarray(changed).save(root / f"masks/{name}.png")
  os.utime(root / f"masks/{name}.png", ns=(1, 1))
  np.testing.assert_array_equal(_all(_config(root))[name]["label"], changed)


def test_nested_folders_and_other_suffixes(root):
  masks = _masks(2)
  _write(root, {f"city/{name}": mask for name, mask in masks.items()})
  image = PIL.Image.open(root / "images/city/scene_00.png")
  image.save(root / "images/city/scene_00.JPG", "JPEG")
  (root / "images/city/scene_00.png").unlink()
  (root / "images/.DS_Store").write_bytes(b"?")
  (root / "images/city/._scene_00.png").write_bytes(b"left by macOS")
  assert _all(_config(root)).keys() == {"city/scene_00", "city/scene_01"}


def test_lists_and_names_of_classes(root):
  masks = _masks(5)
  _write(root, masks)
  names = list(masks)
  lines = "\r\n".join(names[:3]) + "\r\n"  # as Notepad saves them
  (root / "train.txt").write_text(lines, encoding="utf-8-sig")
  (root / "val.txt").write_text(f"{names[4]}.png\n")
  (root / "classes.txt").write_text("sky\nroad\ncar\nnever seen\n")
  config = _config(root)
  assert list(_examples(config, "train")) == names[:3]
  assert list(_examples(config, "val")) == names[4:]
  expected = ("sky", "road", "car", "never seen")
  assert open_dataset(config).info.class_names == expected


def test_one_list_leaves_the_rest_to_the_other_split(root):
  masks = _masks(5)
  _write(root, masks)
  (root / "val.txt").write_text("scene_01\n")
  config = _config(root)
  assert list(_examples(config, "val")) == ["scene_01"]
  assert len(_examples(config, "train")) == 4


def test_voc_layout_uses_its_lists_and_palette(shared):
  """The real CamVid folder, which also names its classes."""
  path = shared / "data/camvid"
  found = folder_classes.find(
    Tree.open(path), ["SegmentationClass/0001TP_006690.png"]
  )
  assert found.names == datasets.DATASETS["camvid"].class_names
  assert found.colors == datasets.DATASETS["camvid"].colors


def test_colour_masks_without_a_list(root):
  masks = _masks(12)
  _write(root, {name: _COLORS[mask] for name, mask in masks.items()})
  config = _config(root)
  info = open_dataset(config).info
  assert info.class_names == ("color_000000", "color_0adc3c", "color_c81e28")
  order = np.array([0, 2, 1], np.uint8)  # of _COLORS, by their codes
  for name, example in _all(config).items():
    np.testing.assert_array_equal(example["label"], order[masks[name]])


def test_few_colours_among_black_masks_are_classes(root):
  """As of flaws, which most pictures do not have."""
  masks = {
    name: mask // 2 * (i < 2)
    for i, (name, mask) in enumerate(_masks(12).items())
  }
  _write(root, {name: _COLORS[mask] for name, mask in masks.items()})
  for name, example in _all(_config(root)).items():
    np.testing.assert_array_equal(example["label"], masks[name])


def test_colour_masks_with_yaml(root):
  masks = _masks(6, classes=4)
  palette = np.concatenate([_COLORS, [[255, 255, 255]]]).astype(np.uint8)
  _write(root, {name: palette[mask] for name, mask in masks.items()})
  (root / "classes.yaml").write_text(
    "classes:\n"
    "  ground: [0, 0, 0]\n"
    "  roof: [200, 30, 40]\n"
    "  tree: [10, 220, 60]\n"
    "ignore_color: [255, 255, 255]\n"
  )
  config = _config(root)
  info = open_dataset(config).info
  assert info.class_names == ("ground", "roof", "tree")
  assert info.colors == tuple(tuple(c) for c in _COLORS.tolist())
  for name, example in _all(config).items():
    expected = np.where(masks[name] == 3, 255, masks[name])
    np.testing.assert_array_equal(example["label"], expected)


def test_black_and_white_masks_are_background_and_foreground(root):
  masks = {name: mask * 255 for name, mask in _masks(4, classes=2).items()}
  _write(root, masks)
  config = _config(root)
  info = open_dataset(config).info
  assert info.class_names == ("background", "foreground")
  assert info.ignore_label is None
  for name, example in _all(config).items():
    np.testing.assert_array_equal(example["label"], masks[name] // 255)


def test_indices_saved_as_grey_rgb_are_indices(root):
  masks = _masks(4)
  grey = {name: np.stack([mask] * 3, -1) for name, mask in masks.items()}
  _write(root, grey)
  config = _config(root)
  assert open_dataset(config).info.num_classes == 3
  for name, example in _all(config).items():
    np.testing.assert_array_equal(example["label"], masks[name])


@pytest.mark.parametrize("ignore", ["null", "0"])
def test_ignore_label_of_the_user(root, ignore):
  masks = _masks(4)
  _write(root, masks)
  (root / "classes.yaml").write_text(
    f"classes: [a, b, c]\nignore_label: {ignore}\n"
  )
  config = _config(root, eval_split="train")
  expected_ignore = None if ignore == "null" else 0
  assert open_dataset(config).info.ignore_label == expected_ignore
  dataset = open_dataset(config)
  sizes = segmentation.eval_sizes(dataset, config)
  batches = segmentation.eval_batches(
    dataset,
    config,
    [
      segmentation.Views(size, (segmentation.whole(i, size),))
      for i, size in enumerate(sizes)
    ],
  )
  for batch in batches:
    mask = masks[batch["name"][0]]
    if expected_ignore == 0:
      mask = np.where(mask == 0, 255, mask)
    np.testing.assert_array_equal(batch["label"][0, :20, :24], mask)


@pytest.mark.parametrize("folders", [("train", "val"), ("Training", "valid")])
@pytest.mark.parametrize(
  ("images", "masks"), [("images", "masks"), ("img_dir", "ann_dir")]
)
def test_folders_of_splits_are_the_splits(root, capsys, images, masks, folders):
  drawn = list(_masks(7).items())
  placed = {f"{folders[i < 3]}/{n}": mask for i, (n, mask) in enumerate(drawn)}
  placed["elsewhere"] = drawn[0][1]
  _write(root, placed, images=images, folder=masks)
  config = _config(root)
  for split, folder in zip(("train", "val"), folders):
    expected = {name for name in placed if name.startswith(f"{folder}/")}
    assert _examples(config, split).keys() == expected
  assert "unlisted-images: images are in no split" in capsys.readouterr().err


def test_one_folder_of_a_split_alone_is_no_split(root):
  _write(root, {f"train/{name}": mask for name, mask in _masks(10).items()})
  assert len(_examples(_config(root), "val")) == 1


def test_lists_win_over_folders_of_splits(root):
  masks = list(_masks(4).items())
  _write(
    root,
    {f"{'train' if i else 'val'}/{n}": m for i, (n, m) in enumerate(masks)},
  )
  (root / "val.txt").write_text(f"train/{masks[1][0]}\n")
  assert list(_examples(_config(root), "val")) == [f"train/{masks[1][0]}"]


def test_names_in_two_forms_of_unicode_match_and_it_is_said(root, capsys):
  """A mask from macOS, whose names are decomposed, for an image from Linux."""
  masks = dict(zip(("Stra\u00dfe", "caf\u00e9"), _masks(2).values()))
  _write(root, masks)
  path = root / "masks/caf\u00e9.png"
  path.rename(root / "masks/cafe\u0301.png")
  (root / "train.txt").write_text("cafe\u0301.jpg\n", "utf-8")
  found = _all(_config(root))
  assert found.keys() == masks.keys()
  np.testing.assert_array_equal(found["caf\u00e9"]["label"], masks["caf\u00e9"])
  assert "matched-names: names of images and masks" in capsys.readouterr().err


def test_two_files_that_differ_only_in_unicode_are_told_apart(root):
  _write(root, {"caf\u00e9": _masks(1)["scene_00"]})
  shutil.copy(root / "images/caf\u00e9.png", root / "images/cafe\u0301.png")
  message = r"images/caf.*: .* same letters in another Unicode form"
  with pytest.raises(ValueError, match=message) as refused:
    open_dataset(_config(root))
  assert r"caf\xe9" in str(refused.value) and r"e\u0301" in str(refused.value)


@pytest.mark.parametrize("name", [b"stra\xdfe", b"bell\x07\x1b[31m", b"a\nb"])
def test_names_that_no_terminal_shows_are_escaped(root, name):
  """Bytes of another encoding, as an old archive leaves them, and controls."""
  masks = _masks(3)
  _write(root, masks)
  shown = {
    b"stra\xdfe": r"stra\xdfe",
    b"a\nb": r"a\nb",
  }.get(name, r"bell\x07\x1b[31m")
  for folder in ("images", "masks"):
    path = os.fsencode(root / folder)
    os.rename(path + b"/scene_01.png", path + b"/" + name + b".png")
  found = _all(_config(root))
  np.testing.assert_array_equal(found[shown]["label"], masks["scene_01"])
  mask = os.fsencode(root / "masks") + b"/" + name + b".png"
  with open(mask, "wb") as file:
    file.write(b"cut")
  with pytest.raises(ValueError) as refused:
    open_dataset(_config(root))
  assert f"masks/{shown}.png: cannot be decoded" in str(refused.value)


def test_what_may_be_meant_is_printed_once(root, capsys):
  _write(root, _masks(5))
  (root / "classes.txt").write_text("sky\nroad\ncar\nnever seen\n")
  rng = np.random.default_rng(0)
  deep = rng.integers(0, 3000, (20, 24, 3), np.uint16)
  cv2.imwrite(str(root / "images/scene_01.png"), deep)
  config = _config(root)
  for _ in range(2):
    _all(config)
  said = capsys.readouterr().err.splitlines()
  said = [line for line in said if line.startswith("warning: ")]
  assert len(said) == 2
  assert re.search(r"class-absent: .* \(never seen \(3\)\)", said[0])
  assert re.search(
    r"deep-image: .*scene_01\.png: 16 bits, at most 1[12]", said[1]
  )


def test_nodata_is_of_the_data_set_folder_alone(tmp_path):
  with pytest.raises(ValueError, match=r"data\.nodata .* got -1 for camvid"):
    build.directory("camvid", str(tmp_path), nodata=-1.0)


def test_single_image_is_both_splits(root):
  _write(root, _masks(1))
  config = _config(root)
  assert list(_examples(config, "train")) == list(_examples(config, "val"))
  batch = next(
    segmentation.train_batches(
      open_dataset(config),
      config,
      batch_size=2,
      seed=0,
      padding_value=(127.5,) * 3,
    )
  )
  assert batch["name"] == ["scene_00"] * 2


def test_bit_masks_of_mode_1(root):
  mask = np.zeros((20, 24), bool)
  mask[5:, 7:] = True
  _write(root, {"a": mask, "b": ~mask})
  found = _all(_config(root))
  np.testing.assert_array_equal(found["a"]["label"], mask)


def test_image_turned_by_exif_is_turned_to_fit_its_mask(root):
  _write(root, _masks(2, size=(20, 24)))
  stored = np.array(PIL.Image.open(root / "images/scene_00.png"))
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = 6  # stored on its side
  PIL.Image.fromarray(np.rot90(stored).copy()).save(
    root / "images/scene_00.png", exif=exif
  )
  example = _all(_config(root))["scene_00"]
  np.testing.assert_array_equal(example["image"], stored)


def _remove(root, path):
  (root / path).unlink()


def _resize_smoothly(root):
  for name, mask in _masks(3).items():
    large = PIL.Image.fromarray(_COLORS[mask]).resize((96, 80))  # bicubic
    large.save(root / f"masks/{name}.png")
    image = PIL.Image.open(root / f"images/{name}.png")
    image.resize((96, 80)).save(root / f"images/{name}.png")


def _save_as_jpeg(root):
  mask = PIL.Image.open(root / "masks/scene_01.png")
  mask.save(root / "masks/scene_01.jpg", "JPEG")
  (root / "masks/scene_01.png").unlink()


def _save_as(root, name, array):
  PIL.Image.fromarray(array).save(root / f"masks/{name}.png")


def _index(root, name, mask, order):
  """Saves a mask with a palette in which the colours are in `order`."""
  picture = PIL.Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
  picture.putpalette(_COLORS[order].tobytes())
  picture.save(root / f"masks/{name}.png")


def _save_mask(root, array):
  PIL.Image.fromarray(array).save(root / "masks/scene_01.png")


_YAML = "classes: {{a: {}, b: [1, 1, 1], c: [2, 2, 2]}}"
_FAULTS = {
  "no masks": (
    lambda root: shutil.rmtree(root / "masks"),
    r"mine: must have images/ and masks/",
  ),
  "a mask without image": (
    lambda root: _remove(root, "images/scene_01.png"),
    r"masks/scene_01\.png: a mask must have an image",
  ),
  "an image without mask": (
    lambda root: _remove(root, "masks/scene_01.png"),
    r"images/scene_01\.png: an image must have a mask",
  ),
  "two images of a name": (
    lambda root: shutil.copy(
      root / "images/scene_01.png", root / "images/scene_01.jpg"
    ),
    r"scene_01\.png: a name must have one file, got images/scene_01\.jpg",
  ),
  "a list with an unknown name": (
    lambda root: (root / "train.txt").write_text("scene_00\nscene_99\n"),
    r"train\.txt: must list images that are there, got scene_99",
  ),
  "an empty list": (
    lambda root: (root / "val.txt").write_text("\n"),
    r"val\.txt: must list images that are there, got no line",
  ),
  "a list that is no text": (
    lambda root: (root / "val.txt").write_bytes(b"\xff\xfe\x00"),
    r"val\.txt: must be UTF-8 text",
  ),
  "a list of several names that are not there": (
    lambda root: (root / "train.txt").write_text("s\nt\nu\nv\nw\nx\ny\n"),
    r"must list images that are there, got s, t, u, v, w and 2 more; ",
  ),
  "a list in UTF-16 without its mark": (
    lambda root: (root / "val.txt").write_bytes("scene".encode("utf-16-le")),
    r"val\.txt: must be UTF-8 text \(it has zero bytes",
  ),
  "masks of 0 and 1 beside such of 0 and 255": (
    lambda root: [
      _save_as(root, n, np.uint8(mask > 0) * np.uint8(1 if i else 255))
      for i, (n, mask) in enumerate(_masks(3).items())
    ],
    r"scene_00\.png: masks must write class_1 alike, got 255, and 1 in .*"
    r"scene_0[12]\.png; if 255 is to be ignored",
  ),
  "a TIFF that is cut off": (
    lambda root: (
      PIL.Image.open(root / "masks/scene_01.png").save(
        root / "masks/scene_01.tif"
      ),
      _remove(root, "masks/scene_01.png"),
      os.truncate(root / "masks/scene_01.tif", 300),
    ),
    r"scene_01\.tif: cannot be decoded",
  ),
  "masks of one class": (
    lambda root: [_save_as(root, n, 0 * m) for n, m in _masks(3).items()],
    r"scene_00\.png: .* two classes or more, got only class_0 \(0\) in all; ",
  ),
  "a split without a label": (
    lambda root: (
      (root / "val.txt").write_text("scene_01\n"),
      _save_mask(root, np.full((20, 24), 255, np.uint8)),
    ),
    r"mine: no pixel of val is labelled; choose a split",
  ),
  "palettes of their own": (
    lambda root: [
      _index(root, name, mask, order)
      for (name, mask), order in zip(
        _masks(3).items(), ([0, 1, 2], [0, 1, 2], [0, 2, 1])
      )
    ],
    r"scene_02\.png: one colour must have one number .* got 1 for \(10, ",
  ),
  "a lossy WebP for a mask": (
    lambda root: (
      PIL.Image.open(root / "masks/scene_01.png").save(
        root / "masks/scene_01.webp"
      ),
      _remove(root, "masks/scene_01.png"),
    ),
    r"scene_01\.webp: a mask must be a PNG .* got lossy WebP",
  ),
  "a mask of colours of 16 bits": (
    lambda root: cv2.imwrite(
      str(root / "masks/scene_01.png"), np.zeros((20, 24, 3), np.uint16)
    ),
    r"scene_01\.png: .* 8 bits, got 3 bands of uint16",
  ),
  "an image of signed numbers": (
    lambda root: (
      cv2.imwrite(
        str(root / "images/scene_01.tif"), np.zeros((20, 24), np.int16)
      ),
      _remove(root, "images/scene_01.png"),
    ),
    r"scene_01\.tif: must have 8 or 16 bits without sign, got int16",
  ),
  "too few names of classes": (
    lambda root: (root / "classes.txt").write_text("a\n"),
    r"scene_\d\d\.png: values must be 0, 255, got 1, 2",
  ),
  "yaml that is none": (
    lambda root: (root / "classes.yaml").write_text("classes: [a, b"),
    r"classes\.yaml: must be YAML",
  ),
  "yaml with an unknown field": (
    lambda root: (root / "classes.yaml").write_text("classes: [a]\nignore: 3"),
    r"classes\.yaml: must have classes, .* ignore_label and ignore_color",
  ),
  "yaml without classes": (
    lambda root: (root / "classes.yaml").write_text("ignore_label: 255"),
    r"classes\.yaml: must have classes",
  ),
  "yaml with a class twice": (
    lambda root: (root / "classes.yaml").write_text("classes: [a, b, a]"),
    r"classes\.yaml: each class must have a name of its own, got a twice",
  ),
  "yaml with a key twice": (
    lambda root: (root / "classes.yaml").write_text(
      "classes: {a: [0, 0, 0], a: [1, 1, 1]}"
    ),
    r"classes\.yaml: must be YAML \(a is there twice\)",
  ),
  "yaml with a colour twice": (
    lambda root: (root / "classes.yaml").write_text(
      "classes: {a: [0, 0, 0], b: [0, 0, 0]}"
    ),
    r"classes\.yaml: each colour must be used once, got b's twice",
  ),
  "yaml with classes that are no names": (
    lambda root: (root / "classes.yaml").write_text("classes: [{a: 1}]"),
    r"classes\.yaml: must have classes, a list of names",
  ),
  "no names of classes": (
    lambda root: (root / "classes.txt").write_text("\n"),
    r"classes\.txt: must have a class name a line, got none",
  ),
  "a class named twice": (
    lambda root: (root / "classes.txt").write_text("a\nb\na\n"),
    r"classes\.txt: each class must have a name of its own, got a twice",
  ),
  "a link to nothing": (
    lambda root: (
      _remove(root, "masks/scene_01.png"),
      (root / "masks/scene_01.png").symlink_to(root / "gone.png"),
    ),
    r"scene_01\.png: cannot be read",
  ),
  "yaml with a colour that is none": (
    lambda root: (root / "classes.yaml").write_text(
      _YAML.format("[0, 0, 256]")
    ),
    r"classes\.yaml: the colour of a must be \[r, g, b\] of 0\.\.255",
  ),
  "yaml with an ignore label beyond 8 bits": (
    lambda root: (root / "classes.yaml").write_text(
      "classes: [a, b, c]\nignore_label: -1"
    ),
    r"classes\.yaml: ignore_label must be 0\.\.255 or null, got -1",
  ),
  "yaml with a colour to ignore and no label for it": (
    lambda root: (root / "classes.yaml").write_text(
      "classes: [a, b, c]\nignore_label: null\nignore_color: [9, 9, 9]"
    ),
    r"classes\.yaml: ignore_label must be 0\.\.255 where there is",
  ),
  "names of classes for masks of colours": (
    lambda root: (
      _save_mask(root, _COLORS[_masks(2)["scene_01"]]),
      (root / "classes.txt").write_text("a\nb\nc\n"),
    ),
    r"scene_01\.png: a mask of colours needs classes\.yaml",
  ),
  "a colour that yaml does not list": (
    lambda root: (
      _save_mask(root, _COLORS[_masks(2)["scene_01"]]),
      (root / "classes.yaml").write_text(_YAML.format("[0, 0, 0]")),
    ),
    r"scene_01\.png: colours must be the 3 .* got \(10, 220, 60\)",
  ),
  "one mask of colours": (
    lambda root: _save_mask(root, _COLORS[_masks(2)["scene_01"]]),
    r"scene_01\.png: a mask of colours needs classes\.yaml",
  ),
  "one mask of labels among colours": (
    lambda root: [
      PIL.Image.fromarray(_COLORS[mask]).save(root / f"masks/{name}.png")
      for name, mask in _masks(3).items()
      if name != "scene_01"
    ],
    r"scene_01\.png: masks must be all in colours or all indexed, got both",
  ),
  "masks of colours resized with smoothing": (
    _resize_smoothly,
    r"masks of colours must have at most 255 of them, got \d{3,}",
  ),
  "a mask saved as JPEG": (
    _save_as_jpeg,
    r"scene_01\.jpg: a mask must be a PNG .* got JPEG",
  ),
  "a mask of another size": (
    lambda root: _save_mask(root, np.zeros((24, 20), np.uint8)),
    r"scene_01\.png: .* size of its image, 24x20, got 20x24",
  ),
  "a 16-bit mask of large values": (
    lambda root: _save_mask(root, np.full((20, 24), 7000, np.uint16)),
    r"at most 255 classes, got 7001",
  ),
  "a mask that is cut off": (
    lambda root: (root / "masks/scene_01.png").write_bytes(
      (root / "masks/scene_01.png").read_bytes()[:60]
    ),
    r"scene_01\.png: cannot be decoded",
  ),
  "an image of a kind that OpenCV does not read": (
    lambda root: PIL.Image.open(root / "images/scene_01.png").save(
      root / "images/scene_01.png", "PCX"
    ),
    r"scene_01\.png: must be an image that OpenCV reads",
  ),
  "an image that is text": (
    lambda root: (root / "images/scene_01.png").write_text("hello"),
    r"scene_01\.png: cannot be decoded",
  ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_fault_is_refused_by_name_and_the_doctor_says_the_same(root, fault):
  plant, message = _FAULTS[fault]
  _write(root, _masks(3))
  plant(root)
  config = _config(root)
  with pytest.raises(ValueError, match=message) as refused:
    open_dataset(config)
  every = (refused.value, *refused.value.others)
  if refused.value.code != "mask-size":  # of which the doctor says more
    assert set(map(_alone, every)) <= _said_by_the_doctor(root)
  message = str(refused.value)
  assert len(message.splitlines()) == len({fault.code for fault in every})


def _alone(fault) -> str:
  return str(BadExample(fault.file, fault.code, fault.problem))


def test_all_faults_are_counted_and_some_named(root, monkeypatch):
  """A line for each kind, as long as it does not take too long to look."""
  _write(root, _masks(12))
  for i in range(7):
    (root / f"masks/scene_{i:02d}.png").write_bytes(b"no picture")
  _save_as(root, "scene_08", np.zeros((9, 9), np.uint8))
  with pytest.raises(
    ValueError, match=r"the same of 6 more: .*, \.\.\."
  ) as all:
    open_dataset(_config(root))
  lines = str(all.value).splitlines()
  assert len(lines) == 2 and lines[0].count("no known format") == 1
  assert sorted(line.count("masks/scene_") for line in lines) == [1, 4]
  monkeypatch.setattr(base, "_SECONDS_LOOKING", -1.0)
  with pytest.raises(ValueError) as some:
    open_dataset(_config(root))
  assert not some.value.is_all
  assert "\n" not in str(some.value)


def _said_by_the_doctor(root) -> set[str]:
  try:
    samples = FolderSamples(Tree.open(root))
  except BadExample as fault:
    return {str(fault)}
  faults = list(samples.faults)
  for split in ("train", "val"):
    for index in range(len(samples.names(split))):
      faults += samples.read(split, index).faults
  return set(map(str, faults))


def test_path_must_be_given_and_be_there(root):
  for path in ("", "nowhere"):
    config = _config(root)
    config.path = path
    with pytest.raises(ValueError, match=rf"data\.path .* got '{path}'"):
      open_dataset(config)


def test_what_skip_bad_leaves_must_have_two_classes(root):
  masks = {f"scene_{i}": np.zeros((20, 24), np.uint8) for i in range(3)}
  masks["scene_3"] = np.full((20, 24), 9, np.uint8)
  _write(root, masks)
  (root / "classes.txt").write_text("sky\nroad\n")
  arguments = {"data_dir": str(root.parent / "data"), "manual_dir": str(root)}
  with pytest.raises(ValueError, match=r"scene_3\.png: values must be"):
    build.build("folder", **arguments)
  with pytest.raises(ValueError, match=r"got only sky \(0\) in all"):
    build.build("folder", **arguments, skip_bad=True)


def test_skip_bad_lists_and_leaves_out(root):
  _write(root, _masks(12))
  (root / "images/scene_03.png").write_text("hello")
  data_dir = str(root.parent / "data")
  skipped = build.build(
    "folder", data_dir=data_dir, manual_dir=str(root), skip_bad=True
  )
  assert len(skipped) == 1 and "scene_03.png: cannot be decoded" in skipped[0]
  assert len(_all(_config(root))) == 11
