"""The README's commands work as they are written, on a fresh clone, offline.

Each command in a block of README.md is either run here, in a copy of the files
that git knows, or listed with the reason why it cannot be. Where one would work
for long, `_RUN` has flags that make it short: they are added, nothing is left
out.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import doctor_scenes as scenes

_ROOT = pathlib.Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What each of them begins with -> flags that make it short. In this order.
_RUN = {
  "python -m deeplab_jax.predict models/voc": "",
  "python -m deeplab_jax.export": "--size 97x97",
  "python -m deeplab_jax.doctor": "--overfit_steps=0",
  "python -m deeplab_jax.main --config configs/folder.py": (
    "--config.steps=2 --config.batch_size=2 --config.log_every=1 "
    "--config.freeze='(\"backbone\",)'"  # its gradient takes long to compile
  ),
  "python -m deeplab_jax.predict runs/mine": "",
  "python -m deeplab_jax.compare": "",
}
_NOT_RUN = {
  "make demo": "installs from the package index; test_chain.py trains it",
  "make test": "installs from the package index, and runs this test",
  "python -m deeplab_jax.import_weights mobilenetv2_dm05": "downloads weights",
  "python -m deeplab_jax.prepare camvid": "downloads images",
  "python -m deeplab_jax.import_weights FILE": "FILE is the user's",
  "python -m deeplab_jax.main --config configs/camvid.py": "needs these two",
}


def _commands() -> list[str]:
  """The commands in the blocks, one line each, without remarks."""
  blocks = [text for language, text in _BLOCK.findall(_README) if not language]
  joined = "\n".join(blocks).replace("\\\n", " ")
  lines = [line.partition(" #")[0].split() for line in joined.splitlines()]
  commands = (" ".join(words) for words in lines)
  return [c for c in commands if c.startswith(("python", "make", "pip", "git"))]


def _plan(command: str) -> str | None:
  """What of `_RUN` and `_NOT_RUN` the command begins with."""
  found = [start for start in {**_RUN, **_NOT_RUN} if command.startswith(start)]
  return found[0] if len(found) == 1 else None


def test_every_command_is_run_or_has_a_reason():
  plans = {command: _plan(command) for command in _commands()}
  assert [command for command, plan in plans.items() if plan is None] == []
  assert set(plans.values()) == _RUN.keys() | _NOT_RUN.keys()
  order = [plan for plan in plans.values() if plan in _RUN]
  assert order == list(_RUN)


def test_every_page_answers_a_question():
  table = _README.split("## Which page answers what")[1].split("\n## ")[0]
  linked = re.findall(r"\]\((docs/\w+\.md)\)", table)
  pages = sorted(f"docs/{path.name}" for path in (_ROOT / "docs").glob("*.md"))
  assert sorted(linked) == pages


def test_links_lead_somewhere():
  targets = re.findall(r"\]\(([^)]+)\)", _README)
  files = [x.partition("#")[0] for x in targets if "://" not in x]
  assert [name for name in files if not (_ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> pathlib.Path:
  """What a clone would have, and what the README calls the user's."""
  folder = tmp_path_factory.mktemp("fresh") / "clone"
  listed = ["git", "ls-files", "-z", "--cached", "--others"]
  done = subprocess.run(
    [*listed, "--exclude-standard"], cwd=_ROOT, capture_output=True
  )
  if done.returncode:
    pytest.skip("this is no checkout of git")
  for name in filter(None, done.stdout.decode().split("\0")):
    if (_ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(_ROOT / name, folder / name)
  scenes.write(folder / "DIR", count=6)
  picture, _ = scenes.draw(0)
  Image.fromarray(picture).save(folder / "photo.jpg")
  (folder / "folder").mkdir()
  Image.fromarray(picture).save(folder / "folder/another.png")
  return folder


def _execute(clone: pathlib.Path, *words: str) -> str:
  """What a command prints; it finds no network and no one's home."""
  home = clone.parent / "home"
  environment = {
    **os.environ,
    "HOME": str(home),
    "PYTHONPATH": "",
    "DEEPLAB_CACHE": str(home / "cache"),
    "JAX_PLATFORMS": "cpu",
    **dict.fromkeys(("http_proxy", "https_proxy"), "http://localhost:9"),
  }
  for name in ("TFDS_DATA_DIR", "TF_CPP_MIN_LOG_LEVEL"):
    environment.pop(name, None)
  done = subprocess.run(
    [sys.executable, *words],
    cwd=clone,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  for noise in ("Unknown size", "Traceback", "absl", "xla/", "font_"):
    assert noise not in done.stdout + done.stderr
  return done.stdout


def test_the_first_lines_of_python_label_what_ships(clone):
  blocks = [text for language, text in _BLOCK.findall(_README) if language]
  _execute(clone, "-c", blocks[0])
  street, drawn = clone / "notebooks/street.jpg", clone / "overlay.png"
  with Image.open(street) as picture, Image.open(drawn) as overlay:
    assert overlay.size == picture.size
    assert len(np.unique(np.asarray(overlay))) > 100


def test_the_commands_run_one_after_the_other(clone):
  # Importing them needs the network: the weights that ship stand in.
  shutil.copytree(clone / "zoo/camvid_mobilenet_v2", clone / "models/voc")
  printed = {}
  for command in filter(lambda c: _plan(c) in _RUN, _commands()):
    plan = _plan(command)
    if "compare" in plan:
      shutil.copytree(clone / "runs/mine", clone / "runs/other")
    words = shlex.split(command)[1:] + shlex.split(_RUN[plan])
    printed[plan] = _execute(clone, *words)
  labels, exported, doctor, trained, predicted, compared = printed.values()
  assert "2 of 2 pictures done" in labels
  assert "certificate passed" in exported
  assert "this can be trained on" in doctor
  assert "starting from" in trained and "zoo/camvid_mobilenet_v2" in trained
  # The scenes are 96 x 72 pixels, and the crop the least that holds them.
  assert "crops of 97 x 81" in trained
  settings = json.loads((clone / "runs/mine/config.json").read_text())
  assert settings["data"]["crop_size"] == [0, 0]  # as it was asked for
  model = json.loads((clone / "runs/mine/model.json").read_text())
  assert re.match("the user's own; .* started from: CC BY-NC", model["license"])
  assert "held-out mIoU" in trained and "after 2 steps" in trained
  assert "1 of 1 pictures done" in predicted
  assert "+0.00" in compared
  for name in (
    "predictions/labels/photo.png",
    "predictions/overlays/another.png",
    "voc.onnx",
    "voc.onnx.certificate.json",
    "runs/mine/curves.png",
    "runs/mine/best",
    "compare.png",
  ):
    assert (clone / name).exists(), name
