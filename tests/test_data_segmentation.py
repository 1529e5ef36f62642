"""Batches: reproducible, the same for any process count, every image once."""

import itertools

import numpy as np
import pytest

from deeplab_jax.config import base_config
from deeplab_jax.data import build, segmentation
from deeplab_jax.data.source import open_dataset

_GREY = (127.5, 127.5, 127.5)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("data"))
  build.build("shapes", data_dir=folder)
  return folder


@pytest.fixture
def config(data_dir):
  config = base_config().data
  config.update(name="shapes", data_dir=data_dir, crop_size=(65, 81))
  return config


def _train(config, count, **kwargs):
  arguments = {"batch_size": 4, "seed": 7, "padding_value": _GREY} | kwargs
  batches = segmentation.train_batches(
    open_dataset(config), config, **arguments
  )
  return [next(batches) for _ in range(count)]


def _evaluate(config, **kwargs):
  arguments = {"batch_size": 4, "padding_value": _GREY} | kwargs
  return list(
    segmentation.eval_batches(open_dataset(config), config, **arguments)
  )


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
  (batch,) = _train(config, 1)
  assert batch["image"].shape == (4, 65, 81, 3)
  assert batch["label"].shape == (4, 65, 81)
  assert batch["image"].dtype == batch["label"].dtype == np.uint8
  assert all(isinstance(name, str) for name in batch["name"])
  assert set(np.unique(batch["label"])) <= {*range(7), 255}


def test_train_batch_depends_on_seed_and_step_alone(config):
  batches = _train(config, 120)  # crosses the end of the first epoch
  for step in (0, 1, 99, 119):
    (resumed,) = _train(config, 1, start_step=step)
    _assert_equal(resumed, batches[step])
  (other,) = _train(config, 1, seed=8)
  assert other["name"] != batches[0]["name"]


def test_each_epoch_sees_every_image_once_in_another_order(config):
  config.train_split = "train[:12]"
  names = [name for batch in _train(config, 6) for name in batch["name"]]
  assert len(set(names[:12])) == len(set(names[12:])) == 12
  assert names[:12] != names[12:]


def test_repeated_images_get_new_crops(config):
  config.update(train_split="train[:1]", min_scale=2.0)
  (batch,) = _train(config, 1, batch_size=8)
  assert len({image.tobytes() for image in batch["image"]}) == 8


@pytest.mark.parametrize("count", [2, 4])
def test_train_batches_are_the_same_for_any_process_count(config, count):
  whole = _train(config, 3, start_step=5)
  parts = [
    _train(config, 3, start_step=5, process_index=i, process_count=count)
    for i in range(count)
  ]
  for batch, *rows in zip(whole, *parts):
    _assert_equal(_joined(rows), batch)


def test_worker_processes_give_the_batches_of_threads(config):
  threads = _train(config, 5, start_step=3)
  config.workers = 2
  for batch, other in zip(threads, _train(config, 5, start_step=3)):
    _assert_equal(batch, other)


def test_unaugmented_batch_is_the_source_padded(config):
  config.update(min_scale=1.0, max_scale=1.0, flip=False, crop_size=(129, 145))
  source = open_dataset(config).source("train")
  examples = {source[i]["name"]: source[i] for i in range(len(source))}
  (batch,) = _train(config, 1)
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
  (batch,) = _train(config, 1, batch_size=8)
  assert set(batch["name"]) == {f"train_{i:04d}" for i in range(3)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evaluation_sees_every_image_once(config, count):
  config.eval_split = "val[:13]"
  parts = [
    _evaluate(config, batch_size=6, process_index=i, process_count=count)
    for i in range(count)
  ]
  assert [len(part) for part in parts] == [3] * count
  batches = [_joined(rows) for rows in zip(*parts)]
  valid = np.concatenate([batch["valid"] for batch in batches])
  names = [name for batch in batches for name in batch["name"]]
  np.testing.assert_array_equal(valid, np.arange(18) < 13)
  assert names == [f"val_{i:04d}" for i in range(13)] + [""] * 5


def test_evaluation_pads_whole_images_with_ignore(config):
  config.eval_split = "val[:5]"
  source = open_dataset(config).source("val[:5]")
  batches = _evaluate(config)
  assert batches[0]["image"].shape == (4, 129, 129, 3)  # the largest is 128
  rows = [
    {key: batch[key][i] for key in batch} for batch in batches for i in range(4)
  ]
  for i, row in enumerate(rows):
    height, width = row["size"]
    if i < 5:
      assert (height, width) == source[i]["label"].shape
      np.testing.assert_array_equal(
        row["image"][:height, :width], source[i]["image"]
      )
      np.testing.assert_array_equal(
        row["label"][:height, :width], source[i]["label"]
      )
    else:
      assert (height, width) == (0, 0)
    assert (row["label"][height:] == 255).all()
    assert (row["label"][:, width:] == 255).all()
    assert row["size"].dtype == np.int32


def test_evaluation_limit_and_size(config):
  config.eval_size = (145, 161)
  batches = _evaluate(config, limit=6)
  assert sum(batch["valid"].sum() for batch in batches) == 6
  assert batches[0]["image"].shape == (4, 145, 161, 3)
  assert sum(b["valid"].sum() for b in _evaluate(config, limit=1000)) == 100


def test_evaluation_resizes_to_the_range(config):
  config.update(
    resize_min=65, resize_max=97, resize_factor=16, eval_size=(97, 97)
  )
  (batch,) = _evaluate(config, limit=4)
  assert (batch["size"] % 16 == 1).all() and (batch["size"].min(1) == 65).all()


def test_evaluation_in_worker_processes(config):
  config.eval_split = "val[:7]"
  threads = _evaluate(config)
  config.workers = 2
  workers = _evaluate(config)
  assert len(workers) == len(threads) == 2
  for batch, other in zip(threads, workers):
    _assert_equal(batch, other)


def test_eval_size_that_is_too_small_is_refused_at_once(config):
  config.eval_size = (129, 97)
  with pytest.raises(ValueError, match=r"data\.eval_size .* \(128, 128\)"):
    segmentation.eval_batches(
      open_dataset(config), config, batch_size=4, padding_value=_GREY
    )


def test_eval_size_is_needed_with_a_resize_range(config):
  config.resize_min = 65
  with pytest.raises(ValueError, match=r"data\.eval_size must be given"):
    segmentation.eval_batches(
      open_dataset(config), config, batch_size=4, padding_value=_GREY
    )


def test_batch_size_must_fit_the_processes(config):
  with pytest.raises(ValueError, match=r"multiple of the 3 processes, got 4"):
    _train(config, 1, process_count=3)


def test_unknown_split_lists_those_there_are(config):
  config.train_split = "trian"
  with pytest.raises(ValueError, match=r"'trian' must be one of train, val"):
    _train(config, 1)


def test_missing_data_set_names_the_command(config, tmp_path):
  config.update(name="camvid", data_dir=str(tmp_path), manual_dir="/my data")
  command = (
    r"python -m deeplab_jax\.prepare camvid --manual_dir '/my data' "
    rf"--data_dir {tmp_path}"
  )
  with pytest.raises(ValueError, match=command):
    _train(config, 1)


def test_unknown_data_set_lists_those_there_are(config):
  config.name = "shape"
  with pytest.raises(ValueError, match=r"data\.name must be one of .*shapes"):
    open_dataset(config)
