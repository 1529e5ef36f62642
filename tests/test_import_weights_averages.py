"""Moving averages and wrappers, in every kind of file that weights come in."""

import json
import sys
import tarfile
import types

import jax
import numpy as np
import pytest

from deeplab_jax.import_weights import (
  fit,
  from_torch,
  official_shapes,
  read,
)
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.pytorch import to_official
from deeplab_jax.models import Classifier, DeepLab
from tests.test_import_weights_torch import torch_state

AVERAGE = "/ExponentialMovingAverage"
OFFICIAL = DeepLab(
  3, "mobilenet_v2", width_multiplier=0.25, atrous_rates=(), decoder=()
)
TORCH = Classifier(1000, "mobilenet_v2_torch")
STATISTICS = ("moving_mean", "moving_variance", "running_mean", "running_var")


def _write_checkpoint(folder, arrays):
  tensorflow = pytest.importorskip("tensorflow")
  names = sorted(arrays)
  tensorflow.raw_ops.SaveV2(
    prefix=str(folder / "model.ckpt"),
    tensor_names=names,
    shape_and_slices=[""] * len(names),
    tensors=[tensorflow.constant(arrays[name]) for name in names],
  )
  return folder / "model.ckpt"


def _write_graph(folder, arrays):
  from tensorboardX.proto.graph_pb2 import GraphDef

  graph = GraphDef()
  for name, array in arrays.items():
    node = graph.node.add(name=name, op="Const")
    tensor = node.attr["value"].tensor
    for size in array.shape:
      tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = array.astype("<f4").tobytes()
  path = folder / "frozen_inference_graph.pb"
  path.write_bytes(graph.SerializeToString())
  return path


def _write_archive(folder, arrays):
  path = folder / "release.tar.gz"
  with tarfile.open(path, "w:gz") as archive:
    archive.add(_write_graph(folder, arrays), "model/graph.pb")
  return path


def _write_npz(folder, arrays):
  np.savez(folder / "arrays.npz", **arrays)
  return folder / "arrays.npz"


def _write_safetensors(folder, arrays):
  safetensors = pytest.importorskip("safetensors.numpy")
  safetensors.save_file(dict(arrays), folder / "model.safetensors")
  return folder / "model.safetensors"


def _write_pickle(folder, content):
  torch = pytest.importorskip("torch")
  tensors = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), content)
  torch.save(tensors, folder / "model.pth")
  return folder / "model.pth"


def _file(write):
  """Reads back what `write` writes."""
  return lambda folder, arrays: read(write(folder, arrays))


def _suffixed(raw, averages):
  return raw | {f"{name}{AVERAGE}": array for name, array in averages.items()}


def _timm(raw, averages):
  content = {"state_dict": raw, "state_dict_ema": averages}
  return {key: state for key, state in content.items() if state}


def _torchvision(raw, averages):
  """As its references write `AveragedModel`, on several GPUs."""
  average = {f"module.module.{n}": array for n, array in averages.items()}
  average["n_averaged"] = np.array(7)
  content = {"model": raw, "model_ema": average if averages else {}}
  return {key: state for key, state in content.items() if state}


# Every way in which weights come: the model, how the file spells averages, and
# the arrays that `fit` is given.
WAYS = {
  "arrays": (OFFICIAL, _suffixed, lambda _, arrays: arrays),
  "checkpoint": (OFFICIAL, _suffixed, _file(_write_checkpoint)),
  "graph": (OFFICIAL, _suffixed, _file(_write_graph)),
  "archive": (OFFICIAL, _suffixed, _file(_write_archive)),
  "npz": (OFFICIAL, _suffixed, _file(_write_npz)),
  "safetensors": (OFFICIAL, _suffixed, _file(_write_safetensors)),
  "state dict": (TORCH, _timm, lambda _, state: to_official(state)),
  "state dict in npz": (TORCH, _suffixed, _file(_write_npz)),
  "state dict in safetensors": (TORCH, _suffixed, _file(_write_safetensors)),
  "pickle of timm": (TORCH, _timm, _file(_write_pickle)),
  "pickle of torchvision": (TORCH, _torchvision, _file(_write_pickle)),
}


def _names(model):
  """Names and shapes of the variables, as the model's file has them."""
  if model is OFFICIAL:
    return official_shapes(model)
  state = torch_state("torchvision mobilenet_v2")
  return {
    name: np.shape(array)
    for name, array in state.items()
    if not name.endswith("num_batches_tracked")
  }


