"""Saving, finding, verifying and restoring, with real files."""

import errno
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deeplab_jax
from deeplab_jax import (
  atomic,
  checkpoints,
  evaluate,
  messages,
  optimizer,
  predict,
)
from deeplab_jax import config as config_lib
from deeplab_jax.checkpoints import wholeness
from deeplab_jax.doctor import config_checks
from deeplab_jax.models.trace import shapes_of
from deeplab_jax.train.checkpoints import Checkpoints
from deeplab_jax.train.initialize import initialize_from
from deeplab_jax.train.state import TrainState, abstract, create_state
from tests.tiny_segmenter import tiny_model

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def _state(seed=0, model=None) -> TrainState:
  """Random leaves in a state's shapes: compiling a model's init takes 8 s."""
  rule = optimizer.make_optimizer(config_lib.base_config())
  shapes = shapes_of(
    lambda: create_state(model or tiny_model(), rule, (33, 33), seed)
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.integers(0, 1000, x.shape), x.dtype), shapes
  ).replace(step=jnp.zeros((), jnp.int32))


@pytest.fixture(scope="module")
def first() -> TrainState:
  return _state(0)


@pytest.fixture(scope="module")
def workdir(first, tmp_path_factory):
  """A workdir with steps 1, 2, 3 of which two are kept, and the best, 2."""
  folder = tmp_path_factory.mktemp("run")
  saver = Checkpoints(folder, keep=2)
  for step, miou in ((1, 0.5), (2, 0.75), (3, 0.25)):
    saver.save(_at(first, step))
    saver.save_best(_at(first, step), miou)
  saver.close()
  checkpoints.write_model_json(folder, tiny_model(), dataset={"name": "toy"})
  return folder


@pytest.fixture
def copy(workdir, tmp_path):
  return shutil.copytree(workdir, tmp_path / "copy")


def _at(template, step) -> TrainState:
  """`template` with the number of the step added to every leaf."""
  filled = jax.tree.map(lambda x: x + step, template)
  return filled.replace(step=jnp.asarray(step, jnp.int32))


def _assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_the_best_beside_them(workdir):
  assert _names(workdir / "checkpoints") == ["2", "3"]
  assert _names(workdir / "best") == ["2"]


def test_restore_newest_gives_back_every_leaf(workdir, first):
  saver = Checkpoints(workdir, keep=2)
  restored = saver.restore_newest(abstract(first))
  saver.close()
  _assert_equal(restored, _at(first, 3))


def test_restore_newest_of_an_empty_workdir_is_none(tmp_path, first):
  saver = Checkpoints(tmp_path, keep=2)
  assert saver.restore_newest(abstract(first)) is None
  saver.close()


def test_an_average_is_what_others_load_and_training_goes_on_with_both(
  tmp_path, first
):
  averaged = _at(first, 3).replace(average=_at(first, 5).variables)
  saver = Checkpoints(tmp_path, keep=2)
  saver.save(averaged)
  saver.save_best(averaged, 0.5)
  checkpoints.write_model_json(tmp_path, tiny_model(), dataset={"name": "toy"})
  saver.wait()
  _assert_equal(saver.restore_newest(abstract(averaged)), averaged)
  with pytest.raises(ValueError, match=r"unexpected: trained/params/aspp"):
    saver.restore_newest(abstract(first))
  saver.close()
  for path in (tmp_path, tmp_path / "best"):
    _, variables, _ = checkpoints.load_variables(path)
    _assert_equal(variables, averaged.average)
  fresh = _state(1).replace(average=_state(2).variables)
  begun, _ = initialize_from(fresh, tmp_path, "all")
  for found in (begun.variables, begun.average):
    _assert_equal(found, averaged.average)


def test_a_saved_step_is_not_saved_again(copy, first):
  saver = Checkpoints(copy, keep=2)
  saver.save(_at(first, 3))
  saver.close()
  assert _names(copy / "checkpoints") == ["2", "3"]


def _config(folder):
  config = config_lib.base_config()
  config.data.update(name="shapes", data_dir=str(folder))
  config.init_from = str(folder)
  return config


