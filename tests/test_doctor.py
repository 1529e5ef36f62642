"""The doctor on configs and records, its figures, its reports, its command."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from deeplab_jax.data.builders import blending
from deeplab_jax.doctor import (
  Severity,
  checkup_text,
  examine,
  overfit,
  page,
  survey,
)
from tests import doctor_scenes as scenes

_REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
  return scenes.write(tmp_path_factory.mktemp("doctor") / "mine")


# Name -> (fields, code, severity, part of the message or the remedy).
CONFIGS = {
  "crop size": (
    {"data__crop_size": (64, 64)},
    ("config", Severity.ERROR, "the nearest is (65, 65)"),
  ),
  "backbone": (
    {"model__backbone": "resnet"},
    ("config", Severity.ERROR, "backbone must be one of"),
  ),
  "data set": (
    {"data__name": "vox"},
    ("config", Severity.ERROR, "data.name must be one of"),
  ),
  "too few class weights": (
    {"loss__class_weights": (1.0, 2.0)},
    ("class-weights", Severity.ERROR, "() or 4 numbers"),
  ),
  "a negative class weight": (
    {"loss__class_weights": (1.0, -1.0, 1.0, 1.0)},
    ("class-weights", Severity.ERROR, "none negative"),
  ),
  "a class weight of 0": (
    {"loss__class_weights": (1.0, 0.0, 1.0, 1.0)},
    ("class-weight-zero", Severity.WARNING, "class_1 (1)"),
  ),
  "batch larger than the split": (
    {"batch_size": 9},
    ("batch-exceeds-split", Severity.WARNING, "--config.batch_size=8"),
  ),
  "rates beyond the crop": (
    {"model__atrous_rates": (1, 5)},
    ("rates-beyond-crop", Severity.WARNING, "atrous_rates 5 (times 16"),
  ),
  "a batch of one": (
    {"batch_size": 1},
    ("batch-of-one", Severity.WARNING, "sees one value"),
  ),
  "a short run with slow batch norm": (
    {"model__batch_norm_momentum": None, "steps": 100},
    ("batch-norm-too-slow", Severity.WARNING, "still hold 97%"),
  ),
  "frozen batch norm of random weights": (
    {"train_batch_norm": False},
    ("frozen-batch-norm", Severity.WARNING, "statistics of nothing"),
  ),
  "no weights where they should be": (
    {"init_from": "nowhere"},
    ("init-from", Severity.WARNING, "no checkpoint at"),
  ),
  "crop larger than the images": (
    {"data__crop_size": (257, 257)},
    ("crop-exceeds-images", Severity.WARNING, "is 96x72"),
  ),
  "no path": (
    {"data__path": ""},
    ("refused", Severity.ERROR, "data.path"),
  ),
  "a path that is not there": (
    {"data__path": "nowhere"},
    ("refused", Severity.ERROR, "got 'nowhere'"),
  ),
  "a split that is not there": (
    {"data__eval_split": "test"},
    ("refused", Severity.ERROR, "split 'test' must be one of train, val"),
  ),
  "a part of a split without examples": (
    {"data__train_split": "train[:0%]"},
    ("refused", Severity.ERROR, "split 'train[:0%]' must be"),
  ),
  "a data set that is not prepared": (
    {"data__name": "camvid"},
    ("refused", Severity.ERROR, "python -m deeplab_jax.prepare camvid"),
  ),
  "a data set without masks": (
    {"data__name": "imagenet2012"},
    ("no-masks", Severity.WARNING, "is for classification"),
  ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_fault_of_the_config_is_found_and_not_contradicted(root, name):
  fields, (code, severity, part) = CONFIGS[name]
  checkup = examine(scenes.config(root, **fields), overfit_steps=0)
  found = {f.code: f for f in checkup.findings}
  assert found.keys() == {code}
  assert found[code].severity is severity
  assert part in found[code].message + found[code].remedy
  last = checkup_text.text(checkup).splitlines()[-1]
  if severity is Severity.ERROR:
    assert last == "1 error, no warnings: correct the errors first"
  elif code in ("init-from", "no-masks"):
    assert last.startswith("no errors, 1 warning: ")
    assert "this can be trained on" not in last
  else:
    expected = "this can be trained on, if the warnings are meant"
    assert last == f"no errors, 1 warning: {expected}"


def test_the_last_line_of_sound_data_and_of_a_loss_that_stays(root):
  sound = examine(scenes.config(root), overfit_steps=0)
  assert checkup_text.text(sound).endswith(
    "no errors, no warnings: this can be trained on"
  )
  result = _losses(*map(float, np.linspace(2, 1.9, 40)))
  stays = tuple(overfit.findings(result, scenes.config(root)))
  checkup = dataclasses.replace(sound, findings=stays, overfit=result)
  last = checkup_text.text(checkup).splitlines()[-1]
  assert last.endswith("1 warning: find out first why the loss does not fall")


@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_records_are_one_error(shapes_dir, tmp_path, share):
  shutil.copytree(shapes_dir, tmp_path, dirs_exist_ok=True)
  (records,) = tmp_path.rglob("*train.array_record*")
  records.write_bytes(records.read_bytes()[: int(share * 1e6)])
  config = scenes.config(tmp_path, data__name="shapes", data__path="")
  config.data.data_dir = str(tmp_path)
  checkup = examine(config, overfit_steps=0)
  assert [f.code for f in checkup.findings] == ["refused"]
  assert str(tmp_path / "shapes") in checkup.findings[0].message
  assert "prepare it again" in checkup.findings[0].message


def test_all_faults_are_found_at_once(tmp_path):
  root = scenes.write(tmp_path / "mine")
  (root / "images/s05.png").write_text("no image")
  (root / "masks/s06.png").unlink()
  (root / "images/s07.png").rename(root / "images/other.png")
  (root / "classes.txt").write_text("a\nb\n")
  checkup = examine(scenes.config(root), overfit_steps=0)
  assert {f.code for f in checkup.errors} == {
    "undecodable",
    "image-without-mask",
    "mask-without-image",
    "wrong-list",
    "id-out-of-range",
  }


def test_counts_and_weights_follow_the_masks(root):
  checkup = examine(scenes.config(root), overfit_steps=0)
  pixels = np.zeros(256, int)
  for seed in range(12):
    pixels += np.bincount(scenes.draw(seed)[1].ravel(), minlength=256)
  summary = checkup_text.summarise(checkup.survey)
  labelled = pixels[:4]
  assert summary["ignored"] == pytest.approx(pixels[255] / pixels.sum())
  expected = np.median(labelled) / labelled
  weights = [entry["weight"] for entry in summary["classes"]]
  np.testing.assert_allclose(weights, expected, atol=5e-4)
  share = labelled.max() / labelled.sum()
  assert summary["majority_miou"] == pytest.approx(share / 4)
  assert summary["classes"][0]["images"] == 12


def test_a_crop_left_to_the_images_is_theirs(root):
  config = scenes.config(root, data__crop_size=(0, 0))
  checkup = examine(config, overfit_steps=0)
  assert not checkup.findings
  stride = config.model.output_stride
  crop = checkup.survey.config.data.crop_size
  for side, image in zip(crop, (72, 96)):
    assert side % stride == 1 and image <= side < image + stride


def test_limit_reads_evenly_spread_images(root):
  checkup = examine(scenes.config(root), limit=3, overfit_steps=0)
  names = [facts.name for facts in checkup.survey.facts]
  assert names == ["s04", "s06", "s09", "s00", "s01", "s02"]
  assert "8 images in train (3 of them read)" in checkup_text.text(checkup)


def test_class_weights_are_bounded_and_1_without_pixels():
  weights = survey.class_weights(np.array([10**6, 100, 1, 0]))
  np.testing.assert_allclose(weights, [1e-4, 1, 50, 1])


@pytest.mark.parametrize(
  ("line", "expected"),
  [
    # Regions of 4; (ends with room, thin followers, blended, values between).
    ([0, 0, 0, 0, 9, 9, 9, 9], (1, 0, 0, 0)),
    ([0, 0, 0, 0, 1, 1, 1, 1], (0, 0, 0, 0)),
    ([0, 0, 0, 0, 4, 9, 9, 9, 9], (1, 1, 1, 1)),
    ([0, 0, 0, 0, 2, 4, 7, 9, 9, 9, 9], (1, 1, 1, 1)),
    ([9, 9, 9, 9, 3, 3, 3, 0, 0, 0, 0], (1, 1, 1, 1)),
    ([9, 9, 9, 9, 3, 3, 3, 3, 0, 0, 0, 0], (2, 0, 0, 0)),
    ([0, 0, 0, 0, 255, 9, 9, 9, 9], (1, 1, 0, 0)),
  ],
)
def test_blending_counts_ends_of_regions(line, expected):
  found = blending.measure(np.array([line], np.uint8))
  counts = found.ends, found.thin, found.blended, found.between
  assert counts == expected


def test_text_shows_files_and_remedies_and_json_has_all(tmp_path):
  root = scenes.write(tmp_path / "mine")
  for seed in range(4, 12):
    (root / f"images/s{seed:02d}.png").write_text("no image")
  checkup = examine(scenes.config(root), overfit_steps=0)
  text = checkup_text.text(checkup)
  assert "ERRORS (1)\n  undecodable: files cannot be decoded" in text
  assert "images/s04.png: cannot be decoded" in text
  assert "... and 3 more" in text and "    -> copy or download" in text
  assert "not tried, as there are errors" in text
  content = json.loads(json.dumps(checkup_text.to_dict(checkup)))
  assert content["errors"] == 1
  assert len(content["findings"][0]["files"]) == 8
  assert content["data"]["val"] == {"images": 4, "read": 4}


def test_page_shows_image_mask_and_overlay_of_what_was_found(tmp_path):
  root = scenes.write(tmp_path / "<b>mine")
  _, mask = scenes.draw(5)
  scenes.save(root / "masks/s05.png", mask.T.copy())
  scenes.save(root / "masks/s06.png", np.zeros((9, 9, 3), np.uint8))
  (root / "images/s07.png").write_text("no image")
  checkup = examine(scenes.config(root), overfit_steps=0)
  content = page.render(checkup)
  errors = content[: content.index("Some examples")]
  for caption in ("image", "mask", "overlay"):
    assert f"<figcaption>{caption}</figcaption>" in errors
  assert "mask-transposed" in errors and "<b>mine" not in content
  assert 'src="http' not in content


def test_page_without_data_still_says_why(root):
  checkup = examine(scenes.config(root, data__path=""), overfit_steps=0)
  content = page.render(checkup)
  assert "could not be opened" in content and "data.path" in content


def _losses(*losses):
  return overfit.Overfit(losses, 1.0, (2, 65, 65), ("a", "b"), 1.0)


@pytest.mark.parametrize(
  ("losses", "fell", "codes"),
  [
    (np.linspace(2, 0.5, 40), True, []),
    (np.linspace(2, 1.9, 40), False, ["loss-does-not-fall"]),
    (np.linspace(2, 5, 40), False, ["loss-does-not-fall"]),
    (np.linspace(2, 1.9, 5), None, []),
    ([2.0, np.nan], None, ["loss-not-finite"]),
  ],
)
def test_verdict_on_the_losses(root, losses, fell, codes):
  result = _losses(*map(float, losses))
  assert result.fell is fell
  found = overfit.findings(result, scenes.config(root))
  assert [f.code for f in found] == codes


def test_no_verdict_on_a_loss_that_is_not_known(root):
  result = overfit.Overfit(
    (0.9,) * 40, None, (2, 65, 65), ("a", "b"), 1.0, "dice"
  )
  assert result.fell is None
  assert "dice 0.900 -> 0.900 (how far dice should fall is not" in str(result)
  assert not list(overfit.findings(result, scenes.config(root)))
  result = dataclasses.replace(result, losses=(0.9, float("nan")))
  found = overfit.findings(result, scenes.config(root))
  assert [f.code for f in found] == ["loss-not-finite"]


def _command(folder, *flags):
  return subprocess.run(
    [sys.executable, "-m", "deeplab_jax.doctor", *flags],
    cwd=folder,
    env={
      **os.environ,
      "PYTHONPATH": str(_REPOSITORY),
      "JAX_PLATFORMS": "cpu",
      "DEEPLAB_CACHE": str(folder / "cache"),
    },
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_command_trains_on_sound_data_and_writes_both_files(root, tmp_path):
  done = _command(
    tmp_path,
    f"--config={_REPOSITORY}/tests/programs/tiny_config.py",
    "--config.data.name=folder",
    f"--config.data.path={root}",
    f"--config.data.data_dir={tmp_path / 'data'}",
    "--overfit_steps=25",
    "--json=found.json",
    "--html=found.html",
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "(as it should" in done.stdout, done.stdout
  content = json.loads((tmp_path / "found.json").read_text())
  assert content["errors"] == 0 and content["overfit"]["fell"] is True
  assert content["overfit"]["losses"][-1] < content["overfit"]["losses"][0]
  assert (tmp_path / "found.html").read_text().startswith("<!DOCTYPE html>")


def test_command_ends_with_1_where_there_are_errors(tmp_path):
  root = scenes.write(tmp_path / "mine")
  (root / "masks/s05.png").unlink()
  done = _command(
    tmp_path,
    f"--config={_REPOSITORY}/configs/folder.py",
    f"--config.data.path={root}",
    f"--config.data.data_dir={tmp_path / 'data'}",
  )
  assert done.returncode == 1
  assert "image-without-mask" in done.stdout
  assert "Traceback" not in done.stdout + done.stderr


def test_command_names_a_misspelt_field(tmp_path):
  config = f"--config={_REPOSITORY}/configs/folder.py"
  done = _command(tmp_path, config, "--config.data.pth=x")
  assert done.returncode == 1
  assert "no field 'data.pth'; did you mean 'data.path'" in done.stderr
