"""Object stores on this machine, with the faults of a network.

  python -m tests.stores gs|s3

serves a bucket named `bucket` until its input ends, and prints two addresses:
of the store, and of a server before it that hands requests on. The latter is
told of faults by `set_faults`.
"""

import contextlib
import http.client
import http.server
import importlib.util
import json
import logging
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from deeplab_jax.remote import Address, store

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FAULTS = "/set_faults"

SCHEMES = ("gs", "s3")
_PACKAGES = {"gs": "gcp_storage_emulator", "s3": "moto"}


class Store(NamedTuple):
  """A served bucket.

  Attributes:
    scheme: "gs" or "s3".
    direct: URL of the store itself.
    url: that of the server with faults before it.
    environment: variables that lead programs to `url`.
  """

  scheme: str
  direct: str
  url: str
  environment: dict[str, str]


def set_faults(store: Store, **faults: float) -> None:
  """Sets the shares of requests that fail, from now on; all others are 0.

  Args:
    store: whose.
    **faults: `unavailable` (503), `slow` (half a second late), `torn` (the
      connection ends when half of an upload has been read), `refused` (403, of
      requests that write), `throttled` (429).
  """
  content = json.dumps(faults).encode()
  with urllib.request.urlopen(f"{store.url}{_FAULTS}", data=content) as answer:
    answer.read()


@contextlib.contextmanager
def serve(scheme: str) -> Iterator[Store]:
  """A bucket named `bucket`, in a process of its own."""
  package = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    pytest.skip(f"SKIPPED FOR LACK OF {package}: see requirements-dev.txt")
  with subprocess.Popen(
    [sys.executable, "-W", "ignore", "-m", "tests.stores", scheme],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:
    direct, url = process.stdout.readline().split()
    name = "STORAGE_EMULATOR_HOST" if scheme == "gs" else "AWS_ENDPOINT_URL"
    environment = {name: url}
    if scheme == "s3":
      environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    try:
      yield Store(scheme, direct, url, environment)
    finally:
      process.kill()


@contextlib.contextmanager
def folder_of_test(
  served: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Address]:
  """A folder of the bucket that is one test's own; no faults, short waits."""
  monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
  for name, value in served.environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
  retries = {"max_retries": 6, "initial_delay": "10ms", "max_delay": "50ms"}
  monkeypatch.setattr(store, "_RETRIES", retries)
  store.bucket.cache_clear()
  set_faults(served)
  yield Address(f"{served.scheme}://bucket/{tmp_path.name}")
  set_faults(served)
  store.bucket.cache_clear()


def _start(scheme: str) -> str:
  """Starts the emulator; gives its URL."""
  if scheme == "gs":
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    port = server._api._httpd.server_address[1]
    request = urllib.request.Request(
      f"http://127.0.0.1:{port}/storage/v1/b?project=test",
      data=json.dumps({"name": "bucket"}).encode(),
      headers={"Content-Type": "application/json"},
    )
  else:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    request = urllib.request.Request(
      f"http://127.0.0.1:{port}/bucket", method="PUT"
    )
  with urllib.request.urlopen(request) as answer:
    answer.read()
  return f"http://127.0.0.1:{port}"


class _Faulty(http.server.BaseHTTPRequestHandler):
  """Hands requests on, but for the share that is to fail."""

  protocol_version = "HTTP/1.1"
  port = 0
  faults: dict[str, float] = {}  # noqa: RUF012
  chance = random.Random(0)
  known: set[str] = set()  # noqa: RUF012

  def _handle(self) -> None:
    length = int(self.headers.get("Content-Length") or 0)
    writes = self.command != "GET"
    if self.path == _FAULTS:
      type(self).faults = json.loads(self.rfile.read(length))
      self._answer(200, b"")
    elif writes and length and self._fails("torn"):
      self.rfile.read(length // 2)
      self._hand_on(b"")  # as far as it has come, to a store that believes it
      self.close_connection = True
      self.connection.close()
    else:
      body = self.rfile.read(length)
      if self._fails("slow"):
        time.sleep(0.5)
      if self._fails("unavailable"):
        self._answer(503, b'{"error": {"message": "try again"}}')
      elif self._fails("throttled"):
        self._answer(429, b'{"error": {"message": "too many requests"}}')
      elif writes and self._fails("refused"):
        self._answer(403, b'{"error": {"message": "may not write"}}')
      else:
        self._answer(*self._hand_on(body))

  def _fails(self, fault: str) -> bool:
    return self.chance.random() < self.faults.get(fault, 0)

  def _hand_on(self, body: bytes) -> tuple:
    store = http.client.HTTPConnection("127.0.0.1", self.port)
    headers = {
      k: v for k, v in self.headers.items() if k.lower() != "connection"
    }
    if not body and self.headers.get("Content-Length") not in (None, "0"):
      return 0, b""
    store.request(self.command, self.path, body or None, headers)
    answer = store.getresponse()
    return answer.status, answer.read(), answer.getheaders()

  def _answer(self, status: int, body: bytes, headers=()) -> None:
    self.send_response(status)
    left_out = ("content-length", "transfer-encoding", "connection", "date")
    for name, value in headers:
      if name.lower() not in left_out or (
        name.lower() == "content-length" and self.command == "HEAD"
      ):
        self.send_header(name, value)
    if self.command != "HEAD":
      self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

  def log_message(self, *arguments):
    pass


def main(scheme: str) -> None:
  """See the module."""
  logging.disable(logging.CRITICAL)
  direct = _start(scheme)
  _Faulty.port = int(direct.rpartition(":")[2])
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Faulty)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  print(direct, f"http://127.0.0.1:{server.server_port}", flush=True)
  sys.stdin.read()
  os._exit(0)


if __name__ == "__main__":
  main(sys.argv[1])
