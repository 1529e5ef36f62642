"""Masks of overlapping classes: files to records to batches."""

import re

import numpy as np
import pytest
from PIL import Image

from deeplab_jax import config as config_lib
from deeplab_jax import prepare
from deeplab_jax.data import augmentation, build, preprocess, segmentation
from deeplab_jax.data.augmentation import Augmentation
from deeplab_jax.data.preprocess import Crop
from deeplab_jax.data.reading import reading_of
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import overlapping
from tests import multilabel_scenes
from tests.multilabel_scenes import NAMES, WAYS
from tests.training_batches import GREY

_SCENES = multilabel_scenes.scenes(5)


def _config(root, **changes):
  config = config_lib.base_config()
  config.task = "multilabel"
  data_dir = str(root.parent / "data")
  config.data.update(name="folder", path=str(root), data_dir=data_dir)
  config.data.update(crop_size=(33, 49), **changes)
  return config


def _open(root, **changes):
  return open_dataset(_config(root, **changes).data, multilabel=True)


@pytest.mark.parametrize("how", WAYS)
def test_every_way_to_lay_out_masks_gives_the_same_records(
  how, tmp_path, capsys
):
  root = multilabel_scenes.write(tmp_path / "mine", how, _SCENES)
  dataset = _open(root)
  assert dataset.info.class_names == NAMES and dataset.info.multilabel
  assert dataset.eval.sizes(9) == [(64, 80)] * 2
  for source in (dataset.train, dataset.eval):
    for i in range(len(source)):
      example = source[i]
      image, label = _SCENES[example["name"]]
      np.testing.assert_array_equal(example["image"], image)
      np.testing.assert_array_equal(example["label"], label)
  said = capsys.readouterr().err
  assert "overlapping-masks" in said and "3 classes, disc, box, glow" in said
  assert re.search(r"masks/\S+ \(\d+ files\)", said)
  rare = dataset.train.with_labels([2])
  expected = [i for i in range(3) if (_SCENES[f"s_{i}"][1][..., 2] == 1).any()]
  assert rare == expected


def test_pictures_of_other_channels_are_read_by_builds_and_the_doctor(
  tmp_path, capsys
):
  """Four channels of 16 bits, the last of which is a copy."""
  root = multilabel_scenes.write(tmp_path / "mine", "folder a class", _SCENES)
  wide = {}
  for name, (image, _) in _SCENES.items():
    wide[name] = image[..., [0, 1, 2, 0]].astype(np.uint16) * 9
    (root / f"images/{name}.png").unlink()
    np.save(root / f"images/{name}.npy", wide[name])
  config = _config(root, channels=4, value_range=(0, 2295))
  dataset = open_dataset(config.data, multilabel=True)
  info = dataset.info
  assert (info.channels, info.image_dtype, info.multilabel) == (
    4,
    "uint16",
    True,
  )
  assert "channels: 4 of uint16" in capsys.readouterr().err
  samples = overlapping.MultilabelSamples(
    build.user_files(str(root)), reading_of(config.data, True), (0, 2295)
  )
  assert (samples.faults, samples.info.channels) == ([], 4)
  for split, source in (("train", dataset.train), ("val", dataset.eval)):
    for index, name in enumerate(samples.names(split)):
      example, sample = source[index], samples.read(split, index)
      assert example["name"] == name and not sample.faults
      np.testing.assert_array_equal(example["image"], wide[name])
      np.testing.assert_array_equal(example["label"], _SCENES[name][1])
      np.testing.assert_array_equal(sample.label == 1, example["label"] == 1)
      np.testing.assert_allclose(
        sample.image, wide[name] / 9, atol=1, err_msg=name
      )
  batch = next(
    segmentation.train_batches(
      dataset, config.data, batch_size=2, seed=0, padding_value=(0.0,) * 4
    )
  )
  assert batch["image"].shape == (2, 33, 49, 4)
  assert batch["label"].shape == (2, 33, 49, 3)
  with pytest.raises(ValueError, match=r"data\.tile .* overlap, got 64"):
    _open(root, channels=4, tile=64)
  with pytest.raises(ValueError, match=r"shape .h, w, 5., got .64, 80, 4"):
    _open(root, channels=5)