_READERS = {
  "load": lambda folder, fresh: deeplab_jax.load(folder),
  "load_variables": lambda folder, fresh: checkpoints.load_variables(folder),
  "init_from": lambda folder, fresh: initialize_from(fresh, folder, "all"),
  "--mode eval": lambda folder, fresh: evaluate.report(folder, _config(folder)),
  "doctor": lambda folder, fresh: config_checks.no_start(_config(folder)),
  "predict": lambda folder, fresh: predict.main(
    [str(folder), f"{folder}/a.png", "--out", f"{folder}/out"]
  ),
}


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize(
  "damage", ["damaged", "damaged best", "unreadable", "model.json", "one bit"]
)
def test_every_reader_answers_damage_in_one_line(
  copy, first, reader, damage, monkeypatch, capsys
):
  monkeypatch.setattr("deeplab_jax.runtime.start_runtime", lambda: None)
  (copy / "a.png").write_bytes(b"")
  if damage == "model.json":
    (copy / "model.json").write_text('{"format": 1, "mod')
  if damage == "one bit":  # makes an output stride of 14 of 16
    text = (copy / "model.json").read_text()
    assert '"output_stride": 16' in text
    text = text.replace('"output_stride": 16', '"output_stride": 14')
    (copy / "model.json").write_text(text)
  if damage == "damaged best":
    path = copy / "best/2/variables/_METADATA"
    path.write_bytes(path.read_bytes()[:100])
    copy = copy / "best"
    (copy / "a.png").write_bytes(b"")
  for step in (2, 3):
    path = copy / f"checkpoints/{step}/variables/_METADATA"
    if damage == "damaged":
      path.write_bytes(path.read_bytes()[:100])
  if damage == "unreadable":

    def fail(file, _):
      raise OSError(errno.ESTALE, "Stale file handle", file.name)

    monkeypatch.setattr(hashlib, "file_digest", fail)
  try:
    message = _READERS[reader](copy, first)
  except (ValueError, OSError) as error:
    message = messages.explain(error)
  of_model = damage in ("model.json", "one bit")
  if of_model and reader in ("init_from", "doctor"):
    return  # They read the weights alone.
  if reader == "predict":
    assert message == 1
    message = capsys.readouterr().err.strip()
  assert "\n" not in message
  expected = {"unreadable": "Stale file handle"}
  whole = "model.json is damaged" if of_model else "is not whole"
  assert expected.get(damage, whole) in message
  if damage == "damaged":
    assert f"{copy / 'best'}" in message


def test_the_best_is_on_disk_before_a_later_step_is_saved(
  first, tmp_path, monkeypatch
):
  """Or a run that continues from that step could have lost it."""
  seen = {}

  def write_slowly(step):
    if step.parent.name == "best":
      time.sleep(0.5)
    seen[step.name.partition(".")[0]] = _names(tmp_path / "best")
    write(step)

  write = wholeness.write_checksums
  monkeypatch.setattr(wholeness, "write_checksums", write_slowly)
  saver = Checkpoints(tmp_path, keep=2)
  saver.save_best(_at(first, 1), 0.5)
  saver.save(_at(first, 2))
  saver.close()
  assert seen["2"] == ["1"]


def test_a_step_trained_again_replaces_its_best_only_if_better(copy, first):
  saver = Checkpoints(copy, keep=2)
  saver.save_best(_at(first, 2).replace(step=jnp.int32(2)), 0.7)
  saver.save_best(_at(first, 5).replace(step=jnp.int32(2)), 0.8)
  saver.save_best(_at(first, 6), float("nan"))
  saver.close()
  _, variables, _ = checkpoints.load_variables(copy / "best")
  _assert_equal(variables, _at(first, 5).variables)


def test_of_two_bests_that_a_kill_leaves_the_better_stays(copy, first):
  shutil.copytree(copy / "best/2", copy / "best/9")
  metrics = copy / "best/9/metrics/metrics"
  metrics.write_text('{"score": 0.1}')
  (copy / "best/9/checksums.json").unlink()
  Checkpoints(copy, keep=2).close()
  assert _names(copy / "best") == ["2"]