def _filled(shapes, value, *, statistics=True):
  return {
    name: np.full(shape, value, np.float32)
    for name, shape in shapes.items()
    if statistics or not name.endswith(STATISTICS)
  }


def _values(variables):
  """The values in parameters, and in statistics of batch norm."""
  return tuple(
    {float(x) for leaf in jax.tree.leaves(tree) for x in np.unique(leaf)}
    for tree in (variables["params"], variables["batch_stats"])
  )


def _both(way, folder):
  """The model of `WAYS`, raw values of 1, averages of 2, and what is given."""
  model, spell, give = WAYS[way]
  raw = _filled(_names(model), 1)
  averages = _filled(_names(model), 2, statistics=False)
  return model, raw, averages, give(folder, spell(raw, averages))


@pytest.mark.parametrize("way", WAYS)
def test_raw_values_are_taken_and_averages_named(way, tmp_path):
  model, raw, averages, arrays = _both(way, tmp_path)
  variables, report = fit(arrays, model)
  assert _values(variables) == ({1}, {1})
  assert len(report.loaded) == len(raw)
  assert len(report.skipped) == len(averages)
  assert report.averaged == ()
  assert str(report).splitlines()[-1] == (
    f"moving averages: there for {len(averages)} variables, not taken;"
    " --moving_averages takes them"
  )


@pytest.mark.parametrize("way", WAYS)
def test_averages_are_taken_where_there_are_some(way, tmp_path):
  model, raw, averages, arrays = _both(way, tmp_path)
  variables, report = fit(arrays, model, moving_averages=True)
  assert _values(variables) == ({2}, {1})
  assert len(report.averaged) == len(report.skipped) == len(averages)
  assert str(report).splitlines()[-1] == (
    f"moving averages: taken for {len(averages)} variables; raw values for"
    f" {len(raw) - len(averages)}"
  )


