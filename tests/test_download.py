"""Downloads over this machine's own network: whole, verified, said."""

import hashlib
import importlib
import pathlib
import pkgutil
import re
import socket
import tracemalloc

import pytest

from deeplab_jax import download
from deeplab_jax.data import builders
from deeplab_jax.data.builders.archives import Archive
from deeplab_jax.import_weights.releases import RELEASES
from tests.served import make_certificate, needs_openssl, serve

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path):
  """A folder with a file, its address, and what is asked for."""
  folder = tmp_path / "site"
  folder.mkdir()
  (folder / "file").write_bytes(CONTENT)
  with serve(folder) as (address, requests):
    yield folder, address, requests


@pytest.fixture
def path(tmp_path):
  """Where a download is to be; its folder is not there yet."""
  return tmp_path / "cache" / "file"


def _fetch(url, path, checksum="", check=pathlib.Path.stat):
  return download.fetch(url, path, checksum, check, "give it with --FILE")


def _files(path):
  return sorted(file.name for file in path.parent.glob("*"))


def test_first_download_is_trusted_recorded_and_said(site, path, capsys):
  _, address, requests = site
  assert _fetch(f"{address}/file", path) == path
  assert path.read_bytes() == CONTENT
  record = path.with_name("file.sha256")
  assert record.read_text() == f"{SHA256}  file\n"
  assert capsys.readouterr().out == (
    f"no checksum is published for {address}/file; recorded sha256 {SHA256} in "
    f"{record}\n"
  )
  _fetch(f"{address}/file", path)
  assert requests == ["/file"]
  assert capsys.readouterr().out == ""
  assert _files(path) == ["file", "file.sha256"]


def test_file_of_an_earlier_version_is_recorded_too(site, path, capsys):
  path.parent.mkdir()
  path.write_bytes(CONTENT)
  _fetch(f"{site[1]}/file", path)
  assert SHA256 in capsys.readouterr().out
  assert site[2] == []


def test_changed_file_is_refused_and_downloaded_again_once_deleted(site, path):
  url = f"{site[1]}/file"
  _fetch(url, path)
  path.write_bytes(b"other")
  with pytest.raises(ValueError) as error:
    _fetch(url, path)
  found = hashlib.sha256(b"other").hexdigest()
  assert str(error.value) == (
    f"{path} from {url}: its sha256 must be {SHA256}, got {found}; delete it "
    "to download it again; if its publisher has changed it, delete "
    f"{path}.sha256 too"
  )
  path.unlink()
  assert _fetch(url, path).read_bytes() == CONTENT


def test_other_content_than_at_first_is_refused(site, path):
  folder, address, _ = site
  _fetch(f"{address}/file", path)
  path.unlink()
  (folder / "file").write_bytes(b"other")
  with pytest.raises(
    ValueError, match=rf"must be {SHA256}, .*file\.sha256 too"
  ):
    _fetch(f"{address}/file", path)
  assert _files(path) == ["file.sha256"]
  path.with_name("file.sha256").unlink()
  assert _fetch(f"{address}/file", path).read_bytes() == b"other"


def test_record_of_something_else_is_refused(site, path):
  path.parent.mkdir()
  record = path.with_name("file.sha256")
  record.write_text("")
  with pytest.raises(ValueError, match=r"must begin with a SHA-256, got ''"):
    _fetch(f"{site[1]}/file", path)
  assert not path.exists()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha1", "md5"])
def test_published_checksum_is_demanded(site, path, algorithm, capsys):
  folder, address, _ = site
  published = hashlib.new(algorithm, CONTENT).hexdigest()
  checksum = f"{algorithm}:{published}"
  for _ in range(2):
    _fetch(f"{address}/file", path, checksum)
  assert capsys.readouterr().out == ""
  assert _files(path) == ["file"]
  path.write_bytes(b"changed here")
  message = rf"file: its {algorithm} must be {published}, got .*; delete it"
  with pytest.raises(ValueError, match=message):
    _fetch(f"{address}/file", path, checksum)
  path.unlink()
  (folder / "file").write_bytes(b"changed there")
  message = rf"{algorithm} must be {published}, got .*; give it with --FILE"
  with pytest.raises(ValueError, match=message):
    _fetch(f"{address}/file", path, checksum)
  assert _files(path) == []


