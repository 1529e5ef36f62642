"""Several processes of one run: what each makes of the end of another."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from deeplab_jax import peers, prepare
from deeplab_jax.checkpoints import items, wholeness
from tests import processes, stores, tiny_runs


@pytest.fixture(scope="module")
def folder(shapes_dir, tmp_path_factory) -> pathlib.Path:
  """Where the runs share data and compiled programs."""
  folder = tmp_path_factory.mktemp("runs")
  shutil.copytree(shapes_dir, folder / "data")
  return folder


class _Service:
  """Stands for jax's: the signs of this process, 0, and of another one."""

  def __init__(self):
    self.signs, self.meetings, self.count = {}, 0, 0
    self.gone = False

  def key_value_set(self, key, text, allow_overwrite):
    assert allow_overwrite
    self.signs[key] = text

  def key_value_dir_get(self, key):
    if self.gone:
      raise RuntimeError("UNAVAILABLE")
    self.count += 1
    other = f"{self.count} {self.meetings} on elsewhere, pid 5"
    return [*self.signs.items(), (f"{key}/1", other)]

  def blocking_key_value_get(self, key, milliseconds):
    time.sleep(0.05)
    raise RuntimeError("DEADLINE_EXCEEDED")


def _leave(status: int) -> None:
  """Ends the test's thread alone, not one that would end the process later."""
  if threading.current_thread() is threading.main_thread():
    sys.exit(status)


@pytest.fixture
def service(monkeypatch) -> Iterator[_Service]:
  """What two processes talk through, the first of which is this one."""
  found = _Service()
  monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
  monkeypatch.setattr(peers.runtime, "coordination", lambda _: found)
  monkeypatch.setattr(peers.atexit, "register", lambda done: done())
  monkeypatch.setattr(peers.runtime, "leave", _leave)
  for name, seconds in (("_EVERY", 0.02), ("_GRACE", 0.1), ("_LATE", 0.3)):
    monkeypatch.setattr(peers, name, seconds)
  yield found
  found.gone = True  # which ends the threads
  time.sleep(0.1)


def test_a_process_that_does_not_come_is_named_once_and_left_alone(
  service, capsys
):
  with peers.watched():
    peers.meets("the data")
    service.meetings = 1
    time.sleep(0.5)
    assert capsys.readouterr().err == ""  # both may compile for hours
    peers.meets("step 8")
    time.sleep(0.15)
    assert capsys.readouterr().err == ""
    time.sleep(0.6)
    found = capsys.readouterr().err
    service.meetings = 2
    time.sleep(0.2)
  assert re.fullmatch(
    r"warning: process 1 of 2 \(on elsewhere, pid 5\) has not come to step 8, "
    r"where this process has waited for it for 0 s\n",
    found,
  )
  assert capsys.readouterr().err == ""
  assert service.signs["deeplab_jax/alive/0"] == "done"


@pytest.mark.parametrize(
  "error", [OSError(28, "No space", "/run/x"), KeyError()]
)
def test_an_error_is_told_before_anything_is_cleaned_up_and_once(
  service, capsys, error
):
  signed = []
  with pytest.raises(SystemExit), peers.watched():
    try:
      with peers.telling():
        raise error
    finally:
      signed.append(service.signs["deeplab_jax/alive/0"])
      time.sleep(0.1)  # it is not written over
  (sign,) = {*signed, service.signs["deeplab_jax/alive/0"]}
  said = capsys.readouterr().err
  if isinstance(error, OSError):
    assert sign.startswith("failed: the disk is full: Error writing /run/x: ")
    assert said == f"error: {sign.removeprefix('failed: ')}\n"
  else:
    assert sign == "failed: KeyError()" and said.count("Traceback") == 1


