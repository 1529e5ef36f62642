"""One bucket of Google's or Amazon's object store, with errors of one line.

tensorstore finds credentials by itself: for gs:// those of
GOOGLE_APPLICATION_CREDENTIALS, of `gcloud auth application-default login`, or
of the machine; for s3:// those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
of AWS_PROFILE and ~/.aws, or of the machine. Other servers of these protocols
are named by STORAGE_EMULATOR_HOST and AWS_ENDPOINT_URL.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

SCHEMES = ("gs", "s3")

# Waits of 0.2, 0.4, 0.8 ... 32 s: a minute and a half in which a store may
# throttle or be away before a run gives up.
_RETRIES = {"max_retries": 9, "initial_delay": "200ms", "max_delay": "32s"}
_PATIENCE = 900  # seconds for one request with all its attempts
_AT_FIRST = 10  # seconds
_MISSING = b"\x02"  # tensorstore's generation of an object that is not there
_LOG_LINE = re.compile(rb"[EW]\d{4} \d\d:\d\d:\d\d\.")

_REMEDIES = (
  (
    r"http_response_code='401'|http_response_code='403'|PERMISSION_DENIED"
    r"|UNAUTHENTICATED|AccessDenied|credential",
    "no permission: check the credentials (for gs:// `gcloud auth "
    "application-default login` or GOOGLE_APPLICATION_CREDENTIALS, for s3:// "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE) and that they "
    "may list, read, write and delete there",
  ),
  (
    r"NoSuchBucket|NOT_FOUND|http_response_code='404'|bucket name"
    r"|Failed to parse response metadata",  # what a missing one may answer
    "no such bucket: create it, or check its name",
  ),
  (
    r"http_response_code='(429|5\d\d)'|SlowDown|TimeoutError",
    "the store throttles or is away: the same command continues later",
  ),
  (
    r"CURL|curl_code|resolve|connect",
    "the store cannot be reached: check the network, and STORAGE_EMULATOR_HOST "
    "or AWS_ENDPOINT_URL if they are set",
  ),
)


class StoreError(OSError):
  """A request that failed for good: one line, with the remedy."""


class Bucket:
  """The objects of one bucket, by their whole keys."""

  def __init__(self, scheme: str, name: str):
    """Opens the bucket; nothing is asked of the store before the first call."""
    self.address = f"{scheme}://{name}"
    with self._explaining(""), _without_log():
      self._store = _open(scheme, name)
      # The first request looks for credentials, and logs where there are none.
      with contextlib.suppress(Exception):
        self._store.read("deeplab_jax").result(timeout=_AT_FIRST)

  def read(
    self, key: str, begin: int = 0, end: int | None = None
  ) -> bytes | None:
    """The content of an object, None if there is none.

    Args:
      key: its name.
      begin: first byte read.
      end: byte before which reading ends; None is the object's end.

    Raises:
      EOFError: it has fewer bytes than asked for.
    """
    # The whole is asked for without a range, which some servers do not know.
    part = {"byte_range": slice(begin, end)} if begin or end else {}
    with self._explaining(key):
      try:
        found = self._store.read(key, **part).result(timeout=_PATIENCE)
      except ValueError as error:
        if part and re.search("OUT_OF_RANGE|Content-Range", str(error)):
          raise EOFError(f"{self.address}/{key} ends before {end}") from error
        raise
      return None if found.state == "missing" else found.value

  def write(self, key: str, content: bytes, new: bool = False) -> bool:
    """Puts an object whole.

    Args:
      key: its name.
      content: what it is to hold.
      new: only if there is none.

    Returns:
      False if `new` and there is one.
    """
    with self._explaining(key):
      condition = {"if_equal": _MISSING} if new else {}
      stamp = self._store.write(key, content, **condition).result(
        timeout=_PATIENCE
      )
      return bool(stamp.generation)

  def delete(self, key: str) -> None:
    """Removes an object, if it is there."""
    with self._explaining(key):
      self._store.write(key, None).result(timeout=_PATIENCE)

  def keys(self, prefix: str) -> list[str]:
    """The keys that begin with `prefix`, in order; what follows it of each.

    Raises:
      StoreError: the store does not tell. tensorstore takes a refusal of
        gs:// for an empty list: so an empty one is asked for otherwise, too.
    """
    import tensorstore as ts

    with self._explaining(prefix):
      end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""
      found = self._store.list(
        ts.KvStore.KeyRange(prefix, end), strip_prefix_length=0
      ).result(timeout=_PATIENCE)
      if not found:
        self.read(f"{prefix}deeplab_jax")
    # Not every server heeds the ends of a range.
    keys = (key.decode() for key in found)
    return sorted(k.removeprefix(prefix) for k in keys if k.startswith(prefix))

  @contextlib.contextmanager
  def _explaining(self, key: str) -> Iterator[None]:
    try:
      yield
    except StoreError:
      raise
    except (ValueError, TimeoutError, RuntimeError, NotImplementedError) as e:
      where = f"{self.address}/{key}".rstrip("/")
      raise StoreError(f"{where}: {_explanation(e)}") from e


def _explanation(error: Exception) -> str:
  text = f"{type(error).__name__}: {error}"
  said = str(error).split(" [")[0].splitlines()
  said = said[0] if said and said[0] else type(error).__name__
  for pattern, remedy in _REMEDIES:
    if re.search(pattern, text):
      return f"{remedy} ({said})"
  return said


@functools.cache
def bucket(scheme: str, name: str) -> Bucket:
  """The bucket of a name, opened once."""
  return Bucket(scheme, name)


def _open(scheme: str, name: str) -> Any:
  import tensorstore as ts  # 0.2 s, which few commands need

  retries = dict.fromkeys(("gcs_request_retries", "s3_request_retries"))
  context = ts.Context(dict.fromkeys(retries, _RETRIES))
  if scheme == "gs":
    server = os.environ.get("STORAGE_EMULATOR_HOST")
    if server:
      server = server if "://" in server else f"http://{server}"
      os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", server)
    spec = {"driver": "gcs", "bucket": name}
  else:
    spec = {"driver": "s3", "bucket": name}
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if server := next(filter(None, map(os.environ.get, names)), None):
      names = ("AWS_REGION", "AWS_DEFAULT_REGION")
      region = next(filter(None, map(os.environ.get, names)), "us-east-1")
      spec |= {"endpoint": server.rstrip("/"), "aws_region": region}
  return ts.KvStore.open(spec, context=context).result(timeout=_PATIENCE)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
  """Keeps back what libraries in C log of places without credentials.

  They write to the descriptor of stderr and cannot be told not to.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as kept:
    before = os.dup(2)
    os.dup2(kept.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(before, 2)
      os.close(before)
      kept.seek(0)
      lines = [line for line in kept if not _LOG_LINE.match(line)]
      os.write(2, b"".join(lines))
