"""Kills a run in an object store again and again, and compares how it ends.

  python -m tests.programs.kill_in_store ADDRESS FOLDER KILLS

The run is that of `kill_and_continue`. Every second time its machine is lost
with it, and the next start finds nothing but the store. Kills come at random
times after the start of the run.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import sys
import threading

import numpy as np

from deeplab_jax import remote
from deeplab_jax.checkpoints import fetching, items, wholeness
from tests.programs.kill_and_continue import STEPS, in_child, train

_LONGEST = 6.0  # seconds until a kill


def _outcome(workdir: remote.Address, here: pathlib.Path) -> dict:
  """All that a run leaves in the store, the clock apart."""
  trees = {}
  kinds = {"checkpoints": ("variables", "training"), "best": ("variables",)}
  for kind, names in kinds.items():
    step = wholeness.steps(workdir / kind)[0]
    fetching.fetch(step, here / kind / step.name)
    assert wholeness.fault(here / kind / step.name, *names) is None
    for name in names:
      tree = items.flatten(items.restore(here / kind / step.name / name))
      trees |= {
        f"{kind}/{step.name}/{name}/{leaf}": np.asarray(x).tolist()
        for leaf, x in tree.items()
      }
  rows = [
    {k: v for k, v in json.loads(line).items() if "per_second" not in k}
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  pictures = {
    path.name: path.read_bytes().hex()
    for path in (workdir / "pictures").iterdir()
  }
  return {"trees": trees, "rows": rows, "pictures": pictures}


def _noted(workdir: remote.Address, folder: pathlib.Path) -> dict:
  path = folder / "outcome.json"

  def note():
    outcome = _outcome(workdir, folder / f"here_{workdir.name}")
    path.write_text(json.dumps(outcome))

  assert in_child(note) == 0
  return json.loads(path.read_text())


def main(address: str, folder: pathlib.Path, kills: int) -> None:
  """Raises AssertionError if a run that was killed ends in another way."""
  chance, cache = random.Random(0), pathlib.Path(os.environ["DEEPLAB_CACHE"])
  whole = remote.Address(f"{address}/whole")
  killed = remote.Address(f"{address}/killed")
  data = folder / "data"
  assert in_child(lambda: train(whole, STEPS, data)) == 0
  expected, done = _noted(whole, folder), 0
  while True:
    delay = chance.uniform(0.5, _LONGEST) if done < kills else None

    def attempt(delay=delay):
      if delay is not None:
        kill = os.kill, (os.getpid(), signal.SIGKILL)
        threading.Timer(delay, *kill).start()
      train(killed, STEPS, data)

    status = in_child(attempt)
    if status == signal.SIGKILL:
      done += 1
      if done % 2:
        shutil.rmtree(cache, ignore_errors=True)
      continue
    assert status == 0, status
    break
  assert _noted(killed, folder) == expected
  print(f"{done} kills, ended alike", flush=True)


if __name__ == "__main__":
  main(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
