"""The changes of docs/extending.md, applied as they are written to a copy."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_PAGE = _ROOT / "docs/extending.md"
_TITLES = {
  "loss": "A loss",
  "backbone": "A backbone",
  "data_set": "A data set",
  "branch": "An ASPP branch",
}
_FILE_OR_BLOCK = re.compile(
  r"`(deeplab_jax/[\w/]+\.py)`|^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def _section(title: str) -> str:
  _, found, rest = _PAGE.read_text().partition(f"\n## {title}\n")
  assert found, title
  return rest.partition("\n## ")[0]


def _apply(section: str, root: pathlib.Path) -> set[str]:
  """Makes the changes of a section in the copy; gives the files it names."""
  path, touched = None, set()
  for name, kind, block in _FILE_OR_BLOCK.findall(section):
    path = name or path
    if kind == "python":
      assert not (root / path).exists(), path
      (root / path).write_text(block)
    elif kind == "diff":
      text = (root / path).read_text()
      before, after = _sides(block)
      assert text.count(before) == 1, f"{path} must have once:\n{before}"
      (root / path).write_text(text.replace(before, after))
    if kind:
      touched.add(path)
  return touched


def _sides(block: str) -> tuple[str, str]:
  """The lines of a diff before and after the change."""
  lines = block.splitlines(keepends=True)
  marks = "".join(line[0] for line in lines)
  assert set(marks) <= set(" +-\n"), block
  return tuple(
    "".join(line[1:] or "\n" for line in lines if line[0] != other)
    for other in "+-"
  )


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> dict[str, pathlib.Path]:
  """A checkout with each of the changes."""
  roots = {}
  for change, title in _TITLES.items():
    roots[change] = root = tmp_path_factory.mktemp(change)
    for folder in ("deeplab_jax", "configs", "tests"):
      shutil.copytree(_ROOT / folder, root / folder)  # and what Python compiled
    shutil.copy(_ROOT / "pyproject.toml", root)
    touched = _apply(_section(title), root)
    assert 1 <= len(touched) <= 3, touched
  return roots


def _run(root: pathlib.Path, *words: str) -> str:
  """Runs `python WORDS` in a copy; gives what it printed."""
  done = subprocess.run(
    [sys.executable, *words],
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.mark.parametrize("change", _TITLES)
def test_a_change_works_as_it_is_written(copies, change):
  _run(copies[change], "-m", "tests.programs.extended", change)


@pytest.mark.slow
@pytest.mark.parametrize("change", _TITLES)
def test_a_changed_copy_trains_and_evaluates(copies, change):
  root = copies[change]
  flags = {
    "loss": ["--config.loss.name=doubting"],
    "backbone": ["--config.model.backbone=basicnet_18"],
    "data_set": ["--config.data.name=oxford_pets"],
    "branch": ["--config.model.gated_branch=True"],
  }[change]
  data = f"--config.data.data_dir={root / 'data'}"
  if change == "data_set":
    _run(root, "-m", "tests.programs.extended", change)
  command = ("-m", "deeplab_jax.main", "--config=quickstart:runlocal")
  output = _run(root, *command, f"--workdir={root / 'run'}", data, *flags)
  assert "held-out mIoU" in output
  if change == "loss":
    assert '"train/doubting"' in (root / "run/metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_new_branch_is_served_as_it_is_defined(copies):
  _run(copies["branch"], "-m", "tests.programs.extended", "served")


@pytest.mark.slow
def test_a_new_backbone_passes_the_tests_of_every_backbone(copies):
  files = ("tests/test_models_atrous.py", "tests/test_models_deeplab.py")
  chosen = ("-m", "slow or not slow", "-k", "basicnet_18", "-p", "no:xdist")
  output = _run(copies["backbone"], "-m", "pytest", *chosen, *files)
  assert re.search(r"[4-9] passed", output), output


@pytest.mark.parametrize(
  "block", [" kept\n+new\n", " kept\n-gone\n+new\n", "-kept\n gone\n"]
)
def test_a_diff_gives_both_sides(block):
  before, after = _sides(block)
  kept = [line[1:] for line in block.splitlines(True)]
  assert before.splitlines(True) == [
    text for text, line in zip(kept, block.splitlines()) if line[0] in " -"
  ]
  assert after.splitlines(True) == [
    text for text, line in zip(kept, block.splitlines()) if line[0] in " +"
  ]
