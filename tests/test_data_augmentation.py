"""What is done to crops beyond the paper: picture and mask stay together."""

import numpy as np
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax.data import augmentation, preprocess
from deeplab_jax.data.augmentation import Augmentation
from deeplab_jax.data.classes import IGNORE
from deeplab_jax.data.preprocess import Crop
from tests.training_batches import GREY, train_batches

_ALL = {
  "rotation": 30.0,
  "vertical_flip": True,
  "blur": 1.5,
  "noise": 10.0,
  "cutout": 0.5,
  "cutmix": 0.5,
  "classmix": 0.5,
  "copy_paste": 0.5,
  "copy_paste_classes": (3, 5),
}


@pytest.fixture
def config(shapes_dir):
  config = config_lib.base_config().data
  config.update(name="shapes", data_dir=shapes_dir, crop_size=(65, 81))
  return config


def _assert_equal(batch, other):
  assert batch["name"] == other["name"]
  for key in ("image", "label"):
    np.testing.assert_array_equal(batch[key], other[key])


def test_nothing_is_asked_for_by_default(config):
  assert augmentation.from_config(config) is None
  config.update(_ALL)
  assert augmentation.from_config(config) == Augmentation(**_ALL)


@pytest.mark.parametrize("seed", range(12))
def test_a_marked_pixel_moves_with_its_mark(seed):
  rng = np.random.default_rng(seed)
  row, column = rng.integers(20, 40), rng.integers(25, 60)
  image = np.zeros((60, 90, 3), np.uint8)
  label = np.zeros((60, 90), np.uint8)
  image[row, column], label[row, column] = 255, 1
  drawn = Crop((120, 180), (15, 30), bool(seed % 2))
  asked = Augmentation(rotation=180.0, vertical_flip=True)
  image, label = augmentation.crop(
    rng, image, label, drawn, (97, 121), (0.0, 0.0, 0.0), asked
  )
  weights = image[..., 0].astype(float)
  marked = np.argwhere(label == 1)
  if not len(marked):  # turned out of the crop
    assert weights.max() < 255
    return
  middle = (np.indices(label.shape) * weights).sum((1, 2)) / weights.sum()
  np.testing.assert_allclose(marked.mean(0), middle, atol=0.75)
  assert set(np.unique(label)) <= {0, 1, IGNORE}


def test_a_turn_by_nothing_is_the_crop_and_a_quarter_is_a_quarter():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
  label = rng.integers(0, 5, (40, 50)).astype(np.uint8)
  for flip in (False, True):
    given = image, label, Crop((80, 100), (10, 20), flip), (33, 33), GREY
    expected = preprocess.take_crop(*given)
    found = augmentation._turned_crop(*given, 0.0)
    assert np.abs(expected[0].astype(int) - found[0]).max() <= 1
    assert (expected[1] == found[1]).mean() > 0.95  # nearest, at the halves
  given = image, label, Crop((40, 50), (2, 3), False), (33, 33), GREY
  straight = preprocess.take_crop(*given)
  turned = augmentation._turned_crop(*given, 90.0)
  for one, other in zip(straight, turned):
    np.testing.assert_array_equal(np.rot90(one), other)


def test_beyond_the_image_is_padding():
  image, label = np.full((30, 30, 3), 9, np.uint8), np.ones((30, 30), np.uint8)
  given = image, label, Crop((30, 30), (0, 0), False), (41, 41), (5.0,) * 3
  image, label = augmentation._turned_crop(*given, 45.0)
  assert set(np.unique(label)) == {1, IGNORE}
  assert (label[::40, ::40] == IGNORE).all() and (image[::40, ::40] == 5).all()
  inside = label == 1
  assert (image[inside][:, 0] == 9).mean() > 0.9
  assert (image[~inside][:, 0] == 5).mean() > 0.9