def test_white_is_there_without_another_number_and_files_may_be_missing(
  tmp_path,
):
  scenes = {n: (x, np.where(y == 255, 0, y)) for n, (x, y) in _SCENES.items()}
  root = tmp_path / "mine"
  save = multilabel_scenes._each("{class_name}/{name}", values=(0, 255, 255))
  for name, (image, label) in scenes.items():
    multilabel_scenes._save(root / f"images/{name}.png", image)
    save(root / "masks", name, label)
  (root / "masks/box/s_1.png").unlink()
  scenes["s_1"][1][..., 1] = 0
  white = np.zeros((64, 80), np.uint8)
  white[:, :9] = 255
  multilabel_scenes._save(root / "masks/void/s_2.png", white)
  scenes["s_2"][1][:, :9] = 255
  dataset = _open(root)
  assert dataset.info.class_names == tuple(sorted(NAMES))
  order = [NAMES.index(name) for name in dataset.info.class_names]
  found = {e["name"]: e["label"] for e in [*dataset.train, *dataset.eval]}
  assert found.keys() == scenes.keys()
  for name, (_, label) in scenes.items():
    np.testing.assert_array_equal(found[name], label[..., order])


def test_channels_that_fill_a_picture_up_are_no_classes(tmp_path):
  """Of two classes a picture has three channels, or an opaque alpha."""
  fillers = {"RGB": (0,), "LA": (), "RGBA": (0, 255)}
  for mode, values in fillers.items():
    root = tmp_path / mode
    scenes = {n: (x, y[..., :2]) for n, (x, y) in _SCENES.items()}
    for name, (image, label) in scenes.items():
      more = [np.full_like(label[..., :1], value) for value in values]
      multilabel_scenes._save(root / f"images/{name}.png", image)
      mask = np.concatenate([label, *more], -1)
      multilabel_scenes._save(root / f"masks/{name}.png", mask)
    (root / "classes.txt").write_text("disc\nbox\n")
    for example in _open(root).train:
      label = scenes[example["name"]][1]
      np.testing.assert_array_equal(example["label"], label)
  root = multilabel_scenes.write(
    tmp_path / "mine", "with alpha beside", _SCENES, listed=False
  )
  assert _open(root).info.class_names == ("class_0", "class_1", "class_2")


def _smooth(root):
  path = root / "masks/disc/s_0.png"
  grey = np.asarray(Image.open(path)).copy()
  grey[5:9, 5:9] = [[3, 9, 77, 128]]
  Image.fromarray(grey).save(path)


def _jpeg(root):
  path = root / "masks/disc/s_0.png"
  Image.open(path).save(path, "JPEG")


def _small(root):
  path = root / "masks/disc/s_0.png"
  Image.open(path).resize((40, 32), 0).save(path)


def _other_class(root):
  (root / "masks/disc").rename(root / "masks/ring")


def _other_image(root):
  (root / "masks/disc/s_0.png").rename(root / "masks/disc/t.png")


def _without(root):
  for name in NAMES:
    (root / f"masks/{name}/s_0.png").unlink()


def _both(root):
  multilabel_scenes._save(root / "masks/s_0.png", _SCENES["s_0"][1])


def _empty(root):
  for path in root.glob("masks/*/*.png"):
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(path)


def _doubtful(root):
  for path in root.glob("masks/box/*.png"):
    mask = np.asarray(Image.open(path))
    Image.fromarray(np.where(mask == 1, 255, mask)).save(path)


_FAULTS = {
  "disc must have 0 and one other number.*got 0, 1, 3, 9, 77": _smooth,
  "must be a PNG or another lossless file, got": _jpeg,
  "one size, got 40x32 and 80x64": _small,
  "classes must be of .*classes.txt, disc, box, glow, got 'ring'": _other_class,
  "called after an image in images/.*, got none": _other_image,
  "images/s_0.png: an image must have a mask of its name, got none": _without,
  "one file of all classes or one of each, got both": _both,
  "masks of train must have pixels of a class, got none": _empty,
  "alike, got 255 for box, and 1 for others": _doubtful,
}


@pytest.mark.parametrize("said", _FAULTS)
def test_bad_masks_are_refused_with_file_and_remedy(said, tmp_path):
  root = multilabel_scenes.write(tmp_path / "mine", "folder a class", _SCENES)
  _FAULTS[said](root)
  with pytest.raises(ValueError, match=said) as error:
    _open(root)
  assert all("; " in line for line in str(error.value).splitlines())


def test_prepare_builds_what_is_then_opened_and_names_steer_no_terminal(
  tmp_path, capsys
):
  root = multilabel_scenes.write(
    tmp_path / "mine", "folder a class", _SCENES, listed=False
  )
  (root / "masks/box").rename(root / "masks/b\x1b[31mox")
  arguments = ["folder", "--manual_dir", str(root), "--multilabel"]
  data_dir = str(tmp_path / "data")
  assert prepare.main([*arguments, "--data_dir", data_dir]) == 0
  said = capsys.readouterr()
  assert "3 classes" in said.out and "\x1b[31m" not in said.out + said.err
  built = list((tmp_path / "data/folder").glob("*/*/dataset_info.json"))
  dataset = _open(root)
  assert [dataset.directory / "dataset_info.json"] == built
  assert "\x1b" not in "".join(dataset.info.class_names)
  assert len(dataset.info.class_names) == 3