@pytest.mark.parametrize(
  "error",
  [
    jax.errors.JaxRuntimeError("UNAVAILABLE: it broke"),
    ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"),
  ],
)
def test_an_error_that_may_come_of_another_process_waits_for_its_name(
  service, monkeypatch, capsys, error
):
  monkeypatch.setattr(peers, "SILENCE", 0.3)
  began = time.monotonic()
  with pytest.raises(SystemExit), peers.watched():
    try:
      with peers.telling():
        raise error
    finally:
      assert capsys.readouterr().err == ""
  assert time.monotonic() - began > 0.4
  assert str(error) in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(folder):
  workdir = folder / "two_terminated"
  flags = ("--config.steps=2000", "--config.checkpoint_every=2000")
  both = tiny_runs.start_two(folder, workdir, *flags)
  tiny_runs.wait_for_step(both[0], workdir, 7)
  both[1].send_signal(signal.SIGTERM)
  outputs = [processes.finish(process) for process in both]
  assert "stopped at step" in outputs[0]
  saved = [path.name for path in (workdir / "checkpoints").iterdir()]
  assert saved == [str(tiny_runs.last_step(workdir))]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("told", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)]
)
def test_a_signal_to_one_of_two_that_compile_ends_both(folder, told, number):
  workdir = folder / f"compiling_{told}"
  flags = ("--config.model.backbone=mobilenet_v2", "--config.eval_first=False")
  both = tiny_runs.start_two(folder, workdir, *flags)
  while "compiling the training step" not in both[0].stdout.readline():
    assert both[0].poll() is None
  began = time.monotonic()
  both[told].send_signal(number)
  first, other = (processes.finish(process) for process in both)
  assert time.monotonic() - began < 20  # and not when it is compiled
  assert first == "stopped before the first step; nothing was to be saved\n"
  assert "stopped" not in other
  assert not (workdir / "metrics.jsonl").exists()
  assert not list((workdir / "checkpoints").iterdir())


_LOSSES = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP}


@pytest.mark.slow
@pytest.mark.parametrize("how", _LOSSES)
@pytest.mark.parametrize("lost", [0, 1])
def test_the_loss_of_one_of_two_processes_ends_the_other(folder, lost, how):
  """Within a bounded time, with a line that names it.

  Where the first is killed jax may be quicker to end the other, in its words.
  """
  workdir = folder / f"lost_{lost}_{how}"
  flags = ("--config.steps=100000", "--config.checkpoint_every=100000")
  both = tiny_runs.start_two(
    folder, workdir, *flags, "--config.eval_first=False"
  )
  tiny_runs.wait_for_step(both[0], workdir, 7)
  began = time.monotonic()
  both[lost].send_signal(_LOSSES[how])
  output, _ = both[1 - lost].communicate(timeout=90)
  assert time.monotonic() - began < peers.SILENCE + 20
  both[lost].kill()
  both[lost].communicate()
  assert both[1 - lost].returncode != 0
  start = f"error: process {lost} of 2 (on "
  said = [line for line in output.splitlines() if line.startswith(start)]
  if how == "killed" and lost == 0 and not said:
    assert "the leader task was" in output
  else:
    (line,) = said
    assert "the same command, in all processes, continues" in line


@pytest.mark.slow
def test_the_fault_of_one_of_two_processes_ends_both(folder):
  """A damaged record on the machine of one: both say what it was."""
  other = folder / "other_machine"
  shutil.copytree(folder / "data", other / "data")
  (records,) = other.rglob("shapes-train.array_record*")
  content = bytearray(records.read_bytes())
  middle = len(content) // 4
  content[middle : 3 * middle] = bytes(2 * middle)
  records.write_bytes(content)
  flags = ("--config.eval_first=False", "--config.steps=100000")
  workdir = folder / "one_fails"
  others = (f"--config.data.data_dir={other / 'data'}",)
  both = tiny_runs.start_two(folder, workdir, *flags, of_each=((), others))
  outputs = [process.communicate(timeout=90)[0] for process in both]
  assert [process.returncode for process in both] == [1, 1]
  ends = [output.splitlines()[-1] for output in outputs]
  assert ends[1].startswith(f"error: {other}")
  assert "must be a whole data set" in ends[1]
  assert ends[0].startswith("error: process 1 of 2 (on ")
  assert f") has failed: {ends[1].removeprefix('error: ')}: this" in ends[0]


def _assert_both_end(both, cause: str, failing: int = 0) -> None:
  """One soon after the one that fails, with the cause of that."""
  first, _ = both[failing].communicate(timeout=300)
  other, _ = both[1 - failing].communicate(timeout=peers.SILENCE)
  assert [process.returncode for process in both] == [1, 1]
  (line,) = [x for x in first.splitlines() if x.startswith("error: ")]
  assert line.startswith(f"error: {cause}"), line
  (found,) = [x for x in other.splitlines() if x.startswith("error: ")]
  assert found.startswith(f"error: process {failing} of 2 (on "), found
  assert f") has failed: {line.removeprefix('error: ')}: this" in found


