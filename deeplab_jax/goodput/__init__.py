"""Where the wall time of a training went.

  python -m deeplab_jax.goodput WORKDIR

prints how much of the time from the first start to the last sign of life was
for steps that count, and where the rest went. It reads WORKDIR/events.jsonl,
also while a run goes on.
"""

import argparse
from collections.abc import Sequence

from deeplab_jax import messages, remote
from deeplab_jax.goodput.account import PARTS, Account, account
from deeplab_jax.train import timeline

__all__ = ["PARTS", "Account", "account", "goodput", "main", "table"]


def goodput(workdir: remote.AnyPath | str) -> Account:
  """Where the time of the runs in `workdir` went.

  Raises:
    ValueError: no run has noted anything there.
  """
  events = timeline.read(remote.as_path(workdir))
  if not events:
    raise ValueError(
      f"WORKDIR must be that of a training, got {workdir}: it has no "
      f"{timeline.NAME}, or an empty one"
    )
  return account(events)


def table(found: Account) -> str:
  """The account as lines of text."""
  wall = max(found.wall, 1e-9)
  lines = [
    f"{name:<18}{seconds:>12.1f} s {seconds / wall:>7.1%}"
    for name, seconds in found.parts.items()
  ]
  lines.append(f"{'wall time':<18}{found.wall:>12.1f} s {1:>7.1%}")
  cut = f", {found.cut_off} cut off" if found.cut_off else ""
  lines.append(
    f"{found.starts} starts{cut}; step {found.step}, {found.again} steps done "
    "again"
  )
  return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command with `arguments`, by default those of the command line.

  Returns:
    the exit status.
  """
  parser = argparse.ArgumentParser(
    "python -m deeplab_jax.goodput",
    description="Tells where the wall time of a training went.",
  )
  parser.add_argument("workdir", metavar="WORKDIR", help="workdir of a run")
  flags = parser.parse_args(arguments)
  try:
    print(table(goodput(flags.workdir)))
  except Exception as error:
    return messages.tell(error)
  return 0