def test_file_of_another_kind_is_not_trusted(site, path):
  def refuse(file):
    assert file.read_bytes() == CONTENT
    raise ValueError("it is no archive")

  message = r"/file from http.*: it is no archive; give it with --FILE"
  with pytest.raises(ValueError, match=message):
    _fetch(f"{site[1]}/file", path, check=refuse)
  assert _files(path) == []


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("absent", "HTTP Error 404: File not found"),
    ("cut", r"the connection broke after 7000 of 7010 bytes"),
    ("half_a_chunk", r"the connection broke;"),
    ("silent", "timed out"),
  ],
)
def test_failed_download_is_one_line(site, path, name, message, monkeypatch):
  folder, address, _ = site
  (folder / "cut").write_bytes(CONTENT)
  monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.5)
  with pytest.raises(ValueError, match=message) as error:
    _fetch(f"{address}/{name}", path)
  text = str(error.value)
  assert text.startswith(f"cannot download {address}/{name}: ")
  assert text.endswith("; give it with --FILE")
  assert "\n" not in text
  assert _files(path) == []


def test_host_that_is_not_there_is_one_line(path):
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  with pytest.raises(ValueError, match=r"file: \[Errno 111\] Connection ref"):
    _fetch(f"http://127.0.0.1:{port}/file", path)


def test_host_without_https_is_one_line(site, path):
  address = site[1].replace("http:", "https:")
  with pytest.raises(ValueError, match=rf"{address}/file: \[SSL: .*; give it"):
    _fetch(f"{address}/file", path)


def test_redirect_is_followed(site, path):
  _, address, requests = site
  assert _fetch(f"{address}/moved/file", path).read_bytes() == CONTENT
  assert requests == ["/moved/file", "/file"]


@needs_openssl
def test_https_stays_https(site, path, tmp_path, monkeypatch):
  folder, address, requests = site
  certificate = make_certificate(tmp_path / "certificate.pem")
  with serve(folder, moved_to=address, certificate=certificate) as (secure, _):
    unknown = rf"{secure}/file: \[SSL: CERTIFICATE_VERIFY_FAILED\].*self"
    with pytest.raises(ValueError, match=unknown):
      _fetch(f"{secure}/file", path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    message = rf"moved/file: it redirects from https to {address}/file; give"
    with pytest.raises(ValueError, match=message):
      _fetch(f"{secure}/moved/file", path)
    assert requests == []
    assert _fetch(f"{secure}/file", path).read_bytes() == CONTENT


def test_large_file_is_never_in_memory(site, path):
  folder, address, _ = site
  size = 64 << 20
  with (folder / "large").open("wb") as file:
    file.truncate(size)
  tracemalloc.start()
  try:
    _fetch(f"{address}/large", path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert path.stat().st_size == size
  assert peak < size / 8


def _archives():
  """The archives that the builders name, those in their tables included."""
  for module in pkgutil.iter_modules(builders.__path__):
    name = f"{builders.__name__}.{module.name}"
    for value in vars(importlib.import_module(name)).values():
      values = value.values() if isinstance(value, dict) else [value]
      yield from (v for v in values if isinstance(v, Archive))
  coco_voc = importlib.import_module(f"{builders.__name__}.coco_voc")
  yield from (coco_voc._source("zips", file) for file in coco_voc._SHA256)


def test_all_that_is_downloaded_comes_over_https():
  archives = {source.file: source for source in _archives()}
  assert len(archives) >= 13
  sources = [source for source in archives.values() if not source.login]
  for source in (*sources, *RELEASES.values()):
    assert source.url.startswith("https://")


def test_published_checksums_have_the_length_of_their_kind():
  checksums = [s.checksum for s in (*_archives(), *RELEASES.values())]
  known = {checksum for checksum in checksums if checksum}
  assert len(known) >= 14
  for checksum in known:
    algorithm, _, digest = checksum.partition(":")
    assert re.fullmatch("[0-9a-f]+", digest)
    assert len(digest) == 2 * hashlib.new(algorithm).digest_size
