"""What the config.json of a folder of the Hub tells beside the weights."""

import json

import numpy as np
import pytest

from deeplab_jax.import_weights import hub
from deeplab_jax.import_weights.__main__ import main
from deeplab_jax.import_weights.convert import convert
from tests.test_import_weights_deeplabs import reference

pytestmark = pytest.mark.usefixtures("shallow_backbones")


def test_a_folder_of_the_hub_tells_more_than_its_weights(tmp_path, capsys):
  numpy = pytest.importorskip("safetensors.numpy")
  state, *_ = reference("smp deeplabv3plus")
  folder, out = tmp_path / "hub", tmp_path / "model"
  folder.mkdir()
  numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in state.items()},
    folder / "model.safetensors",
  )
  config = {"encoder_output_stride": 8, "decoder_atrous_rates": [6, 12, 18]}
  (folder / "config.json").write_text(json.dumps(config))
  assert main([str(folder), "--out", str(out)]) == 0
  stored = json.loads((out / "model.json").read_text())["model"]
  assert (stored["output_stride"], stored["atrous_rates"]) == (8, [3, 6, 9])
  assert "output_stride" not in capsys.readouterr().out
  older = {"decoder_atrous_rates": [6, 12, 18], "decoder_aspp_dropout": 0.2}
  told = {"atrous_rates": (3, 6, 9), "dropout_rate": 0.2}
  assert hub.told_arguments(older, 8) == told
  for content, refused in (
    ('{"architecture": "resnetblur50"}', "architecture .* 'resnetblur50', w"),
    ('{"encoder_name": "tu-resnetaa50"}', "encoder_name .* 'tu-resnetaa50', w"),
    (json.dumps(config | {"decoder_atrous_rates": [5]}), "multiples of 2 at"),
    ("[1]", "must hold a JSON object"),
    ("{", "cannot read"),
  ):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=refused):
      convert(str(folder), tmp_path / "other")
  for name in ("resnet50.a1_in1k", "tu-tv_resnet50"):
    hub.refuse_another({"architecture": name}, "resnet_50_torch")
  twin = {"architecture": "mobilenetv4_conv_aa_large"}
  with pytest.raises(ValueError, match="those of 'mobilenetv4_conv_large'"):
    hub.refuse_another(twin, "mobilenetv4_conv_large")


def test_a_folder_of_the_hub_names_the_classes(tmp_path):
  numpy = pytest.importorskip("safetensors.numpy")
  state, *_ = reference("smp deeplabv3plus")
  folder = tmp_path / "hub"
  folder.mkdir()
  numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in state.items()},
    folder / "model.safetensors",
  )
  (folder / "config.json").write_text("{}")
  numbered = _class_names(folder, tmp_path / "numbered")
  count = len(numbered)
  given = [f"kind {i}" for i in range(count)][::-1]
  for i, (names, wanted) in enumerate(
    (
      (given, given),
      ([f"LABEL_{i}" for i in range(count)], numbered),
      (given[1:], numbered),
      ([*given, "another"], numbered),
      (["twice"] * count, numbered),
      ([*given[1:], None], numbered),
    )
  ):
    config = {"id2label": {str(k): name for k, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    assert _class_names(folder, tmp_path / f"out_{i}") == wanted
  # Not of the classes that the logits are drawn anew for, nor of a data set.
  config = {"id2label": {str(i): f"new {i}" for i in range(count + 2)}}
  (folder / "config.json").write_text(json.dumps(config))
  found = _class_names(folder, tmp_path / "new", num_classes=count + 2)
  assert found == [f"class {i}" for i in range(count + 2)]


def _class_names(folder, out, **given) -> list[str]:
  convert(str(folder), out, **given)
  content = json.loads((out / "model.json").read_text())
  return content["dataset"]["class_names"]
