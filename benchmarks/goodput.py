"""How much of a run is useful that is killed again and again.

  python -m benchmarks.goodput --means 20,60,180 --minutes 15 --out runs/goodput

The run is `configs/quickstart.py` without an end and without evaluations, with
`checkpoint_every="auto"`, in a process of its own. SIGKILL comes after seconds
drawn from an exponential distribution of each mean, counted from the start of
the process; the next start follows at once. `--out` gets the workdirs, and
`goodput.md` with a row for each mean.

Beside it stands the best that any interval between saves would give, with the
time R from the start of a process to its first step and the time C that a save
holds up the run as they were in it: for failures once in M seconds the largest
T / (M exp(R / M) (exp((T + C) / M) - 1)) over T (Daly, "A higher order estimate
of the optimum checkpoint interval for restart dumps", 2006).
"""

import argparse
import itertools
import math
import pathlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.report import markdown
from deeplab_jax.goodput import PARTS, account
from deeplab_jax.train import timeline

_HEADINGS = (
  *("mean, s", "kills", "wall, s", "useful", "bound"),
  *(part for part in PARTS if part != "useful steps"),
  *("R, s", "C, s", "T, s"),
)
_ARGUMENTS = {
  "steps": 10_000_000,
  "eval_every": 0,
  "eval_first": False,
  "checkpoint_every": "auto",
}


def efficiency(
  interval: float, mean: float, restart: float, save: float
) -> float:
  """The useful share of the time, saving after every `interval` seconds.

  Args:
    interval: T, of useful time.
    mean: M, seconds between failures.
    restart: R, seconds.
    save: C, seconds.
  """
  with_save = math.expm1(min((interval + save) / mean, 700.0))
  return interval / (mean * math.exp(restart / mean) * with_save)


def best_interval(mean: float, restart: float, save: float) -> float:
  """The interval, to a hundredth, with which `efficiency` is largest."""
  intervals = [mean * 1.01**i for i in range(-1000, 300)]
  return max(intervals, key=lambda t: efficiency(t, mean, restart, save))


def kill_again_and_again(
  command: Sequence[str], log: pathlib.Path, mean: float, seconds: float
) -> int:
  """Starts `command` for so many seconds in all; how often it was killed.

  Raises:
    RuntimeError: it ended by itself.
  """
  chance, kills = random.Random(0), 0
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    with log.open("ab") as output:
      process = subprocess.Popen(command, stdout=output, stderr=output)
    left = until - time.monotonic()
    try:
      process.wait(min(chance.expovariate(1 / mean), max(left, 0)))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      kills += time.monotonic() < until
      continue
    raise RuntimeError(f"{command} ended by itself: see {log}")
  return kills


def row(mean: float, kills: int, events: Sequence[timeline.Event]) -> list[str]:
  """The line of a run."""
  found = account(events)
  restart, save, interval = _measured(events)
  bound = efficiency(best_interval(mean, restart, save), mean, restart, save)
  shares = [f"{found.parts[p] / found.wall:.1%}" for p in PARTS[1:]]
  useful = found.parts["useful steps"] / found.wall
  return [
    f"{mean:g}",
    str(kills),
    f"{found.wall:.0f}",
    *(f"{share:.1%}" for share in (useful, bound)),
    *shares,
    *(f"{x:.2f}" for x in (restart, save, interval)),
  ]


def _measured(events: Sequence[timeline.Event]) -> tuple[float, float, float]:
  """Medians: R, C, and T, seconds between saves of one start."""
  began, restarts, saves, saved = {}, [], [], {}
  intervals = []
  for before, event in itertools.pairwise([events[0], *events]):
    if event.event == "start":
      began[event.run] = event.at
    elif event.event == "compiled":
      restarts.append(event.at - began[event.run])
    elif event.event == "save":
      saves.append(event.at - before.at)
      if event.run in saved:
        intervals.append(event.at - saved[event.run])
      saved[event.run] = event.at
  return tuple(
    statistics.median(x) if x else math.nan
    for x in (restarts, saves, intervals)
  )


def main() -> None:
  """Measures what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--means", default="20,60,180", help="seconds between kills")
  add("--minutes", type=float, default=15.0, help="of each")
  add("--out", type=pathlib.Path, default="runs/goodput")
  add("--config", default="configs/quickstart.py")
  flags = parser.parse_args()
  flags.out.mkdir(parents=True, exist_ok=True)
  rows, facts = [], machine.facts("cpu")
  for mean in map(float, flags.means.split(",")):
    workdir = flags.out / f"every_{mean:g}_s"
    settings = [f"--config.{name}={x}" for name, x in _ARGUMENTS.items()]
    command = [sys.executable, "-m", "deeplab_jax.main"]
    command += ["--config", flags.config, "--workdir", str(workdir), *settings]
    log = flags.out / f"every_{mean:g}_s.log"
    kills = kill_again_and_again(command, log, mean, 60 * flags.minutes)
    rows.append(row(mean, kills, timeline.read(workdir)))
    text = (
      f"{facts['cpu']}, {facts['threads']} of {facts['cores']} cores, commit "
      f"{facts['commit']}, {facts['date']}\n\n{markdown(_HEADINGS, rows)}\n"
    )
    (flags.out / "goodput.md").write_text(text)
  print(text)


if __name__ == "__main__":
  main()