@pytest.mark.parametrize("moving_averages", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_averages_alone_are_taken_by_themselves(way, tmp_path, moving_averages):
  model, spell, give = WAYS[way]
  averages = _filled(_names(model), 2)
  arrays = give(tmp_path, spell({}, averages))
  variables, report = fit(arrays, model, moving_averages=moving_averages)
  assert _values(variables) == ({2}, {2})
  assert len(report.averaged) == len(averages)
  assert report.skipped == ()


@pytest.mark.parametrize("way", WAYS)
def test_averages_that_are_not_there_are_refused(way, tmp_path):
  model, spell, give = WAYS[way]
  arrays = give(tmp_path, spell(_filled(_names(model), 1), {}))
  message = (
    r"\(--moving_averages\) was given, but .* is a moving average, .*out"
  )
  with pytest.raises(ValueError, match=message) as error:
    fit(arrays, model, moving_averages=True)
  assert "\n" not in str(error.value)
  assert "moving averages" not in str(fit(arrays, model)[1])


def test_averages_of_parameters_go_with_raw_statistics():
  """As TensorFlow's are where only trainable variables have them."""
  shapes = official_shapes(OFFICIAL)
  averages = _filled(shapes, 2, statistics=False)
  raw = {n: a for n, a in _filled(shapes, 1).items() if n not in averages}
  variables, report = fit(_suffixed(raw, averages), OFFICIAL)
  assert _values(variables) == ({2}, {1})
  assert str(report).endswith(
    f"taken for {len(averages)} variables; raw values for {len(raw)}"
  )


def test_averages_of_what_is_no_variable_are_passed_over():
  arrays = _filled(official_shapes(OFFICIAL), 1)
  losses = {f"{name}{AVERAGE}": np.ones(()) for name in ("loss", "global_step")}
  _, report = fit(arrays | losses, OFFICIAL)
  assert report.skipped == tuple(sorted(losses))


def test_averages_of_unknown_variables_are_named():
  arrays = _filled(official_shapes(OFFICIAL), 1)
  extra = {f"aspp1/weights{AVERAGE}": np.ones((1, 1, 8, 8))}
  with pytest.raises(ValueError, match=r"unexpected \(1\):\n  aspp1/weights"):
    fit(arrays | extra, OFFICIAL)


def test_command_takes_averages(tmp_path, capsys):
  shapes = official_shapes(OFFICIAL)
  averages = _filled(shapes, 2, statistics=False)
  source = _write_npz(tmp_path, _suffixed(_filled(shapes, 1), averages))
  for out, flags, said in (
    ("raw", [], f"there for {len(averages)} variables, not taken"),
    ("mean", ["--moving_averages"], f"taken for {len(averages)} variables"),
  ):
    assert main([str(source), "--out", str(tmp_path / out), *flags]) == 0
    assert f"moving averages: {said}" in capsys.readouterr().out
    facts = json.loads((tmp_path / out / "model.json").read_text())
    assert facts["model"]["width_multiplier"] == 0.25
    assert facts["source"].endswith("moving averages") == (out == "mean")


def test_command_takes_a_file_of_averages_alone(tmp_path, capsys):
  averages = _filled(official_shapes(OFFICIAL), 2)
  source = _write_npz(tmp_path, _suffixed({}, averages))
  assert main([str(source), "--out", str(tmp_path / "model")]) == 0
  said = f"moving averages: taken for {len(averages)} variables; raw values for"
  assert f"{said} 0\n" in capsys.readouterr().out


def test_command_refuses_averages_that_are_not_there(tmp_path, capsys):
  arrays = _filled(official_shapes(OFFICIAL), 1)
  source = _write_npz(tmp_path, arrays)
  out = str(tmp_path / "model")
  assert main([str(source), "--out", out, "--moving_averages"]) == 1
  error = capsys.readouterr().err
  assert error.startswith(
    "error: moving_averages (--moving_averages) was given"
  )
  assert error.count("\n") == 1


def _prefixed(prefix):
  return lambda state: {f"{prefix}{name}": x for name, x in state.items()}


# What stands around a state dict, and whether it is still one level of names.
WRAPPERS = {
  "module.": (_prefixed("module."), True),
  "_orig_mod.": (_prefixed("_orig_mod."), True),
  "module._orig_mod.": (_prefixed("module._orig_mod."), True),
  "_orig_mod.module.": (_prefixed("_orig_mod.module."), True),
  "module.module.": (_prefixed("module.module."), True),
  "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, False),
  "model": (lambda state: {"model": _prefixed("module.")(state)}, False),
  "model_state": (lambda state: {"epoch": 3, "model_state": state}, False),
  "model_state_dict": (lambda state: {"model_state_dict": state}, False),
  "state_dict in model": (
    lambda state: {"model": {"state_dict": _prefixed("module.")(state)}},
    False,
  ),
}


# The ways of a state dict, and whether they can hold several levels.
GIVEN = {
  "state dict": (lambda _, state: to_official(state), True),
  "npz": (_file(_write_npz), False),
  "safetensors": (_file(_write_safetensors), False),
  "pickle": (_file(_write_pickle), True),
}
WRAPPED = [
  (wrapper, way)
  for wrapper, (_, is_flat) in WRAPPERS.items()
  for way, (_, is_deep) in GIVEN.items()
  if is_flat or is_deep
]


@pytest.mark.parametrize("wrapper, way", WRAPPED)
def test_wrappers_of_state_dicts_are_taken_off(wrapper, way, tmp_path):
  (wrap, _), (give, _) = WRAPPERS[wrapper], GIVEN[way]
  state = torch_state("torchvision mobilenet_v2")
  wanted, found = to_official(state), give(tmp_path, wrap(state))
  assert set(found) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_from_torch_takes_averages():
  raw, averages = (_filled(_names(TORCH), value) for value in (1, 2))
  content = _timm(_prefixed("module.")(raw), averages)
  assert _values(from_torch(content, TORCH)) == ({1}, {1})
  variables = from_torch(content, TORCH, moving_averages=True)
  assert _values(variables) == ({2}, {2})


def test_pickle_of_no_state_dict_is_one_line(tmp_path):
  path = _write_pickle(tmp_path, [1, 2])
  with pytest.raises(
    ValueError, match=r"model\.pth: .*holds no state .* a list"
  ):
    read(path)


@pytest.mark.parametrize("version", ["2.5.1+cu121", "1.13.0"])
def test_old_torch_is_refused_as_its_reader_runs_programs(
  tmp_path, monkeypatch, version
):
  (tmp_path / "model.pt").touch()
  old = types.SimpleNamespace(__version__=version)
  monkeypatch.setitem(sys.modules, "torch", old)
  message = rf"needs torch>=2\.6, .*CVE-2025-32434.* is torch {version[:4]}"
  with pytest.raises(ImportError, match=message):
    read(tmp_path / "model.pt")
