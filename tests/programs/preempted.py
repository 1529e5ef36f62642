"""`python -m deeplab_jax.main` on a slice that is taken away at step 12.

  python -m tests.programs.preempted -m deeplab_jax.main [FLAGS]

It is taken away if the first line of the file $STATES is PREEMPTED.
"""

import os
import pathlib
import runpy
import signal
import sys

from deeplab_jax.train.progress import Progress

_STEP = 12


def _advance_and_die(self: Progress, step: int) -> None:
  _ADVANCE(self, step)
  if step == _STEP:
    os.kill(os.getpid(), signal.SIGKILL)


_ADVANCE = Progress.advance

if __name__ == "__main__":
  if pathlib.Path(os.environ["STATES"]).read_text().startswith("PREEMPTED"):
    Progress.advance = _advance_and_die
  sys.argv = sys.argv[2:]
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