@pytest.mark.slow
@pytest.mark.parametrize("what", ["no step", "another step", "other weights"])
def test_processes_that_would_begin_differently_end(folder, what):
  """Where machines share no disk, one may have none, or those of another run.

  They would sum gradients of different weights, or wait for each other.
  """
  steps = "--config.steps=5", "--config.eval_every=0", "--mode=train"
  workdir, other = (folder / f"{what}, {name}" for name in ("first", "second"))
  processes.finish(tiny_runs.start(folder, workdir, *steps))
  if what != "no step":
    seed = "--config.seed=5"
    processes.finish(tiny_runs.start(folder, other, *steps, seed))
  of_each = (), (f"--workdir={other}",)
  told, run = f"checkpoint {workdir}/checkpoints/5", workdir
  if what == "other weights":
    of_each = [(f"--config.init_from={x}",) for x in (workdir, other)]
    told, run = f"the weights in config.init_from={workdir}", folder / what
  both = tiny_runs.start_two(folder, run, *_MANY, of_each=of_each)
  if what == "no step":
    _assert_both_end(both, f"{other}/checkpoints/5 can be restored by", 1)
  else:
    first, _ = [process.communicate(timeout=90)[0] for process in both]
    assert f"error: {told} must be the same on all 2 processes" in first
    assert [process.returncode for process in both] == [1, 1]
  assert [s.name for s in wholeness.steps(workdir / "checkpoints")] == ["5"]


@pytest.mark.slow
def test_processes_begin_with_copies_of_equal_weights(folder):
  """As where each machine has imported the same release: files may differ."""
  steps = "--config.steps=5", "--config.eval_every=0", "--mode=train"
  copies = [folder / f"equal weights, {name}" for name in ("first", "second")]
  for copy in copies:
    processes.finish(tiny_runs.start(folder, copy, *steps))
  of_each = [(f"--config.init_from={copy}",) for copy in copies]
  workdir = folder / "equal weights"
  both = tiny_runs.start_two(folder, workdir, *steps, of_each=of_each)
  for process in both:
    processes.finish(process)
  assert tiny_runs.last_step(workdir) == 5


