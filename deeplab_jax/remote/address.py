"""Addresses of object stores, to be used as `pathlib.Path` is."""

import functools
import io
import pathlib
import posixpath
import re
import sys
from collections.abc import Iterator
from typing import Any

from deeplab_jax.remote import store

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?")


@functools.total_ordering
class Address:
  """A place such as gs://bucket/runs/voc: an object, a folder, or nothing yet.

  A folder is what objects have in common before a slash: it needs no making,
  and is gone with the last of them.
  """

  __slots__ = ("_key", "_name", "_scheme")

  def __init__(self, text: "str | Address"):
    """Takes apart an address.

    Raises:
      ValueError: it is none, or of a store that is not supported.
    """
    match = re.fullmatch(r"(gs|s3)://([^/]+)(?:/(.*))?", str(text), re.DOTALL)
    if not match:
      schemes = " or ".join(f"{s}://BUCKET/..." for s in store.SCHEMES)
      raise ValueError(f"an address must be {schemes}, got {str(text)!r}")
    self._scheme, self._name, key = match.groups()
    parts = [p for p in (key or "").split("/") if p not in ("", ".")]
    if ".." in parts:
      raise ValueError(f"an address must not hold '..', got {str(text)!r}")
    self._key = "/".join(parts)

  def __str__(self) -> str:
    return f"{self._scheme}://{self._name}/{self._key}".rstrip("/")

  def __repr__(self) -> str:
    return f"Address({str(self)!r})"

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Address) and str(self) == str(other)

  def __lt__(self, other: "Address") -> bool:
    return self.parts < other.parts

  def __hash__(self) -> int:
    return hash(str(self))

  def __truediv__(self, below: str) -> "Address":
    return Address(f"{self}/{below}")

  @property
  def parts(self) -> tuple[str, ...]:
    """Bucket and names, as those of a path."""
    root = f"{self._scheme}://{self._name}"
    return (root, *self._key.split("/")) if self._key else (root,)

  @property
  def name(self) -> str:
    """The last name; that of the bucket if there is no other."""
    return posixpath.basename(self._key) or self._name

  @property
  def suffix(self) -> str:
    """The ending of the name, such as ".png"."""
    return pathlib.PurePosixPath(self.name).suffix

  @property
  def stem(self) -> str:
    """The name without its ending."""
    return pathlib.PurePosixPath(self.name).stem

  @property
  def parent(self) -> "Address":
    """The folder above; the bucket's is the bucket itself."""
    return Address("/".join(self.parts[:-1])) if self._key else self

  @property
  def parents(self) -> list["Address"]:
    """All folders above, the nearest first."""
    return [
      Address("/".join(self.parts[:count]))
      for count in range(len(self.parts) - 1, 0, -1)
    ]

  def joinpath(self, *below: str) -> "Address":
    """What is below it by these names."""
    return Address("/".join([str(self), *below]))

  def with_name(self, name: str) -> "Address":
    """The same folder's `name`."""
    return self.parent / name

  def with_suffix(self, suffix: str) -> "Address":
    """The same with another ending."""
    return self.with_name(f"{self.stem}{suffix}")

  @property
  def bucket(self) -> store.Bucket:
    """What serves it."""
    return store.bucket(self._scheme, self._name)

  def read_bytes(self, begin: int = 0, end: int | None = None) -> bytes:
    """The content of the object, or its bytes from `begin` to before `end`.

    Raises:
      FileNotFoundError: there is none.
      EOFError: it has fewer bytes.
    """
    content = self.bucket.read(self._key, begin, end) if self._key else None
    if content is None:
      raise FileNotFoundError(2, "No such object", str(self))
    return content

  def read_text(self) -> str:
    """The same as text in UTF-8."""
    return self.read_bytes().decode()

  def open(self, mode: str = "rb") -> io.BytesIO:
    """The content, all of which is read now."""
    if mode != "rb":
      raise ValueError(f"mode must be rb, got {mode}")
    return io.BytesIO(self.read_bytes())

  def write_bytes(self, content: bytes, new: bool = False) -> bool:
    """Puts the object whole; with `new` only where none is, else False."""
    return self.bucket.write(self._key, content, new)

  def unlink(self, missing_ok: bool = True) -> None:
    """Removes the object; a missing one is no fault."""
    del missing_ok
    self.bucket.delete(self._key)

  def below(self) -> list[str]:
    """What is below it, in order, each relative to it."""
    return self.bucket.keys(f"{self._key}/" if self._key else "")

  def names(self) -> list[str]:
    """The names of what is right below it, in order."""
    return sorted({key.partition("/")[0] for key in self.below()})

  def iterdir(self) -> Iterator["Address"]:
    """What is right below it."""
    return (self / name for name in self.names())

  def is_dir(self) -> bool:
    """Whether anything is below it."""
    return bool(self.below())

  def is_file(self) -> bool:
    """Whether there is an object; a bucket is none."""
    if not self._key:
      return False
    return "" in self.bucket.keys(self._key)

  def exists(self) -> bool:
    """Whether there is an object or anything below it."""
    if not self._key:
      return True
    keys = self.bucket.keys(self._key)
    return any(not key or key.startswith("/") for key in keys)

  def mkdir(self, **_: Any) -> None:
    """Does nothing: a folder needs no making."""


AnyPath = pathlib.Path | Address


def is_address(path: object) -> bool:
  """Whether `path` is of an object store: a scheme and slashes begin it."""
  return isinstance(path, Address) or bool(
    isinstance(path, str) and _ADDRESS.match(path)
  )


def as_path(path: Any) -> AnyPath:
  """What a user gives for a file or folder, as an address or as a path.

  Raises:
    ValueError: an address of a store that is not supported.
  """
  if isinstance(path, Address):
    return path
  text = str(path)
  match = _ADDRESS.match(text)
  if not match or (sys.platform == "win32" and len(match[1]) == 1):
    return pathlib.Path(path)
  scheme = match[1].lower()
  if isinstance(path, pathlib.Path):  # which has made one slash of two
    text = f"{match[1]}://{text[match.end() :]}"
  if scheme not in store.SCHEMES:
    raise ValueError(
      f"an address must begin with gs:// or s3://, got {path}; mount other "
      "stores and give the folder where they are: see docs/scaling.md"
    )
  return Address(text)


def require_writable(path: Any) -> None:
  """Finds out before any work whether an address can be written below.

  Of folders their own errors tell, at once.

  Raises:
    StoreError: it cannot.
  """
  path = as_path(path)
  if isinstance(path, Address):
    probe = path / ".deeplab_jax_was_here"
    probe.write_bytes(b"1")
    probe.unlink()