def test_a_distrusted_step_is_put_aside(copy, first):
  saver = Checkpoints(copy, keep=2)
  assert saver.distrust(3, "no good") == 2
  assert saver.distrust(7, "not there") == 2
  assert int(saver.restore_newest(abstract(first)).step) == 2
  saver.close()
  assert _names(copy / "broken") == ["3"]


@pytest.mark.parametrize("item", ["variables", "training"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_restore_newest_passes_over_a_broken_one(
  copy, first, item, damage, caplog
):
  for file in (copy / "checkpoints/3" / item).rglob("d/*"):
    if damage == "truncated":
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
      file.unlink()
  saver = Checkpoints(copy, keep=2)
  restored = saver.restore_newest(abstract(first))
  _assert_equal(restored, _at(first, 2))
  assert f"checkpoint 3 is not whole ({item}: " in caplog.text
  assert _names(copy / "broken") == ["3"]
  saver.save(_at(first, 3))  # the step can be saved again
  saver.close()
  assert _names(copy / "checkpoints") == ["2", "3"]


def test_an_unfinished_save_is_cleared_away(copy, first):
  saving = copy / "checkpoints/4.orbax-checkpoint-tmp"
  shutil.copytree(copy / "checkpoints/3", saving)
  saver = Checkpoints(copy, keep=2)
  restored = saver.restore_newest(abstract(first))
  saver.close()
  assert int(restored.step) == 3
  assert not saving.exists()


def test_restore_newest_lists_what_another_architecture_differs_in(
  workdir, first
):
  saver = Checkpoints(workdir, keep=2)
  wider = _state(model=tiny_model(num_classes=4, atrous_rates=(6,)))
  with pytest.raises(ValueError) as caught:
    saver.restore_newest(abstract(wider))
  saver.close()
  message = str(caught.value)
  assert "another architecture" in message
  assert "missing: params/aspp/aspp1/" in message
  assert "wrong shape: params/logits/kernel must be" in message
  narrow = _state(model=tiny_model(image_pooling=False))
  with pytest.raises(ValueError, match="unexpected: params/aspp/image_pooling"):
    saver.restore_newest(abstract(narrow))


@pytest.mark.parametrize(
  ("where", "step"),
  [("", 3), ("checkpoints/2", 2), ("checkpoints", 3), ("best", 2)],
)
def test_load_variables_finds_the_step_meant(workdir, first, where, step):
  model, variables, content = checkpoints.load_variables(workdir / where)
  assert model == tiny_model()
  assert content["dataset"] == {"name": "toy"}
  _assert_equal(variables, _at(first, step).variables)


def test_load_variables_says_what_it_looked_for(tmp_path):
  with pytest.raises(ValueError, match=r"no checkpoint at .*give a workdir"):
    checkpoints.load_variables(tmp_path)


def test_load_variables_refuses_a_later_format(copy):
  (copy / "model.json").write_text(json.dumps({"format": 2}))
  with pytest.raises(ValueError, match="format must be 1, got 2"):
    checkpoints.load_variables(copy)


def test_a_saved_model_loads_with_its_settings(tmp_path, first):
  checkpoints.save_model(
    tmp_path / "imported", tiny_model(), first.variables, source="a test"
  )
  model, variables, content = checkpoints.load_variables(tmp_path / "imported")
  assert model == tiny_model()
  assert content["source"] == "a test"
  assert content["preprocessing"] == {
    "mean": [127.5] * 3,
    "scale": [2 / 255] * 3,
  }
  _assert_equal(variables, first.variables)


def test_a_model_is_written_by_one_and_never_over_another(tmp_path, first):
  """Not over one that is being written either; what a kill left is no model."""
  save = functools.partial(checkpoints.save_model, tmp_path, tiny_model())
  (tmp_path / "checkpoints/0.orbax-checkpoint-tmp-1").mkdir(parents=True)
  other = os.open(tmp_path, os.O_RDONLY)
  assert atomic.lock(other)
  with pytest.raises(ValueError, match="is being written; give another --out"):
    save(first.variables)
  os.close(other)
  save(first.variables)
  with pytest.raises(ValueError, match="holds a model already"):
    save(first.variables)
  found = checkpoints.load_variables(tmp_path)[1]
  _assert_equal(jax.tree.map(np.asarray, found), first.variables)


def test_kernels_stored_in_half_precision_come_back_as_float32(tmp_path, first):
  variables = jax.tree.map(jnp.sin, first.variables)
  for name in ("whole", "half"):
    dtype = "float16" if name == "half" else None
    checkpoints.save_model(
      tmp_path / name, tiny_model(), variables, dtype=dtype
    )
  _, found, _ = checkpoints.load_variables(tmp_path / "half")

  def rounded(x):
    return np.asarray(x).astype("f2").astype("f4") if x.ndim > 1 else x

  _assert_equal(found, jax.tree.map(rounded, variables))
  assert {x.dtype.name for x in jax.tree.leaves(found)} == {"float32"}
  assert _bytes(tmp_path / "half") < 0.75 * _bytes(tmp_path / "whole")


def _bytes(folder):
  files = (folder / "checkpoints").rglob("d/*")
  return sum(file.stat().st_size for file in files)


def test_kernels_too_large_for_their_type_are_refused(tmp_path, first):
  large = jax.tree.map(lambda x: x + 1e5, first.variables)
  with pytest.raises(ValueError, match="float16 cannot hold kernels of 100"):
    checkpoints.save_model(tmp_path, tiny_model(), large, dtype="float16")


def test_initialize_from_all_redraws_only_logits_of_other_classes(
  workdir, first
):
  fresh = _state(1, tiny_model(num_classes=5))
  found, report = initialize_from(fresh, workdir, "all")
  _assert_equal(found.params["logits"], fresh.params["logits"])
  source = _at(first, 3)
  _assert_equal(found.params["aspp"], source.params["aspp"])
  _assert_equal(found.params["backbone"], source.params["backbone"])
  _assert_equal(found.batch_stats, source.batch_stats)
  _assert_equal(found.opt_state, fresh.opt_state)
  assert report.reinitialized == report.skipped
  assert report.reinitialized == ("logits/bias", "logits/kernel")
  assert int(found.step) == 0


def test_initialize_from_backbone_leaves_the_head_alone(workdir, first):
  fresh = _state(1, tiny_model(atrous_rates=(6,)))
  found, report = initialize_from(fresh, workdir, "backbone")
  _assert_equal(found.params["aspp"], fresh.params["aspp"])
  source = _at(first, 3)
  _assert_equal(found.params["backbone"], source.params["backbone"])
  _assert_equal(found.batch_stats["backbone"], source.batch_stats["backbone"])
  assert "logits/kernel" in report.skipped
  assert all(name.startswith("backbone/") for name in report.loaded)


def test_initialize_from_another_backbone_lists_the_differences(workdir):
  fresh = _state(1, tiny_model(backbone="mobilenet_v2"))
  with pytest.raises(ValueError, match="missing: batch_stats/back") as caught:
    initialize_from(fresh, workdir, "backbone")
  lines = str(caught.value).splitlines()
  assert len(lines) == 22 and lines[-1].split()[::2] == ["and", "more"]


@pytest.mark.parametrize(
  "address", ["az://bucket/run", "http://b/run", pathlib.Path("az://b/run")]
)
def test_the_address_of_another_store_is_refused_with_the_remedy(address):
  message = r"must begin with gs:// or s3://, got (az|http):/.*mount other stor"
  opening = (
    checkpoints.find_step,
    lambda folder: Checkpoints(folder, keep=1),
    lambda folder: checkpoints.save_model(folder, tiny_model(), {}),
  )
  for call in opening:
    with pytest.raises(ValueError, match=message):
      call(address)
  assert not pathlib.Path("az:").exists()


def test_a_path_in_the_home_folder_is_made_absolute(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert checkpoints.local_path("~/run") == tmp_path / "run"
  monkeypatch.chdir(tmp_path)
  assert checkpoints.local_path("run:2/x") == tmp_path / "run:2/x"
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  assert checkpoints.local_path("../run") == tmp_path / "run"


def test_a_model_beside_the_current_folder_loads(workdir, monkeypatch):
  monkeypatch.chdir(workdir / "checkpoints")
  checkpoints.load_variables("..")
