"""What a command says when it fails, and names in what it says.

Doors end in one line that names the remedy; names of files and classes come
from anywhere, and must neither steer the terminal nor break what shows them.
"""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator

from absl import logging

# XLA's words on CPUs, GPUs and TPUs, those of CUDA, NumPy, OpenCV and C++.
_OUT_OF_MEMORY = re.compile(
  r"RESOURCE_EXHAUSTED|out of memory|OUT_OF_MEMORY|failed to allocate"
  r"|unable to allocate|insufficient memory|bad_alloc|exceeded hbm capacity",
  re.IGNORECASE,
)
_NO_SPACE = re.compile(
  r"No space left on device|Disk quota exceeded|File too large|ENOSPC|EDQUOT"
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: object) -> str:
  r"""`text` on one line, in characters that any terminal shows as they are.

  Others, such as line ends, terminal escapes, marks that turn the direction of
  writing and bytes that are not UTF-8, become `\n`, `\x1b`, `\u202e`, `\xff`.
  """
  return "".join(
    character if character.isprintable() else _escaped(character)
    for character in str(text)
  )


def _escaped(character: str) -> str:
  if "\udc80" <= character <= "\udcff":  # Python keeps a lone byte so.
    return f"\\x{ord(character) - 0xDC00:02x}"
  return character.encode("unicode_escape", "backslashreplace").decode()


def printable_lines(text: object) -> str:
  """The same of text of several lines, which stay so."""
  return "\n".join(map(printable, str(text).split("\n")))


def explain(error: BaseException) -> str | None:
  """What a user can do about `error`; None if it is a mistake of ours."""
  text = str(error).strip()
  if is_disk_full(error):
    return _disk_full(error, text)
  if is_out_of_memory(error):
    return _out_of_memory(text)
  if isinstance(error, OSError):
    where = f": {error.filename}" if error.filename is not None else ""
    return printable(f"{error.strerror or text}{where}")
  if isinstance(error, (ValueError, FloatingPointError)):
    return printable_lines(text)
  return None


def is_out_of_memory(error: BaseException) -> bool:
  """Whether `error` says that a device or the machine has too little memory."""
  if isinstance(error, MemoryError):
    return True
  # Those of XLA are RuntimeErrors, that of OpenCV is an exception of its own.
  return not isinstance(error, (OSError, ValueError)) and bool(
    _OUT_OF_MEMORY.search(str(error))
  )


def is_disk_full(error: BaseException) -> bool:
  """Whether `error` says that nothing more can be written."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return True
  # tensorstore raises ValueError, Orbax passes it on from its threads.
  return isinstance(error, (ValueError, RuntimeError)) and bool(
    _NO_SPACE.search(str(error))
  )


def _disk_full(error: BaseException, text: str) -> str:
  path = getattr(error, "filename", None)
  if path is None:
    quoted = re.search(r'local file "([^"]*)"', text)
    path = quoted[1] if quoted else "a file"
  found = _NO_SPACE.search(f"{text} {error}")
  return printable(
    f"the disk is full: Error writing {path}: {found[0] if found else text}; "
    "free some space, then the same command continues from the last checkpoint"
  )


def _out_of_memory(text: str) -> str:
  first = printable(text.splitlines()[0]) if text else "no memory left"
  return (
    f"out of memory ({first}): lower config.batch_size or config.data.crop_size"
    ", raise config.accumulate_steps, or give --config.remat=true; to evaluate "
    "lower config.eval.batch_size; `python -m deeplab_jax.plan` tells what "
    "fits"
  )


def tell(error: Exception) -> int:
  """Prints what `explain` says of `error`; gives the exit status, 1.

  Raises:
    Exception: `error` itself, if there is nothing to say.
  """
  message = explain(error)
  if message is None:
    raise error
  logging.debug("the mistake came from here:", exc_info=True)
  print(f"error: {message}", file=sys.stderr)
  return 1


@contextlib.contextmanager
def ending_in_one_message() -> Iterator[None]:
  """Ends the program with status 1 and one message where there is one."""
  try:
    yield
  except KeyboardInterrupt:
    sys.exit(130)
  except Exception as error:
    sys.exit(tell(error))
