"""How much memory there is, so that nothing is read that does not fit in it.

The header of a file may claim any size. What it claims is compared before
anything is decoded, and with the limit of the control group: a container has
less memory than the machine that it runs on.
"""

import functools
import math
import os
import pathlib
import re
import stat
from collections.abc import Iterator

_BYTES_PER_PIXEL = 16  # decoded, converted, labelled, painted
_V1_FILE, _V2_FILE = "memory.limit_in_bytes", "memory.max"


@functools.cache
def memory() -> int:
  """Bytes that this process may use: the machine's, or fewer by its cgroup."""
  pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return min([pages, *_cgroup_limits(pathlib.Path("/"))])


def _cgroup_limits(root: pathlib.Path) -> Iterator[int]:
  """The limits of this process's control group and of those above it.

  Args:
    root: of the file system, with `proc` and `sys`.
  """
  try:
    lines = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:  # no Linux
    return
  for line in lines:
    _, controllers, path = line.split(":", 2)
    mount, file = root / "sys/fs/cgroup", _V2_FILE
    if "memory" in controllers.split(","):
      mount, file = mount / "memory", _V1_FILE
    elif controllers:
      continue
    group = pathlib.PurePath(path.lstrip("/"))
    for folder in (group, *group.parents):  # "." is the last of them
      try:
        text = (mount / folder / file).read_text().strip()
      except OSError:  # not mounted, or not to be seen from a container
        continue
      if re.fullmatch(r"\d+", text):  # else "max"
        yield int(text)


def check_pixels(
  size: tuple[int, int], readers: int = 1, bytes_per_pixel: int = 0
) -> None:
  """Refuses a picture of more pixels than memory holds.

  Args:
    size: its height and width, as its header claims them.
    readers: how many pictures are decoded at the same time.
    bytes_per_pixel: that it takes, if these are more than those of RGB.

  Raises:
    ValueError: it does not fit; says what would.
  """
  most = memory() // readers // max(_BYTES_PER_PIXEL, bytes_per_pixel)
  if math.prod(size) > most:
    share = f" for each of {readers} readers" if readers > 1 else ""
    raise ValueError(
      f"{size[1]} x {size[0]} pixels, memory holds {most / 1e6:.0f} million"
      f"{share}"
    )


def check_file(path: str | os.PathLike) -> None:
  """Refuses what cannot be read as a file: a pipe would never end, nor a disk.

  Raises:
    OSError: it is not there, or no regular file, or larger than memory.
  """
  status = os.stat(path)
  if not stat.S_ISREG(status.st_mode):
    raise OSError("not a regular file, but a folder, pipe or device")
  check_bytes(status.st_size)


def check_bytes(count: int) -> None:
  """Refuses contents of more bytes than a quarter of the memory.

  Raises:
    OSError: there are more.
  """
  most = memory() // 4
  if count > most:
    raise OSError(
      f"{count / 1e9:.1f} GB when unpacked, at most {most / 1e9:.1f} fit"
    )


def num_readers() -> int:
  """Threads that read files at the same time: one for each usable core."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
