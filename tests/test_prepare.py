"""The command that builds a data set, and builds that are killed."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from deeplab_jax import prepare
from deeplab_jax.data import build
from tests import doctor_scenes as scenes

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def _start(data_dir):
  return subprocess.Popen(
    [sys.executable, "-m", "deeplab_jax.prepare", "shapes"],
    env=os.environ | {"TFDS_DATA_DIR": str(data_dir)},
    cwd=_REPOSITORY,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def test_prepare_builds_once_and_says_where(tmp_path, capsys):
  assert prepare.main(["shapes", "--data_dir", str(tmp_path)]) == 0
  folder = build.directory("shapes", str(tmp_path))
  assert build.is_built(folder)
  said = capsys.readouterr()
  assert said.out == f"shapes is in {folder}\n"
  assert "Unknown size" not in said.err
  times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  assert prepare.main(["shapes", "--data_dir", str(tmp_path)]) == 0
  assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_sample_is_not_taken_for_the_whole(tmp_path, shared, capsys):
  sample = str(shared / "data/ade20k-sample")
  arguments = ["ade20k", "--data_dir", str(tmp_path), "--manual_dir", sample]
  assert prepare.main([*arguments, "--partial"]) == 0
  assert prepare.main([*arguments, "--partial"]) == 0
  assert prepare.main(arguments) == 1
  error = capsys.readouterr().err
  assert "ade20k/1.1.0 holds a sample, built with --partial" in error


def test_prepare_reports_an_error_in_one_line(tmp_path, capsys):
  arguments = ["camvid", "--data_dir", str(tmp_path), "--manual_dir", "nowhere"]
  assert prepare.main(arguments) == 1
  error = capsys.readouterr().err
  assert (
    error == "error: --manual_dir must be a folder, got nowhere: not there\n"
  )


def test_prepare_refuses_an_unknown_name(capsys):
  with pytest.raises(SystemExit):
    prepare.main(["camvit"])
  assert "'camvid'" in capsys.readouterr().err


def test_killed_build_leaves_nothing_finished_and_is_repeated(tmp_path):
  folder = build.directory("shapes", str(tmp_path))
  process = _start(tmp_path)
  while not list(folder.parent.glob("incomplete*/*")):
    assert process.poll() is None, "the build ended before it could be killed"
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not build.is_built(folder)
  assert list(folder.parent.glob("incomplete*"))
  build.build("shapes", data_dir=str(tmp_path))
  assert build.is_built(folder)
  assert not list(folder.parent.glob("incomplete*"))


def test_two_builds_at_once_both_succeed(tmp_path):
  processes = [_start(tmp_path) for _ in range(2)]
  assert [process.wait() for process in processes] == [0, 0]
  assert build.is_built(build.directory("shapes", str(tmp_path)))


def test_prepare_of_a_folder_says_what_may_be_meant(tmp_path, capsys):
  """And takes the number of masks that means that nothing is known."""
  root = scenes.write(tmp_path / "mine", count=4)
  (root / "classes.txt").write_text("a\nb\nc\nd\n")
  for path in (root / "masks").iterdir():
    mask = np.array(PIL.Image.open(path))
    scenes.save(path, mask + np.uint16(65280) * (mask == 255))
  command = ["folder", "--manual_dir", str(root), "--data_dir", str(tmp_path)]
  assert prepare.main(command) == 1
  said = capsys.readouterr().err
  assert re.search(
    r"error: .*\.png: values must be .* got 65535; if 65535", said
  )
  assert "--nodata=65535" in said
  assert prepare.main([*command, "--nodata=65535"]) == 0
  said = capsys.readouterr().out
  assert re.search(r"warning: declared-nodata: .*\.png: \d+ pixels", said)
