"""The command line: mistakes end in one message, before any long work."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

_REPOSITORY = pathlib.Path(__file__).parent.parent
_QUICKSTART = str(_REPOSITORY / "configs/quickstart.py")

# Name: (flags, what standard error must hold). --workdir is added unless the
# name begins with "no".
_MISTAKES = {
  "field": (
    ["--config", _QUICKSTART, "--config.lrr=1"],
    "error: config has no field 'lrr'; did you mean 'lr'?",
  ),
  "argument": (
    [f"--config={_QUICKSTART}:runlocl"],
    "error: config argument must be one of ['runlocal'], got 'runlocl'",
  ),
  "file": (["--config=nothing.py"], "error: --config must be a file or one of"),
  "name": (
    ["--config=quickstar"],
    "got quickstar; did you mean 'quickstart'?",
  ),
  "field of a name": (
    ["--config=quickstart", "--config.lrr=1"],
    "error: config has no field 'lrr'; did you mean 'lr'?",
  ),
  "start of a name": (
    ["--config", "quickstart:runlocal", "--config.init_from=nowhere"],
    "error: no checkpoint at",
  ),
  "config": ([], "error: give --config, one of ade20k, camvid,"),
  "type": (
    ["--config", _QUICKSTART, "--config.lr=high"],
    "flag --config.lr=high: could not convert string to float",
  ),
  "output stride": (
    ["--config", _QUICKSTART, "--config.model.output_stride=12"],
    "error: config.model: output_stride must be 8, 16 or 32; got 12",
  ),
  "backbone": (
    ["--config", _QUICKSTART, "--config.model.backbone=mobilenet_v9"],
    "error: config.model: backbone must be one of",
  ),
  "data set": (
    ["--config", _QUICKSTART, "--config.data.name=camvid"],
    "python -m deeplab_jax.prepare camvid",
  ),
  "start": (
    ["--config", _QUICKSTART, "--config.init_from=nowhere"],
    "error: no checkpoint at",
  ),
  "workdir": (
    ["--config", _QUICKSTART, "--mode=eval", "--workdir=az://bucket/run"],
    "error: an address must begin with gs:// or s3://, got az://bucket/run;",
  ),
  "bucket": (
    ["--config", _QUICKSTART, "--config.init_from=az://bucket/run"],
    "error: an address must begin with gs:// or s3://, got az://bucket/run;",
  ),
  "checkpoint": (
    ["--config", _QUICKSTART, "--mode=eval", "--checkpoint=nowhere"],
    "error: no checkpoint at",
  ),
  "no workdir": (
    ["--config", _QUICKSTART],
    "error: give --workdir, the folder of the run",
  ),
  "no checkpoint": (
    ["--config", _QUICKSTART, "--mode=eval"],
    "error: give --workdir or --checkpoint, the folder of the run",
  ),
  "no report": (
    ["--config", _QUICKSTART, "--mode=eval", "--checkpoint=nowhere"],
    "error: no checkpoint at",
  ),
}


def _python(folder, *arguments, **options) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,  # configs load from anywhere
    env={
      **os.environ,
      "PYTHONPATH": str(_REPOSITORY),
      "JAX_PLATFORMS": "cpu",
      "DEEPLAB_CACHE": str(folder / "cache"),
    },
    capture_output=True,
    text=True,
    timeout=600,
    **options,
  )


def _command_line(name, folder, data_dir) -> list[str]:
  flags = [] if name[:3] == "no " else ["--workdir", str(folder / name)]
  flags += _MISTAKES[name][0]
  return [*flags, f"--config.data.data_dir={data_dir}"]


@pytest.fixture(scope="module")
def outcomes(shapes_dir, tmp_path_factory) -> dict[str, tuple[int, str]]:
  """Exit status and output of every mistake, made in one process."""
  folder = tmp_path_factory.mktemp("mistakes")
  lines = {name: _command_line(name, folder, shapes_dir) for name in _MISTAKES}
  program = str(_REPOSITORY / "tests/programs/run_mains.py")
  module = "deeplab_jax.main"
  done = _python(folder, program, module, input=json.dumps(lines))
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_the_command_itself_ends_in_one_message(tmp_path):
  line = _command_line("field", tmp_path, tmp_path)
  done = _python(tmp_path, "-m", "deeplab_jax.main", *line)
  assert done.returncode == 1 and done.stdout == ""
  assert done.stderr.strip() == _MISTAKES["field"][1]


@pytest.mark.parametrize("name", _MISTAKES)
def test_a_mistake_ends_in_one_message(outcomes, name):
  status, output = outcomes[name]
  assert status == 1, output
  assert _MISTAKES[name][1] in output
  assert "Traceback" not in output
  assert "step 1/" not in output


def test_the_list_of_commands_has_each_and_says_what_it_does():
  done = subprocess.run(
    [sys.executable, "-m", "deeplab_jax"],
    cwd=_REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = done.stdout.splitlines()
  for command in (
    "compare",
    "doctor",
    "import_weights",
    "main",
    "plan",
    "predict",
  ):
    assert any(line.split()[:1] == [command] for line in lines), command
  first = [line for line in lines[2:] if not line.startswith("   ")]
  assert all(len(line.split()) > 2 for line in first), done.stdout
