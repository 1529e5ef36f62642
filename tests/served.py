"""A folder served by HTTP on this machine, with the faults of the web."""

import contextlib
import functools
import http.server
import pathlib
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

needs_openssl = pytest.mark.skipif(
  shutil.which("openssl") is None,
  reason="SKIPPED FOR LACK OF OPENSSL: no certificate can be made",
)


class _Server(http.server.SimpleHTTPRequestHandler):
  """A file whose name begins with a fault's name has that fault."""

  def __init__(self, *arguments, requests, moved_to, **options):
    self.requests, self.moved_to = requests, moved_to
    super().__init__(*arguments, **options)

  def do_GET(self):
    self.requests.append(self.path)
    if self.path.startswith("/moved"):
      self.send_response(302)
      self.send_header("Location", f"{self.moved_to}{self.path[6:]}")
      self.end_headers()
    elif self.path.startswith("/half_a_chunk"):
      self.protocol_version = "HTTP/1.1"
      self.send_response(200)
      self.send_header("Transfer-Encoding", "chunked")
      self.end_headers()
      self.wfile.write(b"10\r\nabc")
      self.close_connection = True
    elif self.path.startswith("/silent"):
      time.sleep(1)
    else:
      super().do_GET()

  def send_header(self, keyword, value):
    if keyword == "Content-Length" and self.path.startswith("/cut"):
      value = str(int(value) + 10)
    super().send_header(keyword, value)

  def log_message(self, *arguments):
    pass


@contextlib.contextmanager
def serve(
  folder: pathlib.Path,
  *,
  moved_to: str = "",
  certificate: pathlib.Path | None = None,
) -> Iterator[tuple[str, list[str]]]:
  """Gives the address of `folder` and the list of paths that are asked for.

  `/moved/NAME` redirects to `moved_to`, in place of `/moved`. With a
  `certificate`, as `make_certificate` makes it, the address is https.
  """
  requests: list[str] = []
  handler = functools.partial(
    _Server, directory=folder, requests=requests, moved_to=moved_to
  )
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    if certificate:
      context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
      context.load_cert_chain(certificate)
      server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    scheme = "https" if certificate else "http"
    try:
      yield f"{scheme}://127.0.0.1:{server.server_port}", requests
    finally:
      server.shutdown()
      thread.join()


def make_certificate(path: pathlib.Path) -> pathlib.Path:
  """Writes a key and a certificate, signed by itself, for 127.0.0.1."""
  command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
  options = ["-addext", "subjectAltName=IP:127.0.0.1"]
  key = path.with_suffix(".key")
  files = ["-keyout", str(key), "-out", str(path)]
  subprocess.run(
    [*command.split(), *options, *files], check=True, capture_output=True
  )
  path.write_bytes(key.read_bytes() + path.read_bytes())
  return path
