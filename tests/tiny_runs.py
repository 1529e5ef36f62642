"""Runs of the command that users type, on `programs/tiny_config.py`."""

import json
import pathlib
import subprocess
import time

from tests import processes

CONFIG = processes.REPOSITORY / "tests/programs/tiny_config.py"


def start(
  folder: pathlib.Path,
  workdir: object,
  *flags: str,
  largest_file: str = "unlimited",
  **environment: str,
) -> subprocess.Popen:
  """Starts a run on the data set in `folder / "data"`.

  Args:
    folder: with the data set; compiled programs are kept there, too.
    workdir: of the run.
    *flags: for the command.
    largest_file: a limit of the size of files, in KiB, which stands for a disk
      that is full.
    **environment: further variables.
  """
  return processes.start(
    *("-m", "deeplab_jax.main", "--config", CONFIG, "--workdir", workdir),
    f"--config.data.data_dir={folder / 'data'}",
    *flags,
    prefix=("bash", "-c", f'ulimit -f {largest_file}; exec "$@"', "bash"),
    merged=True,
    **{"DEEPLAB_CACHE": str(folder / "cache"), **environment},
  )


def start_two(
  folder: pathlib.Path,
  workdir: object,
  *flags: str,
  of_each: tuple[tuple[str, ...], ...] = ((), ()),
  largest_files: tuple[str, str] = ("unlimited", "unlimited"),
  **environment: str,
) -> list[subprocess.Popen]:
  """Two processes of one run, joined over loopback; see `start`."""
  return [
    start(
      *(folder, workdir, *flags, *own),
      largest_file=largest,
      **joined,
      **environment,
    )
    for own, largest, joined in zip(of_each, largest_files, processes.joined())
  ]


def rows(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl, less what depends on the clock."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  found = [json.loads(line) for line in lines if line.endswith("}")]
  return [
    {name: x for name, x in row.items() if "per_second" not in name}
    for row in found
  ]


def last_step(workdir: pathlib.Path) -> int:
  """The last step logged, 0 without any."""
  return max((row["step"] for row in rows(workdir)), default=0)


def wait_for_step(
  process: subprocess.Popen, workdir: pathlib.Path, step: int
) -> None:
  """Returns when `step` is logged; fails if the run ends before."""
  while not any(row["step"] >= step for row in rows(workdir)):
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.005)
