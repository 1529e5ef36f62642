"""Uses what one change of docs/extending.md adds, in a copy that has it.

python -m tests.programs.extended loss|backbone|data_set|branch|served
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

from deeplab_jax import config as config_lib
from deeplab_jax import import_weights, optimizer, prepare, sharding, tasks
from deeplab_jax.data import build, datasets
from deeplab_jax.data.source import open_dataset
from deeplab_jax.doctor import overfit
from deeplab_jax.inference import crops, predict_fn
from deeplab_jax.models import (
  Classifier,
  DeepLab,
  model_from_dict,
  model_to_dict,
  padding_value,
)
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.summary import multiply_adds
from deeplab_jax.summary.__main__ import main as summary
from deeplab_jax.tasks.segmentation import make_loss
from deeplab_jax.train.state import create_state, init_state
from deeplab_jax.train.step import make_train_step
from tests.programs.train_tiny import Tiny, batch_of
from tests.test_models_atrous import check_consistency
from tests.tiny_segmenter import (
  make_variables,
  random_image,
  segmenter,
  small_model,
)


def loss() -> None:
  """Equals its definition, trains, is logged by its name and not judged."""
  config = _config(accumulate_steps=2)
  config.loss.update(name="doubting", doubt=0.5)
  config_lib.check(config)
  made = make_loss(config)
  _check_doubting(made.sums)
  mesh, rule = sharding.make_mesh(), optimizer.make_optimizer(config)
  state = init_state(Tiny(), rule, (17, 17), 0, mesh)
  step = make_train_step(Tiny(), made, rule, config, mesh)
  batch, figures = batch_of(0), []
  for _ in range(20):
    state, metrics = step(state, batch)
    figures.append({name: float(value) for name, value in metrics.items()})
  assert "cross_entropy" not in figures[0]
  assert figures[-1]["doubting"] < 0.9 * figures[0]["doubting"], figures
  parts = figures[0]["doubting"] + figures[0]["weight_decay"]
  np.testing.assert_allclose(figures[0]["loss"], parts, rtol=1e-6)
  fall = [row["doubting"] for row in figures]
  result = overfit.Overfit(fall, None, (2, 17, 17), ("a",), 1.0, "doubting")
  assert result.fell is None and "doubting" in str(result)
  assert not list(overfit.findings(result, config))
  config.loss.class_weights = (1.0,) * 21
  with pytest.raises(ValueError, match="the loss 'doubting' takes no other"):
    config_lib.check(config)


def _check_doubting(sums) -> None:
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
  labels = rng.integers(0, 3, (2, 5, 7)).astype(np.uint8)
  labels[0, :2] = 255
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  kept = labels != 255
  of_labels = shares[kept][np.arange(kept.sum()), labels[kept]]
  total, count = sums(logits, labels, step=0)
  expected = ((1 - of_labels**0.5) / 0.5).sum()
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  assert count == kept.sum()


def backbone() -> None:
  """Is a backbone for the network, a classifier, a config, every door."""
  name = "basicnet_18"
  check_consistency(name, (65, 33))
  classifier = Classifier(3, name)
  assert set(_shapes(classifier)["params"]) == {"backbone", "logits"}
  names = import_weights.official_shapes(classifier)
  assert f"{name}/stem/weights" in names
  assert len(names) == len(jax.tree.leaves(_shapes(classifier)))
  assert import_weights.official_shapes(DeepLab(3, name, 8))
  counted = multiply_adds(classifier, (64, 64))
  sizes = (64 * 16**2, 128 * 8**2, 256 * 4**2, 512 * 2**2)
  assert counted.additions == 2 * sum(sizes)  # two blocks of each
  assert counted.pooled == 9 * 64 * 16**2
  assert summary([name, "--size", "65"]) == 0
  config = config_lib.load(f"voc:runlocal,backbone={name}")
  assert config.weight_decay == 1e-4
  _trace_step(config)
  config = config_lib.load(f"imagenet:runlocal,backbone={name}")
  assert config.weight_decay == 1e-4
  _trace_step(config)


def _shapes(model):
  images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
  return shapes_of(model.init, jax.random.key(0), images)


def _trace_step(config: ConfigDict) -> None:
  config_lib.check(config)
  task, rule = tasks.find_task(config), optimizer.make_optimizer(config)
  model, crop = config_lib.make_model(config, 5), config.data.crop_size
  state = shapes_of(lambda: create_state(model, rule, crop, 0))
  made, mesh = task.make_loss(config), sharding.make_mesh()
  step = make_train_step(model, made, rule, config, mesh)
  jax.eval_shape(step, state, task.abstract_batch(config))


def data_set() -> None:
  """Is built by the door, listed, and read with its classes."""
  files = pathlib.Path("pets")
  masks = _write_pets(files)
  words = ["oxford_pets", "--manual_dir", str(files), "--data_dir", "data"]
  assert prepare.main(words) == 1  # not all of it is there
  assert prepare.main([*words, "--partial"]) == 0
  assert "oxford_pets" in prepare._parser().format_help()
  info = datasets.DATASETS["oxford_pets"]
  assert info.has_masks and info.num_classes == 2
  config = _config().data
  config.update(name="oxford_pets", data_dir="data")
  source = open_dataset(config).train
  rows = [source[i] for i in range(len(source))]
  assert [row["name"] for row in rows] == sorted(masks)
  for row in rows:
    expected = np.array([9, 0, 1, 255])[masks[row["name"]]]
    np.testing.assert_array_equal(row["label"], expected)
  folder = build.directory("oxford_pets", "data")
  assert build.is_built(folder)


def _write_pets(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """A few images with masks in the layout of the archives."""
  rng, masks = np.random.default_rng(0), {}
  for name in ("images", "annotations/trimaps"):
    (folder / name).mkdir(parents=True)
  for i in range(4):
    masks[f"cat_{i}"] = mask = rng.integers(1, 4, (40, 48)).astype(np.uint8)
    image = PIL.Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8))
    image.save(folder / f"images/cat_{i}.jpg")
    PIL.Image.fromarray(mask).save(folder / f"annotations/trimaps/cat_{i}.png")
  lines = "".join(f"{name} 1 1 1\n" for name in masks)
  for split in ("trainval", "test"):
    (folder / f"annotations/{split}.txt").write_text(lines)
  return masks


def branch() -> None:
  """Is a field of the config, off at first, and serves any size of image."""
  assert config_lib.base_config().model.gated_branch is False
  old = model_to_dict(small_model())
  del old["gated_branch"]
  assert model_from_dict(old) == small_model()
  words = ["--config=voc:runlocal", "--config.model.gated_branch=True"]
  config_lib.check_command_line(words)
  config = config_lib.load("voc:runlocal")
  config.model.gated_branch = True
  _trace_step(config)
  model = small_model(gated_branch=True)
  variables = make_variables(model)
  assert {"gate", "gated"} <= set(variables["params"]["aspp"])
  assert crops.why_not_confinable(model, variables) is None


def served() -> None:
  """What the ASPP branch computes, `Segmenter` computes, too."""
  model = small_model(gated_branch=True)
  variables = make_variables(model)
  ours, definition = segmenter(model), jax.jit(predict_fn(model))
  size = 49, 70
  image = random_image(*size)
  padded = np.full((1, 49, 81, 3), padding_value(model.backbone), np.float32)
  padded[0, :, :70] = image
  _, expected = definition(variables, padded, np.array([size]))
  found = ours.probabilities(image)  # batch norms are folded
  np.testing.assert_allclose(found, expected[0, :, :70], atol=1e-4)


def _config(**changes) -> ConfigDict:
  config = config_lib.base_config()
  config.update(lr=0.1, steps=100, **changes)
  return config


if __name__ == "__main__":
  changes = (loss, backbone, data_set, branch, served)
  {change.__name__: change for change in changes}[sys.argv[1]]()