_MANY = ("--config.steps=100000", "--config.eval_first=False")
_SELDOM = "--config.checkpoint_every=100000"
# What of the first process finds no space: KiB that a file may have, and flags.
_FULL = {
  "step": ("300", ("--config.eval_every=0",)),
  "best": ("300", (_SELDOM, "--config.eval_every=2")),
  "descriptions": ("8", (_SELDOM, "--config.eval_every=0")),
  "metrics": ("24", (_SELDOM, "--config.eval_every=0")),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", _FULL)
def test_the_full_disk_of_one_of_two_processes_ends_both(folder, what):
  """In bounded time, though Orbax would wait for the other for 10 minutes."""
  largest, flags = _FULL[what]
  workdir = folder / f"full_{what}"
  limits = (largest, "unlimited")
  _assert_both_end(
    tiny_runs.start_two(folder, workdir, *_MANY, *flags, largest_files=limits),
    "the disk is full: Error writing ",
  )
  kinds = "checkpoints", "best"
  assert not [s for kind in kinds for s in wholeness.steps(workdir / kind)]


@pytest.mark.slow
def test_a_full_disk_of_the_process_that_saves_nothing_is_no_fault(folder):
  workdir = folder / "full_other"
  limits = ("unlimited", "1")
  for process in tiny_runs.start_two(folder, workdir, largest_files=limits):
    processes.finish(process)
  assert [s.name for s in wholeness.steps(workdir / "checkpoints")] == [
    *("40", "35")
  ]


@pytest.mark.slow
def test_results_that_cannot_be_written_end_both_processes(folder):
  """One has nothing left to do by then but to wait for the end of the other.

  With space enough, they write what one process does.
  """
  model = folder / "evaluated"
  processes.finish(tiny_runs.start(folder, model, "--config.steps=1"))
  flags = ("--mode=eval", "--checkpoint", str(model))
  alone, full, whole = (folder / name for name in ("alone", "full", "whole"))
  limits = ("2", "unlimited")
  both = tiny_runs.start_two(folder, full, *flags, largest_files=limits)
  _assert_both_end(both, "the disk is full: Error writing ")
  processes.finish(tiny_runs.start(folder, alone, *flags))
  for process in tiny_runs.start_two(folder, whole, *flags):
    processes.finish(process)
  found, expected = (
    json.loads((workdir / "evaluation/results.json").read_text())
    for workdir in (whole, alone)
  )
  assert found["images"] == expected["images"] == 6
  assert found["miou"] == pytest.approx(expected["miou"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_store_that_takes_no_more_of_one_process_ends_both(folder, scheme):
  """What it had taken before is whole, and the next start goes on with it."""
  workdir = f"{scheme}://bucket/run"
  with stores.serve(scheme) as served:
    both = tiny_runs.start_two(folder, workdir, *_MANY, **served.environment)
    while "step 12/" not in both[0].stdout.readline():
      assert both[0].poll() is None
    stores.set_faults(served, refused=1)
    _assert_both_end(both, f"{scheme}://bucket/run/")
    stores.set_faults(served)
    both = tiny_runs.start_two(folder, workdir, **served.environment)
    output, _ = (processes.finish(process) for process in both)
  assert re.search(r"continuing from step (5|10)\n", output)


@pytest.mark.slow
def test_the_disk_of_one_process_that_data_fills_ends_both(
  folder, tmp_path, monkeypatch
):
  data = "--config.data.data_dir=gs://bucket/data"
  with stores.serve("gs") as served:
    with stores.folder_of_test(served, tmp_path, monkeypatch):
      assert prepare.main(["shapes", "--data_dir", "gs://bucket/data"]) == 0
    both = [
      tiny_runs.start(
        *(folder, folder / "data_fills", *_MANY, data),
        largest_file=largest,
        **served.environment,
        **environment,
        DEEPLAB_CACHE=str(tmp_path / environment["JAX_PROCESS_ID"]),
      )
      for largest, environment in zip(("unlimited", "40"), processes.joined())
    ]
    _assert_both_end(both, f"the disk is full: Error writing {tmp_path}/1/", 1)


# Python, whose files the first time and in the first process may have 300 KiB.
_LIMITED = """\
#!/usr/bin/env bash
if [[ ${{JAX_PROCESS_ID-}} == 0 && ! -e {mark} ]]; then
  touch {mark}
  ulimit -f 300
fi
exec {python} "$@"
"""


@pytest.mark.slow
def test_the_launcher_starts_all_again_after_the_full_disk_of_one(folder):
  """And the run ends as one that nothing has disturbed."""
  python, flags = folder / "python", ("--config.eval_first=False",)
  python.write_text(
    _LIMITED.format(mark=folder / "limited", python=sys.executable)
  )
  python.chmod(0o755)
  workdir, whole = folder / "started_again", folder / "undisturbed"
  for process in tiny_runs.start_two(folder, whole, *flags):
    processes.finish(process)
  done = subprocess.run(
    [
      *("bash", str(processes.REPOSITORY / "launch/local.sh")),
      *("--config", str(tiny_runs.CONFIG), "--workdir", str(workdir)),
      *(f"--config.data.data_dir={folder / 'data'}", *flags),
    ],
    env=os.environ
    | {"PROCESSES": "2", "RESTARTS": "1", "PYTHON": str(python)}
    | {"JAX_PLATFORMS": "cpu", "DEEPLAB_CACHE": str(folder / "cache")},
    cwd=processes.REPOSITORY,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "starting all processes again, 0 times more" in done.stderr
  assert "error: the disk is full" in done.stderr
  trees = [
    items.restore(run / "checkpoints/40/variables") for run in (workdir, whole)
  ]
  jax.tree.map(np.testing.assert_array_equal, *trees)
  assert tiny_runs.rows(workdir) == tiny_runs.rows(whole)


@pytest.mark.slow
def test_two_processes_agree_with_one(folder):
  # Batch norm over 4 values is chaotic: rounding grows to percents in 5 steps.
  flags = ("--config.train_batch_norm=False", "--config.lr=0.01")
  alone, workdir = folder / "alone", folder / "two"
  processes.finish(tiny_runs.start(folder, alone, *flags))
  for process in tiny_runs.start_two(folder, workdir, *flags):
    processes.finish(process)
  losses = [
    [row["train/loss"] for row in tiny_runs.rows(run) if "train/loss" in row]
    for run in (workdir, alone)
  ]
  assert len(losses[0]) == 40
  np.testing.assert_allclose(*losses, rtol=1e-4)
