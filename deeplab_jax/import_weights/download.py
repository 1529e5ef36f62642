"""Downloads of released archives, kept so that each is fetched once."""

import os
import pathlib
import tarfile

from deeplab_jax.download import fetch


def download(
  url: str, checksum: str = "", folder: pathlib.Path | None = None
) -> pathlib.Path:
  """The file of an archive, fetched unless it is there already.

  Args:
    url: of a `.tar.gz`.
    checksum: published, "<algorithm>:<hexadecimal>"; "" where none is known.
    folder: to keep it in; `~/.cache/deeplab_jax` (below `$XDG_CACHE_HOME`, if
      set) by default.

  Returns:
    Its path. The file has its published checksum; where there is none it is
    intact (gzip's own sum), holds a checkpoint or a frozen graph, and is the
    one that was downloaded first.

  Raises:
    ValueError: it cannot be fetched, or is not that; names the remedy.
  """
  folder = _cache() if folder is None else folder
  remedy = "download it elsewhere and give the file with --archive FILE"
  name = url.rsplit("/", 1)[-1]
  return fetch(url, folder / name, checksum, _require_weights, remedy)


def _cache() -> pathlib.Path:
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(root).expanduser() / "deeplab_jax"


def _require_weights(path: pathlib.Path) -> None:
  """Reads everything, which checks gzip's sum, and looks for the weights."""
  with tarfile.open(path, "r:gz") as archive:
    names = [member.name for member in archive]
  if not any(name.endswith((".index", ".pb")) for name in names):
    raise ValueError(f"no checkpoint among its files {names}")
