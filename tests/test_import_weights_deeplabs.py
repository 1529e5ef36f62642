"""torch's DeepLabs come along: against the networks written plainly."""

import argparse
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deeplab_jax
from configs import folder
from deeplab_jax import checkpoints, import_weights, train
from deeplab_jax.data.builders import scenes
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.torch_deeplabs import to_official
from deeplab_jax.models import (
  Classifier,
  DeepLab,
  preprocess,
  resize_bilinear,
)
from tests import torch_deeplabs
from tests.torch_networks import Network

pytestmark = pytest.mark.usefixtures("shallow_backbones")
NETWORKS = {
  "torchvision deeplabv3": (torch_deeplabs.torchvision_deeplab, (33, 50)),
  "torchvision lraspp": (torch_deeplabs.torchvision_lraspp, (50, 33)),
  "smp deeplabv3plus": (torch_deeplabs.smp_deeplabv3plus, (32, 64)),
  "smp deeplabv3": (torch_deeplabs.smp_deeplabv3, (24, 40)),
  "vainf mobilenet": (torch_deeplabs.vainf_mobilenet, (50, 33)),
  "jfzhang mobilenet": (torch_deeplabs.jfzhang_mobilenet, (33, 50)),
  "jfzhang xception": (torch_deeplabs.jfzhang_xception, (33, 50)),
  "jfzhang resnet": (torch_deeplabs.jfzhang_resnet, (50, 33)),
  "transformers": (torch_deeplabs.transformers_mobilenet, (33, 50)),
}

# Of torchvision and both repositories another is in the quick tests.
_LONG = (
  "torchvision lraspp",
  "smp deeplabv3plus",
  "smp deeplabv3",
  "jfzhang xception",
  "jfzhang resnet",
  "transformers",
)


@functools.cache
def reference(name):
  """The network's state dict, images (1, h, w, 3) and its logits for them."""
  compute, size = NETWORKS[name]
  random = np.random.default_rng(0)
  images = random.standard_normal((1, *size, 3)).astype(np.float32)
  network = Network()
  channels_first = images.transpose(0, 3, 1, 2)
  jax.eval_shape(functools.partial(compute, network), channels_first)
  logits = jax.jit(functools.partial(compute, network))(channels_first)
  return network.state, images, np.transpose(logits, (0, 2, 3, 1))


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _LONG else ())
    for name in NETWORKS
  ],
)
def test_logits_are_those_of_torch(name):
  state, images, wanted = reference(name)
  model = import_weights.torch_deeplab(state)
  variables = import_weights.from_torch(state, model)
  logits = jax.jit(model.apply)(variables, images)
  found = resize_bilinear(logits, images.shape[1:3], model.half_pixel)
  error = np.abs(found - wanted).max() / np.abs(wanted).max()
  assert error < 2e-5


def _file(folder, name):
  np.savez(folder / "state.npz", **reference(name)[0])
  return str(folder / "state.npz")


@pytest.fixture
def imported(tmp_path, capsys):
  """The directory of an imported network, and what the command said."""
  out = tmp_path / "model"
  source = _file(tmp_path, "torchvision deeplabv3")
  assert main([source, "--out", str(out)]) == 0
  return out, capsys.readouterr().out


def test_command_carries_the_conventions(imported):
  out, printed = imported
  facts = json.loads((out / "model.json").read_text())
  wanted = {
    "backbone": "resnet_50_torch",
    "num_classes": 5,
    "output_stride": 8,
    "atrous_rates": [6, 12, 18],
    "decoder": [],
    "head_convs": [[3, 256]],
    "half_pixel": True,
    "pad_input": False,
    "rates_from": "next_unit",
    "dropout_rate": 0.5,
  }
  assert wanted.items() <= facts["model"].items()
  assert facts["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
  lines = printed.splitlines()
  assert (
    "recognised: DeepLabV3 of torchvision, encoder resnet_50_torch" in lines
  )
  usual = next(line for line in lines if line.startswith("usual there"))
  assert "output_stride 8" in usual and "atrous_rates (6, 12, 18)" in usual
  unused = "aux_classifier: passed over, as it serves training alone"
  assert unused in lines


@pytest.mark.slow
def test_a_picture_is_labelled_as_torch_does(imported):
  """Taken as it is, and logits resized with its edges aligned."""
  out, _ = imported
  model, *_ = checkpoints.load_variables(out)
  image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)
  network = Network()
  network.state = dict(reference("torchvision deeplabv3")[0])
  inputs = np.transpose(preprocess(image[None], model.backbone), (0, 3, 1, 2))
  compute = functools.partial(torch_deeplabs.torchvision_deeplab, network)
  logits = np.transpose(jax.jit(compute)(inputs)[0], (1, 2, 0))
  found = deeplab_jax.load(out).outputs(image, "labels", "probabilities")
  wanted = jax.nn.softmax(logits)
  np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-4)
  top = np.sort(wanted, axis=-1)
  clear = top[..., -1] - top[..., -2] > 1e-4
  assert clear.mean() > 0.9
  assert (found["labels"] == logits.argmax(-1))[clear].all()


