"""What a log file shows of a run; a terminal shows a bar instead."""

import re

import pytest

from deeplab_jax.train import progress as progress_lib
from deeplab_jax.train.progress import Progress


def test_a_log_file_gets_one_line_a_logging_step(capsys):
  with Progress(steps=10, first_step=4) as progress:
    progress.advance(5)
    progress.show(5, loss=1.25, images_per_second=None)
    progress.result = "mIoU 50.00%"
    progress.advance(10)
    progress.show(10, loss=1.0, images_per_second=40.0)
    progress.say("done: [brackets] stay")
  first, second, last = capsys.readouterr().out.splitlines()
  assert first == "step 5/10  loss 1.250"  # nothing is known of the rate
  assert re.fullmatch(
    r"step 10/10  loss 1\.000  40\.0 images/s  mIoU 50\.00%  0:00 left", second
  )
  assert last == "done: [brackets] stay"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left_is_that_of_steps_after_the_first(
  terminal, capsys, monkeypatch
):
  """The first is compiled, for a minute here; the next take two seconds."""
  if terminal:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
  clock = iter([60.0, 80.0, 2000.0])
  with Progress(steps=4000, first_step=0) as progress:
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: next(clock))
    progress.advance(1)
    progress.show(1, loss=1.0, images_per_second=None)
    progress.advance(11)
    progress.show(11, loss=1.0, images_per_second=4.0)
    progress.show(971, loss=1.0, images_per_second=4.0)
    monkeypatch.undo()
  said = capsys.readouterr().out
  assert "1:40:58 left" in said  # 3029 steps of 2 s
  if not terminal:
    first, second, _ = said.splitlines()
    assert "left" not in first
    assert second.endswith("2:12:58 left")  # 3989 steps


def test_other_processes_show_nothing(capsys):
  with Progress(steps=10, first_step=0, visible=False) as progress:
    progress.show(5, loss=1.0, images_per_second=1.0)
    progress.say("nothing")
  captured = capsys.readouterr()
  assert captured.out == captured.err == ""
