"""Packs folders as the official archives are, for the tests of builders."""

import pathlib
import tarfile
import zipfile


def pack(folder: pathlib.Path, archive: pathlib.Path, *names: str) -> None:
  """Writes `names` (default: all) of `folder` to a .zip, .tar or .tgz."""
  archive.parent.mkdir(parents=True, exist_ok=True)
  files = sorted(
    file
    for name in names or [""]
    for file in [folder / name, *(folder / name).rglob("*")]
    if file.is_file()
  )
  if archive.suffix == ".zip":
    with zipfile.ZipFile(archive, "w") as packed:
      for file in files:
        packed.write(file, file.relative_to(folder))
    return
  with tarfile.open(
    archive, "w:gz" if archive.suffix == ".tgz" else "w"
  ) as tar:
    for file in files:
      tar.add(file, file.relative_to(folder))
