"""One labelling by several processes, which need not know of each other.

Each takes every n-th picture of the same list, and writes what it has done to
OUT/shares/; who finds that all are there adds them up.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deeplab_jax import atomic, remote
from deeplab_jax.predict.naming import Job
from deeplab_jax.predict.sources import Member

SUMMARY = "summary.json"
_FOLDER, _SETTINGS = "shares", "settings.json"
# Variables that number the processes of a job from 0, and that count them.
_NUMBERS = (
  ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
  ("SLURM_PROCID", "SLURM_NTASKS"),
  ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
  ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
)


class Share(NamedTuple):
  """Which part of the pictures a process takes.

  Attributes:
    index: from 0.
    count: of the processes.
  """

  index: int
  count: int


def parse(text: str) -> Share:
  """The share that `--share` asks for, such as "0/8" or "auto".

  Raises:
    ValueError: it is none; or auto, and nothing in the environment tells.
  """
  if text == "auto":
    return _from_environment()
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or not int(match[1]) < int(match[2]):
    raise ValueError(
      "--share must be INDEX/COUNT with an index from 0 to COUNT - 1, such as "
      f"0/8, or auto; got {text}"
    )
  return Share(int(match[1]), int(match[2]))


def _from_environment() -> Share:
  for index, count in _NUMBERS:
    if index in os.environ and count in os.environ:
      first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", 0))
      number = int(os.environ[index])
      number -= first if index == "SLURM_ARRAY_TASK_ID" else 0
      return parse(f"{number}/{os.environ[count]}")
  names = ", ".join(f"{index} and {count}" for index, count in _NUMBERS)
  raise ValueError(
    f"--share auto needs one of these pairs in the environment: {names}; or "
    "give --share INDEX/COUNT"
  )


def of_share(jobs: Sequence[Job], share: Share) -> list[Job]:
  """The jobs of a share: every n-th, in order.

  Archives of a store go to one process whole where there are enough of them:
  they are read whole.
  """
  archives = {
    job.source.archive: None
    for job in jobs
    if isinstance(job.source, Member)
    and isinstance(job.source.archive, remote.Address)
  }
  if len(archives) < share.count:
    return list(jobs[share.index :: share.count])
  number = {archive: i for i, archive in enumerate(archives)}
  taken, others = [], 0
  for job in jobs:
    turn = number.get(getattr(job.source, "archive", None))
    if turn is None:
      turn, others = others, others + 1
    if turn % share.count == share.index:
      taken.append(job)
  return taken


def undone(
  jobs: Sequence[Job],
  out: remote.AnyPath,
  results: Callable[[Job], Sequence[str]],
) -> list[Job]:
  """The jobs of which a result is missing; one that is there is whole.

  Args:
    jobs: of this process.
    out: folder of the results.
    results: the paths below `out` of all that is wanted of a job.
  """
  done = _files(out)
  return [job for job in jobs if not done.issuperset(results(job))]


def _files(folder: remote.AnyPath) -> set[str]:
  """Paths below `folder` of the files in it."""
  if isinstance(folder, remote.Address):
    return set(folder.below())
  return {
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, _, files in os.walk(folder)
    for name in files
    if not name.startswith(".")  # one being written
  }


def require_same_settings(
  out: remote.AnyPath, settings: Mapping[str, Any], resumes: bool
) -> None:
  """Refuses to go on with results of other settings; else notes these.

  Raises:
    ValueError: names those that differ.
  """
  path = out / _FOLDER / _SETTINGS
  try:
    before = json.loads(path.read_bytes())
  except (FileNotFoundError, ValueError):
    before = None
  settings = json.loads(json.dumps(settings))
  if resumes and isinstance(before, dict) and before != settings:
    names = [n for n in settings if before.get(n) != settings[n]]
    found = "; ".join(f"{n}: {before.get(n)} -> {settings[n]}" for n in names)
    raise ValueError(
      f"--resume needs the settings of what {out} holds, got other ones "
      f"({found}): undo this, or give another --out"
    )
  if before != settings:
    atomic.write_json(path, settings)


def write_summary(
  out: remote.AnyPath, share: Share, facts: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Notes what a share has done; the whole sum once all of them have.

  Args:
    out: folder of the results.
    share: which one.
    facts: "pictures", "done", "skipped", "seconds" and "failures", a list.

  Returns:
    the sum, which OUT/summary.json holds, None while others are at work.
  """
  folder = out / _FOLDER
  own = f"{share.index}_of_{share.count}.json"
  atomic.write_json(folder / own, dict(facts))
  found = []
  for index in range(share.count):
    path = folder / f"{index}_of_{share.count}.json"
    try:
      found.append(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
      return None
  counted = ("pictures", "done", "skipped")
  total = {name: sum(part[name] for part in found) for name in counted}
  total |= {
    "shares": share.count,
    "seconds": max(part["seconds"] for part in found),
    "failures": [failure for part in found for failure in part["failures"]],
  }
  atomic.write_json(out / SUMMARY, total)
  return total
