"""A network of torch that ends in sigmoids, from its file to every door."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

import deeplab_jax
from deeplab_jax import config as config_lib
from deeplab_jax import export, metrics, predict, tasks, train
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.convert import convert
from deeplab_jax.import_weights.fit import _leaves
from deeplab_jax.models import convnext, preprocess
from tests import torch_deeplabs, torch_encoders, torch_networks

_SMALL = convnext.Variant((1, 1, 2, 1), (8, 16, 24, 32))
_SIZE, _WIDTH = (64, 48), 24


def _picture(seed):
  return np.random.default_rng(seed).integers(0, 256, (*_SIZE, 3), np.uint8)


def _network(classes):
  """A narrow DeepLabV3Plus of segmentation_models_pytorch: its state dict, and
  a function of a picture to logits (h, w, classes)."""
  whole, encoder = torch_networks.Network(), torch_encoders.Encoder()

  @jax.jit
  def compute(images):
    low, *_, y = torch_encoders.convnext(encoder, images, *_SMALL, 16)
    return torch_deeplabs.smp_decoder(whole, low, y, classes, _WIDTH)

  def logits(image):
    images = preprocess(image[None], "convnext_atto").transpose(0, 3, 1, 2)
    return np.asarray(compute(images))[0].transpose(1, 2, 0)

  middle = np.median(logits(_picture(0)), (0, 1))  # of yes and no there
  whole.state["segmentation_head.0.bias"] -= middle
  state = whole.state | {
    "encoder.model." + re.sub(r"^(stem|stages)\.(\d)", r"\1_\2", name): array
    for name, array in encoder.state.items()
  }
  return state, lambda image: logits(image) - middle


@pytest.fixture(scope="module", autouse=True)
def _small():
  _leaves.cache_clear()  # they are known by a backbone's name
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(convnext.VARIANTS, "convnext_atto", _SMALL)
    yield
  _leaves.cache_clear()


@pytest.fixture(scope="module")
def imported(tmp_path_factory, _small):
  """The folder of an imported network of one class, and its logits."""
  folder = tmp_path_factory.mktemp("one")
  state, logits = _network(classes=1)
  np.savez(folder / "state.npz", **state)
  assert main([str(folder / "state.npz"), "--out", str(folder / "model")]) == 0
  return folder / "model", logits


def _config(folder, images, masks, **changes):
  """Of a data set of these pictures, whose class is called otherwise."""
  for i, (image, mask) in enumerate(zip(images, masks)):
    for kind, array in (("images", image), ("masks", mask)):
      (folder / kind).mkdir(parents=True, exist_ok=True)
      Image.fromarray(array).save(folder / kind / f"{i}.png")
  names = "".join(f"{i}\n" for i in range(len(images)))
  for split in ("train", "val"):
    (folder / f"{split}.txt").write_text(names)
  (folder / "classes.txt").write_text("crack\n")
  config = config_lib.base_config()
  config.task, config.loss.name = "multilabel", "binary_cross_entropy"
  config.data.update(name="folder", path=str(folder))
  config.data.data_dir = f"{folder}_built"
  config.update_from_flattened_dict(changes)
  return config


def test_one_class_has_the_users_mask_behind_every_door(imported, tmp_path):
  """The sigmoid above one half."""
  model, logits = imported
  facts = json.loads((model / "model.json").read_text())
  assert facts["dataset"]["class_names"] == ["foreground"]
  assert facts["dataset"]["colors"] == [[128, 0, 0]]  # not black
  assert facts["model"]["aspp_channels"] == _WIDTH

  segmenter, images = deeplab_jax.load(model), [_picture(0), _picture(1)]
  wanted, clear = [], []
  for i, image in enumerate(images):
    values = logits(image)
    found = segmenter.outputs(image, "labels", "probabilities")
    expected = 1 / (1 + np.exp(-values))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)
    wanted.append(found["labels"])
    clear.append(np.abs(values) > 1e-4)
    assert (wanted[i] == (values > 0))[clear[i]].all()
    Image.fromarray(image).save(tmp_path / f"{i}.png")
  assert 0.3 < wanted[0].mean() < 0.7 and min(map(np.mean, clear)) > 0.9

  pictures = [str(tmp_path / f"{i}.png") for i in range(2)]
  out = tmp_path / "out"
  assert predict.main([str(model), *pictures, "--out", str(out)]) == 0
  for i, mask in enumerate(wanted):
    written = np.asarray(Image.open(out / f"labels/foreground/{i}.png"))
    np.testing.assert_array_equal(written, 255 * mask[..., 0])

  truth = [255 * (mask[..., 0] ^ (np.arange(48) < 9)) for mask in wanted]
  config = _config(tmp_path / "data", images, np.uint8(truth))
  report = tasks.find_task(config).report(model, config)
  outcomes = metrics.outcome_counts(
    np.stack(truth)[..., None] // 255, np.stack(wanted)
  )
  assert report.thresholds == (0.5,)
  unclear = sum((~pixels).sum() for pixels in clear)
  assert np.abs(report.outcomes - outcomes).max() <= unclear


@pytest.mark.slow
def test_a_file_of_one_class_gives_the_users_mask(imported, tmp_path):
  model, logits = imported
  certificate = export.stablehlo(model, tmp_path / "net", sizes=(_SIZE,))
  assert certificate["passed"] and certificate["thresholds"] == [0.5]
  found = np.asarray(export.load(tmp_path / "net")(_picture(0)[None]))
  values = logits(_picture(0))
  assert (found[0] == (values > 0))[np.abs(values) > 1e-4].all()


@pytest.mark.slow
def test_a_fine_tune_of_one_class_begins_with_its_answer(imported, tmp_path):
  model, logits = imported
  images = [_picture(0), _picture(1)]
  masks = np.uint8([255 * (logits(image)[..., 0] > 0) for image in images])
  config = _config(
    tmp_path / "data",
    images,
    masks,
    **{"data.crop_size": _SIZE, "batch_size": 2, "steps": 2, "lr": 1e-5},
  )
  config_lib.follow_model(config, model)
  assert train.train_and_evaluate(config, tmp_path / "run") > 0.95


def test_several_classes_end_in_sigmoids_on_request(tmp_path, capsys):
  state, logits = _network(classes=3)
  np.savez(tmp_path / "state.npz", **state)
  source = str(tmp_path / "state.npz")
  flags = ["--out", str(tmp_path / "model"), "--thresholds=0.5,0.25,0.5"]
  assert main([source, *flags]) == 0
  line = capsys.readouterr().out.splitlines()[-2]
  assert "a sigmoid for each class" in line and "'class 1' from 0.25 on" in line
  values = logits(_picture(2))
  labels = deeplab_jax.load(tmp_path / "model")(_picture(2))
  least = np.log([1, 1 / 3, 1])  # of logits
  clear = np.abs(values - least) > 1e-4
  assert (labels == (values > least))[clear].all() and clear.mean() > 0.9
  for wrong in ((0.5, 0.5), (0,), ("a",), ()):
    with pytest.raises(ValueError, match="thresholds must be one number above"):
      convert(source, tmp_path / "other", thresholds=wrong)