def test_rates_scale_with_the_stride_at_load(imported):
  segmenter = deeplab_jax.load(imported[0], output_stride=16)
  assert segmenter.model.output_stride == 16
  assert segmenter.model.atrous_rates == (6, 12, 18)
  assert segmenter(np.zeros((30, 41, 3), np.uint8)).shape == (30, 41)


@pytest.mark.slow
def test_a_fine_tune_continues(imported, tmp_path):
  """From the imported network, on pictures of one's own."""
  import cv2

  out, _ = imported
  random = np.random.default_rng(0)
  for split in ("train", "val"):
    for kind in ("images", "masks"):
      (tmp_path / "data" / kind / split).mkdir(parents=True)
    for i in range(2):
      image, label = scenes.draw(random)
      for kind, array in (("images", image), ("masks", label)):
        path = tmp_path / "data" / kind / split / f"{i}.png"
        cv2.imwrite(str(path), array)
  config = folder.get_config(f"init_from={out},runlocal")
  config.init_from = str(out)  # which runlocal drops
  config.data.update(path=str(tmp_path / "data"), crop_size=(32, 48))
  config.data.data_dir = str(tmp_path / "built")
  train.train_and_evaluate(config, tmp_path / "run")
  model, variables, _ = checkpoints.load_variables(tmp_path / "run")
  before = checkpoints.load_variables(out)[1]
  assert model.half_pixel and not model.pad_input
  kernels = [x["params"]["head_conv0"]["kernel"] for x in (variables, before)]
  assert np.abs(kernels[0] - kernels[1]).max() > 0
  assert np.corrcoef(*map(np.ravel, kernels))[0, 1] > 0.9  # fresh ones: 0


def _wider(state, name, axis, size):
  """`state` with another number of channels in one array."""
  array = np.repeat(state[name], 2, axis)
  return state | {name: array.take(range(size), axis)}


_OTHERS = {
  "an FCN": (
    lambda s: {
      name.replace(".1.", ".0.").replace(".2.", ".1.")
      if name.startswith("classifier.")
      else name: array
      for name, array in s.items()
      if not name.startswith("classifier.0.")
    },
    r"of another network .* is classifier\.0, classifier\.1, classifier\.4; th",
  ),
  "two widths": (
    lambda s: _wider(s, "classifier.0.project.0.weight", 0, 512),
    r"channels: classifier.* 1, 1\), classifier\.0\.project\.0\.weight \(512, ",
  ),
  "a wider encoder": (
    lambda s: _wider(s, "backbone.layer1.0.conv2.weight", 0, 128),
    r"with \(2, 2, 2, 3\) units .* kernels \(128, 64, 3, 3\) in",
  ),
  "another depth": (
    lambda s: {n: a for n, a in s.items() if ".layer4.2." not in n},
    r"ResNet with \(2, 2, 2, 2\) units in its layers",
  ),
  "another encoder": (
    lambda s: {n.replace("layer", "stage"): a for n, a in s.items()},
    r"with an encoder that is not built here: .* it begins with conv1\.weight",
  ),
}


@pytest.mark.parametrize("what", _OTHERS)
def test_other_networks_are_refused_in_a_line(what, tmp_path, capsys):
  change, message = _OTHERS[what]
  state = change(reference("torchvision deeplabv3")[0])
  with pytest.raises(ValueError, match=message) as raised:
    import_weights.torch_deeplab(state)
  assert "\n" not in str(raised.value)
  np.savez(tmp_path / "state.npz", **state)
  arguments = [str(tmp_path / "state.npz"), "--out", str(tmp_path / "m")]
  assert main(arguments) == 1
  assert not (tmp_path / "m").exists()
  assert str(raised.value) in capsys.readouterr().err


