"""Batches: reproducible, the same for any process count, every image once."""

import itertools

import numpy as np
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import segmentation
from deeplab_jax.data.source import open_dataset
from tests.training_batches import train_batches


@pytest.fixture
def config(shapes_dir):
  config = base_config().data
  config.update(name="shapes", data_dir=shapes_dir, crop_size=(65, 81))
  return config


def _assert_equal(batch, other):
  assert batch.keys() == other.keys()
  assert batch["name"] == other["name"]
  for key in batch.keys() - {"name"}:
    np.testing.assert_array_equal(batch[key], other[key])


def _joined(parts):
  """The global batch of one batch per process."""
  return {
    key: list(itertools.chain(*(part[key] for part in parts)))
    if key == "name"
    else np.concatenate([part[key] for part in parts])
    for key in parts[0]
  }


def test_train_batch_has_the_promised_shapes(config):
  (batch,) = train_batches(config, 1)
  assert batch["image"].shape == (4, 65, 81, 3)
  assert batch["label"].shape == (4, 65, 81)
  assert batch["image"].dtype == batch["label"].dtype == np.uint8
  assert all(isinstance(name, str) for name in batch["name"])
  assert set(np.unique(batch["label"])) <= {*range(7), 255}


def test_train_batch_depends_on_seed_and_step_alone(config):
  batches = train_batches(config, 120)  # crosses the end of the first epoch
  for step in (0, 1, 99, 119):
    (resumed,) = train_batches(config, 1, start_step=step)
    _assert_equal(resumed, batches[step])
  (other,) = train_batches(config, 1, seed=8)
  assert other["name"] != batches[0]["name"]


def test_each_epoch_sees_every_image_once_in_another_order(config):
  config.train_split = "train[:12]"
  names = [name for batch in train_batches(config, 6) for name in batch["name"]]
  assert len(set(names[:12])) == len(set(names[12:])) == 12
  assert names[:12] != names[12:]


def test_repeated_images_get_new_crops(config):
  config.update(train_split="train[:1]", min_scale=2.0)
  (batch,) = train_batches(config, 1, batch_size=8)
  assert len({image.tobytes() for image in batch["image"]}) == 8


@pytest.mark.parametrize("count", [2, 4])
def test_train_batches_are_the_same_for_any_process_count(config, count):
  whole = train_batches(config, 3, start_step=5)
  parts = [
    train_batches(config, 3, start_step=5, process_index=i, process_count=count)
    for i in range(count)
  ]
  for batch, *rows in zip(whole, *parts):
    _assert_equal(_joined(rows), batch)


def test_worker_processes_give_the_batches_of_threads(config):
  threads = train_batches(config, 5, start_step=3)
  config.workers = 2
  for batch, other in zip(threads, train_batches(config, 5, start_step=3)):
    _assert_equal(batch, other)


def test_unaugmented_batch_is_the_source_padded(config):
  config.update(min_scale=1.0, max_scale=1.0, flip=False, crop_size=(129, 145))
  source = open_dataset(config).source("train")
  examples = {source[i]["name"]: source[i] for i in range(len(source))}
  (batch,) = train_batches(config, 1)
  for image, label, name in zip(
    *(batch[k] for k in ("image", "label", "name"))
  ):
    height, width = examples[name]["label"].shape
    np.testing.assert_array_equal(
      image[:height, :width], examples[name]["image"]
    )
    np.testing.assert_array_equal(
      label[:height, :width], examples[name]["label"]
    )
    assert (image[height:] == 128).all() and (image[:, width:] == 128).all()
    assert (label[height:] == 255).all() and (label[:, width:] == 255).all()


def test_batch_larger_than_the_data_set(config):
  config.train_split = "train[:3]"
  (batch,) = train_batches(config, 1, batch_size=8)
  assert set(batch["name"]) == {f"train_{i:04d}" for i in range(3)}


