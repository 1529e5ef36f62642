"""Whole runs: real processes, real signals, compared bit for bit."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import checkpoints, train
from deeplab_jax import config as config_lib
from deeplab_jax.checkpoints import items
from deeplab_jax.train import lock
from tests import processes, tiny_runs

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture(scope="module")
def folder(shapes_dir, tmp_path_factory) -> pathlib.Path:
  """Where the runs share data and compiled programs."""
  folder = tmp_path_factory.mktemp("runs")
  shutil.copytree(shapes_dir, folder / "data")
  return folder


def _assert_same_run(found, expected, last_step=40):
  """Parameters, statistics, optimizer, step and records, bit for bit."""
  for item in ("variables", "training"):
    place = pathlib.Path("checkpoints") / str(last_step) / item
    trees = [items.restore(folder / place) for folder in (found, expected)]
    jax.tree.map(np.testing.assert_array_equal, *trees)
  assert tiny_runs.rows(found) == tiny_runs.rows(expected)


@pytest.fixture(scope="module")
def uninterrupted(folder) -> tuple[pathlib.Path, str]:
  """The workdir of a whole run, and what it printed."""
  workdir = folder / "uninterrupted"
  return workdir, processes.finish(tiny_runs.start(folder, workdir))


def test_a_run_leaves_what_the_readme_says(uninterrupted):
  workdir, output = uninterrupted
  steps = [
    row["step"] for row in tiny_runs.rows(workdir) if "train/loss" in row
  ]
  assert steps == list(range(1, 41))
  evaluated = [row for row in tiny_runs.rows(workdir) if "eval/miou" in row]
  assert [row["step"] for row in evaluated] == [0, 20, 40]
  assert "eval/iou/background" in evaluated[0]
  pictures = sorted(path.name for path in (workdir / "pictures").iterdir())
  assert pictures == ["step_0.png", "step_20.png", "step_40.png"]
  assert list((workdir / "tensorboard").glob("events.*"))
  with Image.open(workdir / "curves.png") as picture:
    assert min(picture.size) > 300
  compiling = output.index("compiling the training step ...")
  assert output.index("step 0: evaluating") < compiling
  first = next(li for li in output.splitlines() if li.startswith("step 1/40"))
  assert compiling < output.index(first) and "left" not in first
  assert re.search(r"step 2/40 .* images/s .*\d:\d\d left", output)
  miou = evaluated[-1]["eval/miou"]
  assert f"held-out mIoU {miou:.2%} after 40 steps" in output
  assert "images in train" in output and "M parameters" in output
  assert str(workdir / "pictures") in output
  model, _, content = checkpoints.load_variables(workdir)
  assert (model.backbone, model.output_stride) == ("tiny", 32)
  expected = {"crop_size": [1, 1], "step": 40, "miou": miou}
  assert content["evaluation"] == expected
  assert content["dataset"]["name"] == "shapes"
  best = max(evaluated, key=lambda row: row["eval/miou"])["step"]
  assert [path.name for path in (workdir / "best").iterdir()] == [str(best)]


def test_a_finished_run_says_so_and_trains_no_more(uninterrupted, folder):
  workdir, _ = uninterrupted
  before = _times(workdir)
  output = processes.finish(
    tiny_runs.start(
      folder, workdir, "--config.keep_checkpoints=3", "--config.seed=1"
    )
  )
  assert "continuing from step 40" in output
  assert "begun:\n  seed: 0 -> 1\n  keep_checkpoints: 2 -> 3\n" in output
  assert "after 40 steps" in output
  assert _times(workdir) == before


def _times(folder):
  """When each file in `folder` was written, and its size."""
  found = {path: path.stat() for path in folder.rglob("*")}
  return {path: (s.st_mtime_ns, s.st_size) for path, s in found.items()}


def test_a_best_that_was_not_saved_is_saved_by_the_next_start(
  uninterrupted, folder
):
  workdir = shutil.copytree(uninterrupted[0], folder / "best_lost")
  shutil.rmtree(workdir / "best")
  processes.finish(tiny_runs.start(folder, workdir))
  (best,) = (workdir / "best").iterdir()
  assert best.name == "40"
  trees = [
    items.restore(step / "variables")
    for step in (best, uninterrupted[0] / "checkpoints/40")
  ]
  jax.tree.map(np.testing.assert_array_equal, *trees)


def test_a_run_of_another_model_or_beside_another_is_refused(
  uninterrupted, folder
):
  workdir = shutil.copytree(uninterrupted[0], folder / "refused")
  before = _times(workdir)
  process = tiny_runs.start(folder, workdir, "--config.model.output_stride=16")
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 1
  (line,) = output.splitlines()
  assert line.startswith(f"error: {workdir} was begun with something else: ")
  assert "model.output_stride: 32 -> 16; " in line
  with lock.only_writer(workdir):
    process = tiny_runs.start(folder, workdir)
    output, _ = process.communicate(timeout=600)
  assert process.returncode == 1
  (line,) = output.splitlines()
  assert f"in use by another run (process {os.getpid()} on " in line
  after = _times(workdir)
  files = {path for path in {*before, *after} if path.is_file()}
  assert [p for p in files if before.get(p) != after.get(p)] in (
    [],
    [workdir / "lock"],
  )


def test_a_killed_run_continues_bit_for_bit(uninterrupted, folder):
  workdir = folder / "killed"
  process = tiny_runs.start(folder, workdir)
  tiny_runs.wait_for_step(process, workdir, 13)
  process.kill()
  process.communicate()
  output = processes.finish(tiny_runs.start(folder, workdir))
  assert "continuing from step" in output
  _assert_same_run(workdir, uninterrupted[0])


@pytest.mark.slow
def test_processes_that_read_end_with_a_killed_run(folder):
  """It cannot tell them, and they would keep their memory for ever."""
  flags = "--config.steps=2000", "--config.data.workers=2"
  workdir = folder / "killed with workers"
  run = tiny_runs.start(folder, workdir, *flags)
  tiny_runs.wait_for_step(run, workdir, 7)
  tasks = pathlib.Path(f"/proc/{run.pid}/task").glob("*/children")
  children = [pid for task in tasks for pid in task.read_text().split()]
  found = [pathlib.Path("/proc", pid) for pid in children]
  assert len(found) >= 2
  run.kill()
  run.communicate(timeout=60)  # whose ends they hold open, too
  until = time.monotonic() + 30
  while any(_is_alive(child) for child in found):
    assert time.monotonic() < until, found
    time.sleep(0.1)


def _is_alive(process: pathlib.Path) -> bool:
  """Whether a process is there, and not one whose end nobody asked for yet."""
  try:
    return process.joinpath("stat").read_text().rpartition(")")[2][1] != "Z"
  except OSError:
    return False


def test_a_truncated_newest_checkpoint_is_told_of_and_passed_over(
  uninterrupted, folder
):
  workdir = shutil.copytree(uninterrupted[0], folder / "truncated")
  files = (workdir / "checkpoints/40/variables").rglob("*")
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  output = processes.finish(tiny_runs.start(folder, workdir))
  assert "checkpoint 40 is not whole (variables: " in output
  assert f"moved to {workdir / 'broken/40'}" in output
  assert "continuing from step 35" in output
  _assert_same_run(workdir, uninterrupted[0])


@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_told_to_stop_a_run_saves_within_a_step_and_exits_with_zero(
  uninterrupted, folder, number
):
  workdir = folder / f"stopped_{number}"
  process = tiny_runs.start(folder, workdir)
  tiny_runs.wait_for_step(process, workdir, 7)
  process.send_signal(number)
  output = processes.finish(process)
  assert "stopped at step" in output
  last = max(row["step"] for row in tiny_runs.rows(workdir))
  assert (workdir / f"checkpoints/{last}").is_dir()
  assert last < 40
  processes.finish(tiny_runs.start(folder, workdir))
  _assert_same_run(workdir, uninterrupted[0])


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_then_continues(uninterrupted, folder):
  workdir = folder / "full"
  process = tiny_runs.start(folder, workdir)
  tiny_runs.wait_for_step(process, workdir, 13)
  process.kill()
  process.communicate()
  process = tiny_runs.start(folder, workdir, largest_file="300")
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 1
  assert "Traceback" not in output
  assert output.splitlines()[-1].startswith("error: the disk is full: Error wr")
  processes.finish(tiny_runs.start(folder, workdir))
  _assert_same_run(workdir, uninterrupted[0])


@pytest.mark.slow
def test_two_hundred_kills_around_evaluations_lose_nothing(tmp_path):
  """`best/`, checkpoints, records and pictures as of undisturbed runs."""
  program = "tests.programs.kill_and_continue"
  subprocess.run(
    [sys.executable, "-m", program, str(tmp_path), "200"],
    cwd=processes.REPOSITORY,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=True,
  )


@pytest.mark.slow
def test_twenty_kills_at_random_instants_change_nothing(folder):
  flags = ("--config.steps=600", "--config.checkpoint_every=3")
  expected, workdir = folder / "long", folder / "killed_often"
  processes.finish(tiny_runs.start(folder, expected, *flags))
  rng = np.random.default_rng(0)
  kills = 0
  while kills < 20:
    process = tiny_runs.start(folder, workdir, *flags)
    if kills % 4:  # else also before the first step
      tiny_runs.wait_for_step(
        process, workdir, max(tiny_runs.last_step(workdir), 0)
      )
    time.sleep(rng.uniform(0, 1.0))
    if process.poll() is not None:
      break
    process.kill()
    process.communicate()
    kills += 1
  assert kills >= 20
  processes.finish(tiny_runs.start(folder, workdir, *flags))
  _assert_same_run(workdir, expected, last_step=600)


def test_a_loss_that_is_not_finite_stops_and_names_the_images(folder):
  config = config_lib.load(str(tiny_runs.CONFIG))
  config.data.data_dir = str(folder / "data")
  config.update(lr=1e30, eval_first=False, checkpoint_every=1)
  with pytest.raises(FloatingPointError) as caught:
    train.train_and_evaluate(config, folder / "diverged")
  message = str(caught.value)
  assert "in step 2 at learning rate" in message
  assert message.count("train_") == 4  # the names of the batch
  # The weights after step 1 are those that gave this loss.
  assert "there is no checkpoint before it" in message
  saved = [path.name for path in (folder / "diverged/checkpoints").iterdir()]
  assert saved == []
  assert (folder / "diverged/broken/1/variables").is_dir()


_RECIPE = (
  *("--config.optimizer=adamw", "--config.lr=0.003", "--config.ema_decay=0.9"),
  *("--config.lr_policy=cosine", "--config.clip_norm=1", "--config.seed=3"),
  *("--config.freeze=('backbone',)", "--config.thaw_step=10"),
  *("--config.model.auxiliary=conv4", "--config.loss.name=cross_entropy+dice"),
  *("--config.data.rotation=20", "--config.data.noise=9"),
  *("--config.data.classmix=0.5", "--config.data.copy_paste=0.5"),
  "--config.data.copy_paste_classes=(3,)",
)


@pytest.mark.slow
def test_a_recipe_killed_continues_bit_for_bit_and_ships_its_average(folder):
  whole, killed = folder / "recipe", folder / "recipe_killed"
  processes.finish(tiny_runs.start(folder, whole, *_RECIPE))
  process = tiny_runs.start(folder, killed, *_RECIPE)
  tiny_runs.wait_for_step(process, killed, 13)
  process.kill()
  process.communicate()
  processes.finish(tiny_runs.start(folder, killed, *_RECIPE))
  _assert_same_run(killed, whole)
  step = whole / "checkpoints/40"
  shipped = items.restore(step / "variables")
  trained = items.restore(step / "training")["trained"]
  kernels = (
    x["params"]["backbone"]["conv1"]["kernel"] for x in (shipped, trained)
  )
  assert not np.array_equal(*kernels)
  flags = ("--mode=eval", "--checkpoint", str(whole))
  processes.finish(
    tiny_runs.start(folder, folder / "recipe_eval", *_RECIPE, *flags)
  )
  report = json.loads(
    (folder / "recipe_eval/evaluation/results.json").read_text()
  )
  assert report["miou"] == pytest.approx(
    tiny_runs.rows(whole)[-1]["eval/miou"], abs=1e-6
  )
  for flag, message in (
    (
      "--config.ema_decay=0",
      "config.ema_decay must be above 0, as weights and",
    ),
    ("--config.optimizer=sgd", "config.optimizer must be 'adamw', whose state"),
  ):
    process = tiny_runs.start(folder, whole, *_RECIPE, flag, "--allow_changes")
    output, _ = process.communicate(timeout=600)
    (line,) = output.splitlines()
    assert process.returncode == 1 and line.startswith(f"error: {message}")


@pytest.mark.slow
def test_init_from_starts_with_the_weights_of_another_run(
  uninterrupted, folder
):
  config = config_lib.load(str(tiny_runs.CONFIG))
  config.data.data_dir = str(folder / "data")
  config.update(init_from=str(uninterrupted[0]), steps=1, lr=1e-9)
  config.train_batch_norm = False
  train.train_and_evaluate(config, folder / "from", evaluating=False)
  assert (folder / "from/curves.png").is_file()
  found, source = (
    items.restore(run / f"checkpoints/{step}/variables")
    for run, step in ((folder / "from", 1), (uninterrupted[0], 40))
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, source
  )
  assert not any("eval/miou" in row for row in tiny_runs.rows(folder / "from"))