def test_a_file_of_other_channels_and_pixels_between_are_refused(tmp_path):
  root = multilabel_scenes.write(tmp_path / "mine", "array", _SCENES)
  np.save(root / "masks/s_0.npy", _SCENES["s_0"][1][..., :2])
  with pytest.raises(ValueError, match=r"must have 3 channels.*got 2"):
    _open(root)
  np.save(root / "masks/s_0.npy", _SCENES["s_0"][1] * 0.3)
  with pytest.raises(ValueError, match=r"must be 0 and 1, got 0\.3"):
    _open(root)
  with pytest.raises(ValueError, match="of the data set folder, got shapes"):
    build.directory("shapes", multilabel=True)


def test_all_planes_move_together_through_every_augmentation(tmp_path):
  """A picture that is its own mask tells where every plane has gone."""
  rng = np.random.default_rng(0)
  for classes in (1, 2, 5, 9):
    label = rng.integers(0, 2, (40, 50, 1)).astype(np.uint8)
    planes = np.concatenate([label, 1 - label] * 5, -1)[..., :classes]
    image = np.repeat(label * 100, 3, -1)
    asked = Augmentation(rotation=90.0, vertical_flip=True, cutout=0.5)
    drawn = Crop((40, 50), (3, 4), True)
    for seed in range(4):
      draws = [np.random.default_rng(seed) for _ in range(2)]
      found = []
      for given, draw in zip((planes, label[..., 0]), draws):
        pair = augmentation.crop(
          draw, image, given, drawn, (33, 33), GREY, asked
        )
        found.append(augmentation.disturb(draw, *pair, GREY, asked))
      (image_of_planes, all_planes), (image_of_one, one) = found
      np.testing.assert_array_equal(image_of_planes, image_of_one)
      assert all_planes.shape == (33, 33, classes)
      for i in range(classes):
        wanted = one if i % 2 == 0 else np.where(one == 255, 255, 1 - one)
        np.testing.assert_array_equal(all_planes[..., i], wanted)


def test_parts_are_pasted_with_all_their_planes():
  rng = np.random.default_rng(3)
  shape = (30, 40)
  here = np.zeros((*shape, 3), np.uint8)
  there = (rng.random((*shape, 3)) < 0.5).astype(np.uint8)
  images = (
    np.full((*shape, 3), 10, np.uint8),
    np.full((*shape, 3), 200, np.uint8),
  )
  for asked in (
    Augmentation(cutmix=1.0),
    Augmentation(classmix=1.0),
    Augmentation(copy_paste=1.0, copy_paste_classes=(1,)),
  ):
    image, label = augmentation.mix(
      rng, images[0], here, lambda rare: (images[1], there), asked
    )
    pasted = image[..., 0] == 200
    assert pasted.any()
    np.testing.assert_array_equal(label[pasted], there[pasted])
    assert not label[~pasted].any()
    if asked.copy_paste:
      np.testing.assert_array_equal(pasted, there[..., 1] == 1)


def test_batches_follow_from_seed_and_step_and_evaluation_shows_every_pixel(
  tmp_path,
):
  root = multilabel_scenes.write(tmp_path / "mine", "array", _SCENES)
  changes = {"rotation": 20.0, "noise": 5.0, "cutmix": 0.5, "classmix": 0.5}
  changes |= {"copy_paste": 0.5, "copy_paste_classes": (2,)}
  config = _config(root, **changes)
  dataset = _open(root, **changes)
  arguments = {"batch_size": 2, "seed": 7, "padding_value": GREY}

  def batches(start):
    return segmentation.train_batches(
      dataset, config.data, start_step=start, **arguments
    )

  first = [batch for batch, _ in zip(batches(0), range(4))]
  again = next(batches(3))
  assert first[0]["label"].shape == (2, 33, 49, 3)
  assert first[3]["name"] == again["name"]
  for key in ("image", "label"):
    np.testing.assert_array_equal(first[3][key], again[key])
  assert all(set(np.unique(b["label"])) <= {0, 1, 255} for b in first)
  config.data.update(resize_min=33, resize_max=65, resize_factor=16)
  sizes = segmentation.eval_sizes(dataset, config.data)
  whole = segmentation.whole(1, sizes[1])
  views = segmentation.Views((65, 97), (whole, None))
  (batch,) = segmentation.eval_batches(dataset, config.data, [views])
  height, width = sizes[1]
  label = preprocess.resize_nearest(dataset.eval[1]["label"], sizes[1])
  np.testing.assert_array_equal(batch["label"][0, :height, :width], label)
  assert (batch["label"][0, height:] == 255).all()
  assert (batch["label"][1] == 255).all()
