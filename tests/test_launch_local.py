"""launch/local.sh: how it ends processes, and what two of them train."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MAIN = (sys.executable, "-m", "deeplab_jax.main")
_LOCAL = ("bash", str(_ROOT / "launch/local.sh"))


def _train(workdir, command, *flags, **environment):
  """The rows of metrics.jsonl of a run of the quickstart."""
  done = subprocess.run(
    [
      *command,
      *("--config", str(_ROOT / "configs/quickstart.py")),
      *("--workdir", str(workdir)),
      f"--config.data.data_dir={workdir.parent / 'data'}",
      *flags,
    ],
    env=os.environ
    | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    | {"DEEPLAB_CACHE": str(workdir.parent / "cache")}
    | environment,
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rate", "steps", "tolerance", "learnt"),
  [(1e-4, 20, 1e-10, 0.005), (0.1, 3, 1e-8, 0.2)],
)
def test_two_local_processes_train_the_quickstart_as_one_does(
  tmp_path, rate, steps, tolerance, learnt
):
  """In float64, as training it is chaotic.

  In float32, one unit in the last place of one weight changes the first
  gradient by 4e-3: it makes some ReLUs open that were closed. At the config's
  rate, losses are 1e-2 apart after 5 steps, whether it was such a unit that
  was changed or the number of processes. In float64, two processes were found
  2e-16 apart over 24 steps at a rate of 1e-4, where one unit of float32 led to
  3e-4; at the config's, 1e-15 in step 2, 6e-11 in step 3, 1e-8 in step 4.
  """
  flags = ["--mode=train", "--config.log_every=1", f"--config.steps={steps}"]
  flags += [f"--config.lr={rate}", "--config.model.dtype=float64"]
  wide = {"JAX_ENABLE_X64": "1"}
  alone = _train(tmp_path / "one", _MAIN, *flags, **wide)
  together = _train(tmp_path / "two", _LOCAL, *flags, PROCESSES="2", **wide)
  assert len(alone) == len(together) == steps
  for name in ("train/loss", "train/learning_rate"):
    found, expected = ([row[name] for row in x] for x in (together, alone))
    assert found == pytest.approx(expected, rel=tolerance)
  first, last = (alone[i]["train/loss"] for i in (0, -1))
  assert first - last > learnt  # or equal losses would mean nothing


# Stands for a run: notes its id, and that it was told to stop.
_PROCESS = """\
#!/usr/bin/env bash
[[ $1 == -c ]] && echo 1 && exit
echo $$ > "$NOTES/new$JAX_PROCESS_ID"
mv "$NOTES/new$JAX_PROCESS_ID" "$NOTES/$JAX_PROCESS_ID"
echo >> "$NOTES/started$JAX_PROCESS_ID"
trap 'touch "$NOTES/saved$JAX_PROCESS_ID"; exit 0' TERM
[[ $JAX_PROCESS_ID == "${DEAF-}" ]] && trap '' TERM
[[ $JAX_PROCESS_ID == "${FAILS-}" ]] && sleep 0.5 && exit 7
while true; do sleep 0.1; done
"""


def _alive(notes: pathlib.Path) -> list[int]:
  """The ids of the processes that a launcher started and that still run."""
  found = [int(file.read_text()) for file in notes.glob("[0-9]")]
  return [i for i in found if pathlib.Path(f"/proc/{i}/cmdline").exists()]


@pytest.fixture
def launcher(tmp_path):
  """Starts local.sh with three processes; gives it and their notes."""
  notes = tmp_path / "notes"
  notes.mkdir()
  (tmp_path / "python").write_text(_PROCESS)
  (tmp_path / "python").chmod(0o755)
  started = []

  def start(**environment):
    own = {"PROCESSES": "3", "PYTHON": str(tmp_path / "python")}
    own |= {"NOTES": str(notes)}
    started.append(
      subprocess.Popen(_LOCAL, env=os.environ | own | environment, cwd=_ROOT)
    )
    while len(list(notes.glob("[0-9]"))) < 3:
      time.sleep(0.05)
    return started[-1], notes

  yield start
  for process in started:
    process.kill()
    process.wait()
  for process in _alive(notes):
    os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("deaf", ["", "0"])
def test_local_ends_all_processes_with_one_that_fails(launcher, deaf):
  began = time.monotonic()
  process, notes = launcher(FAILS="1", DEAF=deaf)
  assert process.wait(timeout=60) == 7
  assert _alive(notes) == []
  assert time.monotonic() - began < (12 if deaf else 8)


def test_local_starts_all_again_as_often_as_it_may(launcher):
  process, notes = launcher(FAILS="1", RESTARTS="2")
  assert process.wait(timeout=60) == 7
  assert _alive(notes) == []
  started = [path.read_text().count("\n") for path in notes.glob("started*")]
  assert started == [3, 3, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_told_to_stop_waits_for_all_to_save(launcher, number):
  process, notes = launcher(RESTARTS="1")
  process.send_signal(number)
  assert process.wait(timeout=60) == 0
  assert sorted(path.name for path in notes.glob("saved*")) == [
    *("saved0", "saved1", "saved2")
  ]
  assert _alive(notes) == []


def test_local_that_is_killed_takes_all_processes_with_it(launcher):
  process, notes = launcher()
  process.kill()
  process.wait()
  until = time.monotonic() + 30
  while _alive(notes) and time.monotonic() < until:
    time.sleep(0.1)
  assert _alive(notes) == []
  assert len(list(notes.glob("saved*"))) == 3
