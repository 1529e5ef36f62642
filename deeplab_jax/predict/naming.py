"""Which pictures to read, and under which name their results go."""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from deeplab_jax import remote
from deeplab_jax.predict import sources
from deeplab_jax.predict.sources import Member, Source

LABELS, OVERLAYS = "labels", "overlays"
PROBABILITIES, UNCERTAINTY = "probabilities", "uncertainty"
KINDS = (LABELS, OVERLAYS, PROBABILITIES, UNCERTAINTY)
"""What can be had of a picture: folders below that of the results."""
POLYGONS = "polygons"
"""The folder of what can be had of a raster with a place on earth beside."""

_LONGEST = 60  # letters of a class's folder

# HEIC cannot be read; it is tried so that its pictures are named as failed.
_PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif")
_PICTURES += (".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".avif")
_PICTURES += (".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".psd", ".heic", ".heif")


class Job(NamedTuple):
  """One picture and the name of its results.

  Attributes:
    source: path of the picture, its address, or its place in a tar file.
    name: relative path of its results, ending in ".png".
  """

  source: Source
  name: str


def find_jobs(
  inputs: Iterable[str | os.PathLike | remote.Address],
  out: str | os.PathLike | remote.Address,
  *,
  arrays: bool = False,
) -> list[Job]:
  """The pictures named by `inputs`, each with a name of its own.

  A picture given by its path goes to `<stem>.png`, one found in a folder keeps
  its place in the folder's tree: `<below folder>/<stem>.png`. Where that would
  be the same for several, the ending stays (`<stem>.jpg.png`), and if that does
  not tell them apart either, they are numbered (`<stem>.jpg.2.png`). Pictures
  in a tar file go to `<stem of the tar file>/<path there>.png`.

  Args:
    inputs: files, taken whatever their name; folders, searched to any depth
      for files with the ending of a picture; tar files, likewise. Each may be
      in an object store.
    out: folder of the results, which are passed over when searching.
    arrays: whether .npy files are pictures, too.

  Raises:
    ValueError: a folder holds no picture, or a result would replace a picture.
  """
  out = remote.as_path(out)
  out = out if isinstance(out, remote.Address) else out.resolve()
  results = [out / kind for kind in KINDS]
  found = {}  # the same file may be named twice
  for path in map(remote.as_path, inputs):
    if isinstance(path, remote.Address) and not _is_one_picture(path):
      named = _in_store(path, results, arrays)
    elif not path.is_dir() and sources.is_archive(path):
      named = _in_archive(path, arrays)
    elif isinstance(path, remote.Address):
      named = [(path, pathlib.PurePosixPath(path.name))]
    elif path.is_dir():
      found_here = _pictures(path, results, arrays)
      named = ((p, p.relative_to(path)) for p in found_here)
    else:
      named = [(path, pathlib.Path(path.name))]
    for source, name in named:
      local = isinstance(source, pathlib.Path)
      key = os.path.abspath(source) if local else str(source)
      found.setdefault(key, (source, name))
  names = _distinct_names([name for _, name in found.values()])
  jobs = [Job(source, name) for (source, _), name in zip(found.values(), names)]
  _refuse_to_replace(jobs, results)
  return jobs


def results_of(
  job: Job, kinds: Iterable[str], folders: Sequence[str] = ()
) -> list[str]:
  """Paths below the folder of the results of all that is written of a picture.

  Args:
    job: the picture.
    kinds: of `KINDS`.
    folders: `class_folders` where classes overlap.
  """
  names = {kind: [job.name] for kind in KINDS}
  names[PROBABILITIES] = [f"{job.name.removesuffix('.png')}.npy"]
  if folders:
    names[LABELS] = [f"{folder}/{job.name}" for folder in folders]
  return [f"{kind}/{name}" for kind in kinds for name in names[kind]]


def class_folders(class_names: Sequence[str]) -> list[str]:
  """A name of a folder for each class, which no other class has.

  What file systems do not take becomes "_"; capitals do not tell names apart.
  """
  found = []
  for index, name in enumerate(class_names):
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(" .")[:_LONGEST]
    taken = {other.casefold() for other in found}
    if not plain or plain.casefold() in taken:
      plain = f"{plain}_{index}"
    found.append(plain)
  return found


def _is_one_picture(address: remote.Address) -> bool:
  """Whether an address is of a picture or a tar file, not of a folder."""
  if sources.is_archive(address) or _looks_like_picture(address.name):
    return not address.is_dir()
  return address.is_file()


def _in_store(
  folder: remote.Address, results: list[remote.AnyPath], arrays: bool
) -> list[tuple[remote.Address, pathlib.PurePosixPath]]:
  """The pictures of a store below `folder` but not below `results`."""
  left_out = tuple(f"{result}/" for result in results)
  names = [
    pathlib.PurePosixPath(name)
    for name in folder.below()
    if _looks_like_picture(name.rpartition("/")[2], arrays)
    and not any(part.startswith(".") for part in name.split("/"))
    and not f"{folder}/{name}".startswith(left_out)
  ]
  if not names:
    raise ValueError(f"no pictures in {folder}, and it is none itself")
  return [(folder / str(name), name) for name in sorted(names)]


def _in_archive(
  archive: remote.AnyPath, arrays: bool
) -> list[tuple[Member, pathlib.PurePosixPath]]:
  """The pictures in a tar file, in their order there."""
  folder = pathlib.PurePosixPath(archive.stem)
  found = [
    member
    for member in sources.members(archive)
    if _looks_like_picture(member.name, arrays)
  ]
  if not found:
    raise ValueError(f"no pictures in {archive}")
  return [(member, folder / _inside(member.path)) for member in found]


def _inside(path: str) -> str:
  """A path of an archive that cannot lead out of the folder of its results."""
  parts = pathlib.PurePosixPath(path).parts
  return "/".join(p for p in parts if p not in ("/", "..", "."))


def folders_like_pictures(inputs: Iterable[str | os.PathLike]) -> list[str]:
  """Those of `inputs` that are folders but have the ending of a picture."""
  return [
    str(path)
    for path in map(remote.as_path, inputs)
    if isinstance(path, pathlib.Path)
    and _looks_like_picture(path.name)
    and path.is_dir()
  ]


def _refuse_to_replace(jobs: list[Job], results: list[pathlib.Path]) -> None:
  local = isinstance(results[0], pathlib.Path)
  taken = {
    job.source.resolve() if local else job.source
    for job in jobs
    if isinstance(job.source, type(results[0]))
  }
  if not taken:
    return
  for job, folder in itertools.product(jobs, results):
    place = folder / job.name
    if (place.resolve() if local else place) in taken:
      raise ValueError(
        f"the result of {job.source} would replace the picture "
        f"{folder / job.name}: give another --out"
      )


def _pictures(
  folder: pathlib.Path, results: list[pathlib.Path], arrays: bool
) -> list[pathlib.Path]:
  """The pictures below `folder` but not below `results`, in order of name."""
  found = []
  for root, folders, files in os.walk(folder):
    root = pathlib.Path(root)
    folders[:] = [
      name
      for name in folders
      if not name.startswith(".") and (root / name).resolve() not in results
    ]
    found += [
      root / name for name in files if _looks_like_picture(name, arrays)
    ]
  if not found:
    raise ValueError(
      f"no pictures in folder {folder}: in folders, names must have the ending "
      "of a picture, such as .jpg; files that are named themselves need none"
    )
  return sorted(found)


def _looks_like_picture(name: str, arrays: bool = False) -> bool:
  endings = (*_PICTURES, ".npy") if arrays else _PICTURES
  return not name.startswith(".") and name.lower().endswith(endings)


def _distinct_names(paths: list[pathlib.Path]) -> Iterator[str]:
  """One name per path, see `find_jobs`; capitals do not tell names apart."""
  short = [path.with_suffix(".png").as_posix() for path in paths]
  counts = collections.Counter(name.casefold() for name in short)
  taken = {name for name, count in counts.items() if count == 1}
  for path, name in zip(paths, short):
    if name.casefold() not in taken:
      name = next(n for n in _long_names(path) if n.casefold() not in taken)
      taken.add(name.casefold())
    yield name


def _long_names(path: pathlib.Path) -> Iterator[str]:
  yield f"{path.as_posix()}.png"
  for number in itertools.count(2):
    yield f"{path.as_posix()}.{number}.png"