def test_evaluation_shows_whole_pictures_and_parts_of_them(config):
  config.eval_split = "val[:2]"
  dataset = open_dataset(config)
  examples = [dataset.eval[i] for i in range(2)]
  sizes = segmentation.eval_sizes(dataset, config)
  assert sizes == [example["label"].shape for example in examples]
  part = segmentation.View(1, (8, 40), (16, 400), (4, 20), (0, 30), (33, 129))
  batches = [
    segmentation.Views((145, 161), (segmentation.whole(0, sizes[0]), None)),
    segmentation.Views((33, 129), (part,)),
  ]
  first, second = segmentation.eval_batches(dataset, config, batches)
  height, width = sizes[0]
  assert first["image"].shape == (2, 145, 161, 3)
  assert first["size"].tolist() == [[height, width], [0, 0]]
  assert first["size"].dtype == first["crop"].dtype == np.int32
  assert first["name"] == [examples[0]["name"], ""]
  for key, padding in (("image", 0), ("label", 255)):
    found = first[key][0]
    shown = found[:height, :width]
    np.testing.assert_array_equal(shown, examples[0][key])
    assert (found[height:] == padding).all()
    assert (found[:, width:] == padding).all()
  assert (first["label"][1] == 255).all()
  # Only what the part decides counts.
  shown = examples[1]["label"][8:40, 16:]
  assert second["size"].tolist() == [list(shown.shape)]
  assert second["crop"].tolist() == [[33, 129]]
  label = second["label"][0]
  np.testing.assert_array_equal(label[4:20, :30], shown[4:20, :30])
  label[4:20, :30] = 255
  assert (label == 255).all()


def test_evaluation_is_limited_and_resized_to_the_range(config):
  config.update(resize_min=65, resize_max=97, resize_factor=16, eval_limit=4)
  dataset = open_dataset(config)
  sizes = segmentation.eval_sizes(dataset, config)
  assert len(sizes) == 4
  views = [segmentation.whole(i, size) for i, size in enumerate(sizes)]
  batches = [segmentation.Views((97, 97), tuple(views))]
  (batch,) = segmentation.eval_batches(dataset, config, batches)
  assert batch["size"].tolist() == [list(size) for size in sizes]
  assert (batch["size"] % 16 == 1).all() and (batch["size"].min(1) == 65).all()


@pytest.mark.slow
def test_evaluation_in_worker_processes(config):
  config.eval_split = "val[:7]"
  dataset = open_dataset(config)
  sizes = segmentation.eval_sizes(dataset, config)
  batches = [
    segmentation.Views((129, 129), (segmentation.whole(i, sizes[i]),))
    for i in (0, 1, 5, 6)
  ]

  def read():
    return list(segmentation.eval_batches(dataset, config, batches))

  threads = read()
  config.workers = 2
  for batch, other in zip(threads, read(), strict=True):
    _assert_equal(batch, other)


def test_batch_size_must_fit_the_processes(config):
  with pytest.raises(ValueError, match=r"multiple of the 3 processes, got 4"):
    train_batches(config, 1, process_count=3)


def test_a_loop_over_a_source_ends_with_its_last_image(config):
  source = open_dataset(config).train
  names = [example["name"] for example in source]
  assert len(names) == len(set(names)) == len(source)
  for index in (-1, len(source)):
    with pytest.raises(IndexError, match=rf"\[0, {len(source)}\), got {index}"):
      source[index]


def test_unknown_split_lists_those_there_are(config):
  config.train_split = "trian"
  with pytest.raises(ValueError, match=r"'trian' must be one of train, val"):
    train_batches(config, 1)


def test_missing_data_set_names_the_command(config, tmp_path):
  config.update(name="camvid", data_dir=str(tmp_path), manual_dir="/my data")
  command = (
    r"python -m deeplab_jax\.prepare camvid --manual_dir '/my data' "
    rf"--data_dir {tmp_path}"
  )
  with pytest.raises(ValueError, match=command):
    train_batches(config, 1)


def test_unknown_data_set_lists_those_there_are(config):
  config.name = "shape"
  with pytest.raises(ValueError, match=r"data\.name must be one of .*shapes"):
    open_dataset(config)