def test_names_are_accounted_for():
  state = dict(reference("torchvision deeplabv3")[0])
  model = import_weights.torch_deeplab(state)
  state["backbone.layer1.0.se.weight"] = np.zeros(3)
  with pytest.raises(ValueError, match=r"unexpected names: backbone.layer1"):
    import_weights.from_torch(state, model)
  del state["backbone.layer1.0.se.weight"], state["classifier.2.bias"]
  message = r"missing \(1\):\n  head_conv0/BatchNorm/beta"
  with pytest.raises(ValueError, match=message):
    import_weights.from_torch(state, model)
  state["classifier.2.bias"] = np.full(256, np.nan, np.float32)
  with pytest.raises(ValueError, match=r"1 of \d+ arrays .* head_conv0/Batch"):
    import_weights.from_torch(state, model)


def test_a_head_on_other_features_than_the_last_is_refused_in_a_line():
  """As with an `encoder_depth` of 4, whose file may have all of the encoder."""
  state, *_ = reference("torchvision deeplabv3")
  half = {
    name: array[:, :1024] if array.shape[1:2] == (2048,) else array
    for name, array in state.items()
    if name.startswith("classifier.0.")
  }
  model = import_weights.torch_deeplab(state | half)
  message = r"ASPP reads 1024 channels, .* have 2048: an encoder_depth below 5"
  with pytest.raises(ValueError, match=message) as raised:
    import_weights.from_torch(state | half, model)
  assert "\n" not in str(raised.value)


def test_a_model_of_other_conventions_is_refused():
  state, *_ = reference("vainf mobilenet")
  model = import_weights.torch_deeplab(state)
  message = "half_pixel False, there True; rates_from 'same_unit', there"
  with pytest.raises(ValueError, match=message):
    other = model.clone(half_pixel=False, rates_from="same_unit")
    import_weights.from_torch(state, other)
  backbone = DeepLab(3, model.backbone, decoder=(), atrous_rates=())
  found = import_weights.from_torch(state, backbone, parts="backbone")
  wanted = import_weights.from_torch(state, model)
  for kind in ("params", "batch_stats"):
    jax.tree.map(
      np.testing.assert_array_equal,
      found[kind]["backbone"],
      wanted[kind]["backbone"],
    )


def test_the_stride_in_training_decides_on_the_rates_of_smp():
  state, *_ = reference("smp deeplabv3plus")
  usual = import_weights.torch_deeplab(state)
  assert (usual.output_stride, usual.atrous_rates) == (16, (12, 24, 36))
  finer = import_weights.torch_deeplab(state, output_stride=8)
  assert finer.atrous_rates == (6, 12, 18)  # 12, 24, 36 at stride 8
  with pytest.raises(ValueError, match="separable_norm True, there False"):
    import_weights.torch_deeplab(state, separable_norm=True)


@pytest.mark.parametrize("name", ["vainf mobilenet", "smp deeplabv3plus"])
def test_what_is_around_a_network_is_named(name):
  """As Lightning saves it, with buffers of its own."""
  state, *_ = reference(name)
  around = {f"model.{name}": array for name, array in state.items()}
  around = {"state_dict": {"mean": np.zeros(3), **around}, "epoch": 3}
  model = import_weights.torch_deeplab(around)
  variables, report = import_weights.fit(to_official(around), model)
  assert report.skipped == ("beside_the_network/mean",)
  wanted = import_weights.from_torch(state, model)
  jax.tree.map(np.testing.assert_array_equal, variables, wanted)


