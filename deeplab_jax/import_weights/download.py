"""Downloads of released archives, kept so that each is fetched once."""

import http.client
import os
import pathlib
import shutil
import tarfile
import urllib.error
import urllib.request

import rich.progress

_TIMEOUT_SECONDS = 60


def download(url: str, folder: pathlib.Path | None = None) -> pathlib.Path:
  """The file of an archive, fetched unless it is there already.

  Args:
    url: of a `.tar.gz`.
    folder: to keep it in; `~/.cache/deeplab_jax` (below `$XDG_CACHE_HOME`, if
      set) by default.

  Returns:
    Its path. The file has the length that the server announced, is intact (the
    checksum within) and holds a checkpoint or a frozen graph.

  Raises:
    ValueError: it cannot be fetched, or is not that; names the remedy.
  """
  folder = _cache() if folder is None else folder
  path = folder / url.rsplit("/", 1)[-1]
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
      _fetch(url, partial)
      _verify(partial)
    except (OSError, EOFError, tarfile.TarError) as error:
      raise ValueError(
        f"cannot download {url}: {error}; download it elsewhere and give the"
        " file with --archive FILE"
      ) from error
    partial.rename(path)
  return path


def _cache() -> pathlib.Path:
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(root).expanduser() / "deeplab_jax"


def _fetch(url: str, path: pathlib.Path) -> None:
  with _open(url) as response:
    total = int(response.headers["Content-Length"])
    with (
      rich.progress.wrap_file(response, total, description=path.stem) as source,
      path.open("wb") as target,
    ):
      shutil.copyfileobj(source, target)
  size = path.stat().st_size
  if size != total:
    raise OSError(f"the connection broke after {size} of {total} bytes")


def _open(url: str) -> http.client.HTTPResponse:
  try:
    return urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    error.close()  # It holds the connection.
    raise


def _verify(path: pathlib.Path) -> None:
  """Reads everything, which checks gzip's sum, and looks for the weights."""
  with tarfile.open(path, "r:gz") as archive:
    names = [member.name for member in archive]
  if not any(name.endswith((".index", ".pb")) for name in names):
    raise OSError(f"no checkpoint among its files {names}")