def _mixed(asked: Augmentation):
  """A crop of ones and zeros with parts of one of tens and labels 2 to 5."""
  image, label = np.ones((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
  there = np.repeat(np.arange(2, 6, dtype=np.uint8), 15)
  there = np.tile(there, (40, 1))
  there[:5] = IGNORE
  other = np.full((40, 60, 3), 10, np.uint8), there
  rare = []

  def draw(wanted):
    rare.append(wanted)
    return other

  rng = np.random.default_rng(0)
  return rare, there, augmentation.mix(rng, image, label, draw, asked)


def test_parts_are_pasted_with_their_labels():
  rare, there, (image, label) = _mixed(Augmentation(cutmix=1.0))
  part = (image == 10).all(-1)
  rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
  assert part.sum() == len(rows) * len(columns) > 0  # a box
  np.testing.assert_array_equal(label, np.where(part, there, 0))
  _, there, (image, label) = _mixed(Augmentation(classmix=1.0))
  part = (image == 10).all(-1)
  assert len(np.unique(there[part])) == 2 and IGNORE not in there[part]
  np.testing.assert_array_equal(part, np.isin(there, np.unique(there[part])))
  np.testing.assert_array_equal(label, np.where(part, there, 0))
  assert rare == [False]
  asked = Augmentation(copy_paste=1.0, copy_paste_classes=(4, 5))
  rare, there, (image, label) = _mixed(asked)
  assert rare == [True]
  part = np.isin(there, (4, 5))
  np.testing.assert_array_equal((image == 10).all(-1), part)
  np.testing.assert_array_equal(label, np.where(part, there, 0))
  assert not _mixed(Augmentation(cutmix=1e-9))[0]


def test_disturbances_leave_the_mask_but_for_the_hole():
  rng = np.random.default_rng(0)
  image = rng.integers(90, 160, (64, 96, 3)).astype(np.uint8)
  label = rng.integers(0, 5, (64, 96)).astype(np.uint8)
  given = image.copy(), label.copy()

  def disturbed(**fields):
    rng = np.random.default_rng(1)
    return augmentation.disturb(rng, image, label, GREY, Augmentation(**fields))

  blurred, same = disturbed(blur=3.0)
  assert same is label and blurred.std() < 0.7 * image.std()
  noisy, same = disturbed(noise=20.0)
  difference = noisy.astype(float) - image
  deviation = np.random.default_rng(1).uniform(0, 20)
  assert same is label and difference.std() == pytest.approx(
    deviation, rel=0.05
  )
  assert abs(difference.mean()) < 0.5
  holed, cut = disturbed(cutout=0.9)
  hole = cut == IGNORE
  assert 0 < hole.sum() < 0.81 * hole.size
  assert (holed[hole] == 128).all()
  np.testing.assert_array_equal(holed[~hole], image[~hole])
  np.testing.assert_array_equal(cut[~hole], label[~hole])
  for array, before in zip((image, label), given):
    np.testing.assert_array_equal(array, before)


def test_batches_with_all_of_it_depend_on_seed_and_step_alone(config):
  plain = train_batches(config, 12)
  config.update(_ALL)
  batches = train_batches(config, 12)
  for step in (0, 5, 11):
    (resumed,) = train_batches(config, 1, start_step=step)
    _assert_equal(resumed, batches[step])
    halves = [
      train_batches(
        config, 1, start_step=step, process_index=i, process_count=2
      )[0]
      for i in range(2)
    ]
    for key in ("image", "label"):
      joined = np.concatenate([half[key] for half in halves])
      np.testing.assert_array_equal(joined, batches[step][key])
  for batch, before in zip(batches, plain):
    assert batch["name"] == before["name"]
    assert (batch["image"] != before["image"]).any()
    assert set(np.unique(batch["label"])) <= {*range(7), IGNORE}
  config.workers = 2
  for batch, other in zip(batches, train_batches(config, 3)):
    _assert_equal(batch, other)


def test_only_classes_that_are_there_can_be_pasted(config):
  config.update(copy_paste=1.0, copy_paste_classes=(200,))
  with pytest.raises(
    ValueError, match=r"classes that train has pixels of, got"
  ):
    train_batches(config, 1)
  config.update(copy_paste_classes=(3,), flip=False, min_scale=1.0)
  config.update(max_scale=1.0, crop_size=(129, 145))
  plain = config.copy_and_resolve_references()
  plain.update(copy_paste=0.0, copy_paste_classes=())
  counts = [
    sum((batch["label"] == 3).sum() for batch in train_batches(settings, 8))
    for settings in (plain, config)
  ]
  assert counts[1] > 1.5 * counts[0]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"rotation": 181.0}, r"data\.rotation must be from 0 to 180, got 181\.0"),
    ({"blur": -1.0}, r"data\.blur must be from 0 to 20, got -1\.0"),
    ({"noise": 129.0}, r"data\.noise must be from 0 to 128, got 129\.0"),
    ({"cutout": 1.1}, r"data\.cutout must be from 0 to 1, got 1\.1"),
    ({"classmix": 2.0}, r"data\.classmix must be from 0 to 1, got 2\.0"),
    ({"copy_paste": 0.5}, r"copy_paste_classes must be one class or more, got"),
    ({"copy_paste_classes": (1,)}, r"must be \(\), as copy_paste is 0, got"),
  ],
)
def test_an_augmentation_beyond_its_range_is_refused(fields, message):
  config = config_lib.base_config()
  config.data.update(fields)
  with pytest.raises(ValueError, match=message) as caught:
    config_lib.check(config)
  assert "\n" not in str(caught.value)


def test_a_class_that_is_none_and_another_task_are_refused():
  config = config_lib.base_config()
  config.data.update(copy_paste=0.5, copy_paste_classes=(1, 21))
  config_lib.check(config)
  with pytest.raises(ValueError, match=r"indices from 0 to 20, got \(1, 21\)"):
    config_lib.check_classes(config, 21)
  config = config_lib.load("imagenet:runlocal")
  config.data.noise = 3.0
  with pytest.raises(
    ValueError, match=r"noise must be 0\.0, as classification"
  ):
    config_lib.check(config)
