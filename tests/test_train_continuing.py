"""What a run is told, and refused, when it is continued with other settings."""

import json

import pytest

from deeplab_jax.config import base_config
from deeplab_jax.train import continuing


@pytest.fixture
def workdir(tmp_path):
  """Of a run of the base config that has saved a checkpoint."""
  continuing.write_config(tmp_path, base_config(), [], 0)
  (tmp_path / "checkpoints/7").mkdir(parents=True)
  return tmp_path


def _changed(**fields):
  config = base_config()
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def _check(workdir, config, allow=False):
  """The lines that are shown."""
  changes = continuing.config_changes(workdir, config, allow)
  shown = continuing.settle(workdir, continuing.told(changes), allow)
  heading, *lines = shown.split("\n  ")
  assert heading in ("", "changed since this run was begun:")
  return lines


def test_the_same_command_changes_nothing(workdir):
  before = (workdir / "config.json").stat()
  assert _check(workdir, base_config()) == []
  continuing.write_config(workdir, base_config(), [], 7)
  assert (workdir / "config.json").stat() == before


@pytest.mark.parametrize(
  ("field", "value", "line"),
  [
    ("lr", 0.1, "lr: 0.007 -> 0.1"),
    ("batch_size", 8, "batch_size: 16 -> 8"),
    ("seed", 3, "seed: 0 -> 3"),
    ("lr_policy", "cosine", "lr_policy: poly -> cosine"),
    ("clip_norm", 1.0, "clip_norm: 0.0 -> 1.0"),
    ("freeze", ("backbone",), 'freeze: [] -> ["backbone"]'),
    ("layer_decay", 0.9, "layer_decay: 1.0 -> 0.9"),
    ("steps", 40_000, "steps: 30000 -> 40000"),
    ("init_from", "x", 'init_from: "" -> x'),
    ("data__crop_size", (33, 65), "data.crop_size: [513, 513] -> [33, 65]"),
    ("model__dropout_rate", 0.5, "model.dropout_rate: 0.1 -> 0.5"),
    ("eval__scales", (1.0, 2.0), "eval.scales: [1.0] -> [1.0, 2.0]"),
  ],
)
def test_other_settings_are_told_and_kept(workdir, field, value, line):
  config = _changed(**{field: value})
  assert _check(workdir, config) == [line]
  changes = continuing.config_changes(workdir, config, False)
  for _ in range(2):  # At the first step, and at evaluations.
    continuing.write_config(workdir, config, changes, 7)
  content = json.loads((workdir / "config.json").read_text())
  name = field.replace("__", ".")
  (entry,) = content["history"]
  assert entry["step"] == 7 and list(entry["changes"]) == [name]
  assert _check(workdir, config) == []
  continuing.write_config(
    workdir,
    base_config(),
    continuing.config_changes(workdir, base_config(), False),
    9,
  )
  content = json.loads((workdir / "config.json").read_text())
  first, second = content["history"]
  assert first == entry
  before, after = entry["changes"][name]
  assert second == {"step": 9, "changes": {name: [after, before]}}


@pytest.mark.parametrize(
  ("field", "value", "line"),
  [
    ("model__output_stride", 8, "model.output_stride: 16 -> 8"),
    ("model__atrous_rates", (12, 24), "[6, 12, 18] -> [12, 24]"),
    ("model__backbone", "resnet_50", "xception_65 -> resnet_50"),
    ("model__multi_grid", (1, 2, 4), "model.multi_grid: null -> [1, 2, 4]"),
    ("task", "classification", "segmentation -> classification"),
    ("data__name", "ade20k", "data.name: voc2012 -> ade20k"),
    ("data__train_split", "val", 'data.train_split: "" -> val'),
  ],
)
def test_another_meaning_is_refused_unless_allowed(workdir, field, value, line):
  before = sorted(workdir.rglob("*"))
  config = _changed(**{field: value, "lr": 0.1})
  with pytest.raises(ValueError) as caught:
    _check(workdir, config)
  message = str(caught.value)
  assert line in message and "lr:" not in message and "\n" not in message
  assert "--allow_changes" in message and "another --workdir" in message
  assert sorted(workdir.rglob("*")) == before
  told = _check(workdir, config, allow=True)
  assert len(told) == 2 and any(line in text for text in told)


@pytest.mark.parametrize("allow", [False, True])
def test_what_the_checkpoints_have_not_is_refused_at_any_rate(workdir, allow):
  averaged = workdir / "averaged"
  (averaged / "checkpoints/3").mkdir(parents=True)
  continuing.write_config(averaged, _changed(ema_decay=0.9), [], 0)
  for folder, field, value, message in (
    (workdir, "ema_decay", 0.9, r"0, as no average of its weights was saved"),
    (averaged, "ema_decay", 0.0, r"above 0, as weights and their average"),
    (workdir, "optimizer", "adamw", r"'sgd', whose state was saved"),
  ):
    with pytest.raises(ValueError) as caught:
      _check(folder, _changed(**{field: value}), allow)
    line = str(caught.value)
    assert line.startswith(f"config.{field} must be {message}"), line
    assert f"got {value!r}" in line and "\n" not in line
    assert f"--config.init_from={folder}" in line
  assert _check(averaged, _changed(ema_decay=0.99)) == [
    "ema_decay: 0.9 -> 0.99"
  ]


def test_a_run_without_a_checkpoint_begins_anew(workdir):
  (workdir / "checkpoints/7").rmdir()
  config = _changed(model__output_stride=8)
  assert _check(workdir, config) == []


def test_fields_that_an_older_version_had_not_were_at_their_defaults(workdir):
  content = json.loads((workdir / "config.json").read_text())
  del content["remat"], content["model"]["multi_grid"]
  content["gone"] = 1
  (workdir / "config.json").write_text(json.dumps(content))
  assert _check(workdir, base_config()) == []
  assert _check(workdir, _changed(remat=True)) == ["remat: false -> true"]


@pytest.mark.parametrize("content", ["", '{"lr": ', "[]", "\0\0"])
def test_a_damaged_config_is_refused_unless_allowed(workdir, content):
  (workdir / "config.json").write_text(content)
  with pytest.raises(ValueError, match=r"config.json is damaged.*--allow_cha"):
    _check(workdir, base_config())
  assert _check(workdir, base_config(), allow=True) == []
  continuing.write_config(workdir, base_config(), [], 7)
  assert _check(workdir, base_config()) == []


@pytest.mark.parametrize(
  "content", ["", "[]", '{"eval": [1]}', '{"train": 3}', "\0\0"]
)
def test_damaged_facts_of_the_data_are_refused_unless_allowed(workdir, content):
  (workdir / "data.json").write_text(content)
  with pytest.raises(
    ValueError, match=r"data.json is damaged.*--allow_changes"
  ):
    continuing.data_changes(workdir, {}, False)
  assert continuing.data_changes(workdir, {}, True) == ([], [])
  with pytest.raises(ValueError, match=r"data\.json is damaged"):
    continuing.scored_on(workdir)


@pytest.mark.parametrize("history", [None, 3, "x", {}])
def test_a_damaged_history_begins_anew(workdir, history):
  content = json.loads((workdir / "config.json").read_text())
  (workdir / "config.json").write_text(
    json.dumps(content | {"history": history})
  )
  config = _changed(lr=0.1)
  changes = continuing.config_changes(workdir, config, False)
  continuing.write_config(workdir, config, changes, 7)
  content = json.loads((workdir / "config.json").read_text())
  assert len(content["history"]) == 1
