"""What a log file shows of a run; a terminal shows a bar instead."""

import re

from deeplab_jax.train.progress import Progress


def test_a_log_file_gets_one_line_a_logging_step(capsys):
  with Progress(steps=10, first_step=4) as progress:
    progress.advance(5)
    progress.show(5, loss=1.25, images_per_second=20.0)
    progress.result = "mIoU 50.00%"
    progress.show(10, loss=1.0, images_per_second=40.0)
    progress.say("done: [brackets] stay")
  first, second, last = capsys.readouterr().out.splitlines()
  assert re.fullmatch(
    r"step 5/10  loss 1\.250  20\.0 images/s  \d+:\d\d left", first
  )
  assert re.fullmatch(
    r"step 10/10  loss 1\.000  40\.0 images/s  mIoU 50\.00%  0:00 left", second
  )
  assert last == "done: [brackets] stay"


def test_other_processes_show_nothing(capsys):
  with Progress(steps=10, first_step=0, visible=False) as progress:
    progress.show(5, loss=1.0, images_per_second=1.0)
    progress.say("nothing")
  captured = capsys.readouterr()
  assert captured.out == captured.err == ""