def test_what_training_scripts_save_is_read(tmp_path):
  """A score of NumPy's, the arguments of the script, numbers of 16 bits, the
  ending of jfzhang's files."""
  torch = pytest.importorskip("torch")
  state, *_ = reference("jfzhang mobilenet")
  tensors = {name: torch.tensor(array) for name, array in state.items()}
  half = "decoder.conv1.weight"
  tensors[half] = tensors[half].bfloat16()
  content = {"state_dict": tensors, "best_pred": np.float64(0.7), "epoch": 1}
  content["args"] = argparse.Namespace(lr=0.1, data=pathlib.Path("data"))
  torch.save(content, tmp_path / "model_best.pth.tar")
  found = import_weights.read(tmp_path / "model_best.pth.tar")
  wanted = to_official(state | {half: tensors[half].float().numpy()})
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_classifiers_of_transformers_are_the_official_ones():
  network = Network()
  images = jax.ShapeDtypeStruct((1, 3, 33, 33), np.float32)
  compute = torch_deeplabs.transformers_mobilenet
  jax.eval_shape(functools.partial(compute, network), images)
  state = {
    name: array
    for name, array in network.state.items()
    if not name.startswith("segmentation_head.")
  }
  last = {
    "classifier.weight": np.ones((7, 1280), np.float32),
    "classifier.bias": np.arange(7, dtype=np.float32),
  }
  model = Classifier(7, "mobilenet_v2")
  params = import_weights.from_torch(state | last, model)["params"]
  np.testing.assert_array_equal(params["logits"]["bias"], np.arange(7))
  alone = {n.removeprefix("mobilenet_v2."): a for n, a in state.items()}
  backbone = DeepLab(3, "mobilenet_v2", decoder=(), atrous_rates=())
  found = import_weights.from_torch(alone, backbone, parts="backbone")
  jax.tree.map(
    np.testing.assert_array_equal,
    found["params"]["backbone"],
    params["backbone"],
  )


def test_moving_averages_beside_a_network_in_one_state_dict():
  state, *_ = reference("jfzhang mobilenet")
  averages = {name: array + 0.5 for name, array in state.items()}
  wanted = to_official({"net": state, "ema": averages})
  for places in (
    ("model.", "ema_model."),
    ("online.", "ema.module."),
    ("", "model_ema."),
    ("net._fsdp_wrapped_module.", "swa."),
  ):
    parts = [
      {f"{place}{name}": array for name, array in part.items()}
      for place, part in zip(places, (state, averages))
    ]
    for both in (parts[0] | parts[1], parts[1] | parts[0]):
      found = to_official({"state_dict": both, "epoch": 3})
      assert found.keys() == wanted.keys()
      jax.tree.map(np.testing.assert_array_equal, found, wanted)
  two = {
    f"{x}.{name}": a for x in ("teacher", "net_b") for name, a in state.items()
  }
  with pytest.raises(ValueError, match="several networks, as 'teacher' and 'n"):
    to_official(two)
  parameters = {n: a for n, a in state.items() if "running_" not in n}
  with pytest.raises(
    ValueError, match=r"no running_mean of .* parameters alone"
  ):
    to_official(parameters)
  with pytest.raises(ValueError, match="got those below model and net; save"):
    to_official({"model": state, "net": averages})


_SOURCES = {
  "a network": (lambda torch: torch.nn.ReLU(), r"holds a torch\.nn.*ReLU; exp"),
  "two states": (
    lambda torch: {"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}},
    "got a, b, of which a and b hold arrays alone",
  ),
  "a quantised one": (
    lambda torch: {
      "x.weight": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)
    },
    "holds quantised weights; give the network's own",
  ),
  "no state": (lambda torch: {"epoch": 3}, "got epoch, of which none hold"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of old kinds of tensors
@pytest.mark.parametrize("what", _SOURCES)
def test_files_of_something_else_are_refused_in_a_line(what, tmp_path):
  torch = pytest.importorskip("torch")
  make, message = _SOURCES[what]
  torch.save(make(torch), tmp_path / "state.ckpt")
  with pytest.raises(ValueError, match=message) as raised:
    import_weights.read(tmp_path / "state.ckpt")
  assert "\n" not in str(raised.value)


def test_moving_averages_of_a_whole_network():
  state, *_ = reference("jfzhang mobilenet")
  averages = {name: array + 0.5 for name, array in state.items()}
  content = {"state_dict": state, "state_dict_ema": averages}
  model = import_weights.torch_deeplab(content)
  for taken in (False, True):
    source = averages if taken else state
    found = import_weights.from_torch(content, model, moving_averages=taken)
    wanted = import_weights.from_torch(source, model)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert jnp.isfinite(found["params"]["logits"]["kernel"]).all()
