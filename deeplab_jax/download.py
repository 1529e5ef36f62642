"""Files from the web: fetched once, whole, and the same each time.

A published checksum vouches for a file where one is known. Where none is, the
first download is trusted: its SHA-256 is kept beside it in `FILE.sha256`, as
`sha256sum -c` reads it, and demanded from then on.
"""

import contextlib
import hashlib
import http.client
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

from deeplab_jax import atomic, messages

_TIMEOUT_SECONDS = 60
_PART = 1 << 20  # bytes in memory at a time


def fetch(
  url: str,
  path: pathlib.Path,
  checksum: str,
  check: Callable[[pathlib.Path], Any],
  otherwise: str,
) -> pathlib.Path:
  """The file of `url`, downloaded to `path` unless it is there already.

  One that is there is verified like one that was just downloaded.

  Args:
    url: over https where the host has that; it may redirect, but from https to
      https alone.
    path: of the file to be; only a whole and right one gets this name.
    checksum: published, "<algorithm>:<hexadecimal>"; "" where none is known.
    check: raises if a file that no checksum vouches for yet is of another kind
      than expected, such as the page of a network that wants a login.
    otherwise: what to do where a download fails, for the message.

  Returns:
    `path`.

  Raises:
    ValueError: the file cannot be fetched, is cut off, or differs from its
      checksum or from the first download; names file, address and remedy.
  """
  if path.exists():
    _verify(path, path, url, checksum, check, "delete it to download it again")
    return path
  with atomic.replacing(path) as partial:
    try:
      _copy(url, partial)
    except (OSError, http.client.HTTPException) as error:
      raise ValueError(
        f"cannot download {url}: {_reason(error)}; {otherwise}"
      ) from error
    _verify(partial, path, url, checksum, check, otherwise)
  return path


def mismatch(path: pathlib.Path, checksum: str) -> str:
  """In words how the file at `path` differs from `checksum`; "" if it is it."""
  algorithm, _, expected = checksum.partition(":")
  with path.open("rb") as file:
    found = hashlib.file_digest(file, algorithm).hexdigest()
  if found == expected:
    return ""
  return f"its {algorithm} must be {expected}, got {found}"


def _verify(
  file: pathlib.Path,
  path: pathlib.Path,
  url: str,
  checksum: str,
  check: Callable[[pathlib.Path], Any],
  remedy: str,
) -> None:
  """Refuses `file`, the content of `path`, if it is not that of `url`."""
  record = path.with_name(f"{path.name}.sha256")
  if not checksum and not record.exists():
    _trust(file, path, url, check, remedy)
    return
  if wrong := mismatch(file, checksum or _recorded(record)):
    if not checksum:
      remedy += f"; if its publisher has changed it, delete {record} too"
    raise ValueError(f"{path} from {url}: {wrong}; {remedy}")


def _trust(
  file: pathlib.Path,
  path: pathlib.Path,
  url: str,
  check: Callable[[pathlib.Path], Any],
  remedy: str,
) -> None:
  """Records what `file` is, and says so."""
  try:
    check(file)
  except Exception as error:  # Whatever a library makes of other bytes.
    raise ValueError(f"{path} from {url}: {error}; {remedy}") from error
  with file.open("rb") as content:
    digest = hashlib.file_digest(content, "sha256").hexdigest()
  record = path.with_name(f"{path.name}.sha256")
  atomic.write_text(record, f"{digest}  {path.name}\n")
  print(
    f"no checksum is published for {url}; recorded sha256 {digest} in "
    f"{messages.printable(record)}"
  )


def _recorded(record: pathlib.Path) -> str:
  text = record.read_text("utf-8", "replace")
  if not re.match(r"[0-9a-f]{64}\b", text):
    raise ValueError(
      f"{record} must begin with a SHA-256, got {text[:64]!r}; delete it"
    )
  return f"sha256:{text[:64]}"


@contextlib.contextmanager
def _open(url: str) -> Iterator[http.client.HTTPResponse]:
  opener = urllib.request.build_opener(_HttpsStaysHttps)
  try:
    response = opener.open(url, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()  # It holds the connection.
    raise
  with response:
    yield response


class _HttpsStaysHttps(urllib.request.HTTPRedirectHandler):
  """Follows no redirect to where anyone on the way can change the answer."""

  def redirect_request(self, request, response, code, message, headers, url):
    if request.type == "https" and not url.startswith("https:"):
      response.close()
      raise urllib.error.URLError(f"it redirects from https to {url}")
    return super().redirect_request(
      request, response, code, message, headers, url
    )


def _copy(url: str, path: pathlib.Path) -> None:
  """Writes what `url` gives, a part at a time, and shows the progress."""
  with _open(url) as response, path.open("wb") as file:
    # None where the server does not know it, and marks the end in another way.
    length = response.length
    with tqdm.tqdm(
      desc=url.rsplit("/", 1)[-1], total=length, unit="B", unit_scale=True
    ) as progress:
      while part := response.read(_PART):
        file.write(part)
        progress.update(len(part))
    size = file.tell()
  if length not in (None, size):
    raise OSError(f"the connection broke after {size} of {length} bytes")


def _reason(error: Exception) -> object:
  """What went wrong, without the frames that the libraries put around it."""
  if isinstance(error, http.client.IncompleteRead):
    return "the connection broke"
  return error.reason if type(error) is urllib.error.URLError else error
