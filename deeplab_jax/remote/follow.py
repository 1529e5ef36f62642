"""Files that grow, kept in an object store as well."""

import pathlib
import threading
import time

from deeplab_jax.remote.address import Address

_PAUSE = 5.0  # seconds
_SHARE = 20  # a copy may take this fraction of the time between copies


class Follower:
  """Copies the files of a folder to an address whenever they have changed.

  Empty ones, of which nothing would be told, are left out.
  An object cannot be added to, so that each copy is of a whole file: a reader
  finds whole ones. Copies are made in a thread, every 5 s, and less often the
  longer they take. `flush` makes what is there by now safe at once.
  """

  def __init__(self, folder: pathlib.Path, target: Address):
    """Begins to follow `folder`, which may be empty."""
    self._folder, self._target = folder, target
    self._copied: dict[pathlib.Path, tuple[int, int]] = {}
    self._copying = threading.Lock()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._follow, daemon=True)
    self._thread.start()

  def _follow(self) -> None:
    pause = _PAUSE
    while not self._ended.wait(pause):
      began = time.monotonic()
      try:
        self.flush()
      except OSError:
        pause = _PAUSE  # `flush` of the run says what is wrong, if it lasts
      else:
        pause = max(_PAUSE, _SHARE * (time.monotonic() - began))

  def flush(self) -> None:
    """Copies what has changed since its last copy.

    Raises:
      StoreError: the store does not take it.
    """
    with self._copying:
      for path in sorted(p for p in self._folder.rglob("*") if p.is_file()):
        facts = path.stat()
        found = facts.st_size, facts.st_mtime_ns
        if found[0] and self._copied.get(path) != found:
          name = path.relative_to(self._folder).as_posix()
          (self._target / name).write_bytes(path.read_bytes())
          self._copied[path] = found

  def close(self) -> None:
    """Copies what is left and ends the thread."""
    self._ended.set()
    self.flush()
    self._thread.join()
