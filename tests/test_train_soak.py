"""A long run takes no more of the machine in its end than in its beginning."""

import itertools
import pathlib
import shutil
import subprocess
import time
from concurrent import futures
from typing import NamedTuple

import numpy as np
import pytest

from tests import tiny_runs

pytestmark = pytest.mark.slow
_STEPS = 20_000


class _Sample(NamedTuple):
  """What a process has at one moment."""

  step: int
  resident: int  # MiB
  threads: int
  files: int  # descriptors


def _sample(process: subprocess.Popen, step: int) -> _Sample | None:
  """None if the process is about to end."""
  folder = pathlib.Path(f"/proc/{process.pid}")
  try:
    lines = (folder / "status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    files = len(list((folder / "fd").iterdir()))
    resident = int(facts["VmRSS"].split()[0]) // 1024
    return _Sample(step, resident, int(facts["Threads"]), files)
  except (OSError, KeyError):
    return None


def _samples(process: subprocess.Popen, workdir: pathlib.Path) -> list[_Sample]:
  """Twice a second, once it trains."""
  found, path = [], workdir / "metrics.jsonl"
  while process.poll() is None:
    time.sleep(0.5)
    if not path.exists():
      continue
    with path.open("rb") as file:
      file.seek(max(path.stat().st_size - 4096, 0))
      lines = [line for line in file.read().splitlines() if b'"step"' in line]
    steps = [int(line.split(b'"step": ')[1].split(b",")[0]) for line in lines]
    if steps and (sample := _sample(process, steps[-1])):
      found.append(sample)
  return found


def test_memory_threads_and_files_stay_what_they_are(shapes_dir, tmp_path):
  """Saves every 500 steps and evaluations every 1000 included."""
  shutil.copytree(shapes_dir, tmp_path / "data")
  workdir = tmp_path / "run"
  process = tiny_runs.start(
    tmp_path,
    workdir,
    f"--config.steps={_STEPS}",
    "--config.log_every=50",
    "--config.checkpoint_every=500",
    "--config.eval_every=1000",
    "--config.lr=0.001",
  )
  with futures.ThreadPoolExecutor() as pool:
    said = pool.submit(process.communicate)  # else its pipe fills up
    found = _samples(process, workdir)
  assert process.returncode == 0, said.result()[0][-3000:]
  assert tiny_runs.last_step(workdir) == _STEPS
  bounds = np.linspace(_STEPS / 4, _STEPS, 4)
  parts = [
    [s for s in found if low < s.step <= high]
    for low, high in itertools.pairwise(bounds)
  ]
  for part in parts:
    print(
      f"steps {part[0].step} to {part[-1].step}: resident",
      *np.percentile([s.resident for s in part], (0, 50, 100)).astype(int),
      f"MiB (least, median, most); at most {max(s.threads for s in part)} "
      f"threads, {max(s.files for s in part)} files",
    )
  early, late = parts[0], parts[-1]
  for most in (
    lambda part: max(s.threads for s in part),
    lambda part: max(s.files for s in part),
  ):
    assert most(late) <= most(early) + 2
  typical = [np.median([s.resident for s in part]) for part in (early, late)]
  assert typical[1] < 1.05 * typical[0]
