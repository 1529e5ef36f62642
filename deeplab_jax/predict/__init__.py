"""Labels the pictures of files and folders.

  python -m deeplab_jax.predict CHECKPOINT IMAGE_OR_FOLDER... --out DIR

DIR/labels/<name>.png holds class numbers, with the classes' colours as palette
(where classes overlap, DIR/labels/<class>/<name>.png, white where a class is);
DIR/overlays/<name>.png shows them over the picture, with their names below it,
unless --no_overlay is given. --probabilities adds DIR/probabilities/<name>.npy,
--uncertainty adds DIR/uncertainty/<name>.png; see `predict_files`. Of a TIFF
with a place on earth these are TIFFs of that place, and --polygons adds
DIR/polygons/<name>.geojson or .gpkg; this needs rasterio. Exit status 1 if a
picture could not be done; the others are. `--package NAME` also packs the
labels of a whole test split for its server, see `packages`. CHECKPOINT, DIR and
pictures may be in an object store, and pictures in tar files. With
`--share INDEX/COUNT` several processes label together, with `--resume` they go
on where they were cut off, see `shares`.
"""

import argparse
import hashlib
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from deeplab_jax import messages, remote, runtime
from deeplab_jax.checkpoints.model_directory import find_step, read_description
from deeplab_jax.data import bands
from deeplab_jax.inference import load
from deeplab_jax.inference.protocol import (
  Protocol,
  scales_argument,
  stored_class_names,
  stored_thresholds,
)
from deeplab_jax.models import INFERENCE_DTYPES
from deeplab_jax.predict import geo, polygons, shares
from deeplab_jax.predict.files import (
  Failure,
  predict_files,
  results_of_raster,
)
from deeplab_jax.predict.naming import (
  LABELS,
  OVERLAYS,
  PROBABILITIES,
  UNCERTAINTY,
  Job,
  class_folders,
  find_jobs,
  folders_like_pictures,
  results_of,
)
from deeplab_jax.predict.packages import SERVERS, pack
from deeplab_jax.predict.reading import (
  read_for,
  read_image,
  remarks,
  takes_rgb,
)
from deeplab_jax.predict.sources import read_list

__all__ = [
  "SERVERS",
  "Failure",
  "Job",
  "find_jobs",
  "main",
  "pack",
  "predict_files",
  "read_for",
  "read_image",
  "remarks",
  "results_of",
]


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command with `arguments`, by default those of the command line.

  Returns:
    the exit status.
  """
  flags = _parse(arguments)
  try:
    return _run(flags)
  except Exception as error:
    return messages.tell(error)


def _run(flags: argparse.Namespace) -> int:
  runtime.start_runtime()
  began = time.monotonic()
  for folder in folders_like_pictures(flags.inputs):
    line = f"{folder} is a folder: the pictures in it are taken"
    print(messages.printable(line), file=sys.stderr)
  inputs = [*flags.inputs]
  for path in flags.list or ():
    inputs += read_list(path)
  if not inputs:
    raise ValueError("give pictures, folders or tar files, or --list FILE")
  share = shares.parse(flags.share) if flags.share else None
  if share and flags.package:
    raise ValueError("--package needs all labels: give it without --share")
  model, facts = read_description(find_step(flags.checkpoint))
  is_rgb, overlap = takes_rgb(model), stored_thresholds(facts) is not None
  for flag in ("package", "polygons"):
    if (asked := getattr(flags, flag)) and overlap:
      raise ValueError(
        f"--{flag} {asked} is of one class a pixel, but those of "
        f"{flags.checkpoint} overlap; leave it out"
      )
  jobs = every = find_jobs(inputs, flags.out, arrays=not is_rgb)
  rasters = [job for job in jobs if geo.is_raster(job.source)]
  if rasters and remote.is_address(flags.out):
    raise ValueError(
      f"--out must be a folder here for TIFFs with a place on earth, such as "
      f"{rasters[0].source}, got {flags.out}"
    )
  if flags.polygons:
    bands.import_rasterio("raster whose polygons are wanted")
    if without := len(jobs) - len(rasters):
      line = f"{without} pictures have no place on earth and get no polygons"
      print(f"warning: {line}", file=sys.stderr)
  kinds = _kinds(flags)
  _make_folders(flags.out, kinds)
  if share or flags.resume:
    names = stored_class_names(facts, model.num_classes)
    folders = class_folders(names) if overlap else []
    jobs, skipped = _left(flags, jobs, share, kinds, folders, {*rasters})
  segmenter = load(
    flags.checkpoint,
    flags.output_stride,
    flags.dtype,
    mesh_height=flags.mesh_height,
    **_protocol(flags),
  )
  others = [job.source for job in jobs if job not in rasters]
  for line in remarks(others, is_rgb):
    print(f"warning: {line}", file=sys.stderr)
  failures = predict_files(
    segmenter,
    jobs,
    flags.out,
    kinds,
    show_progress=True,
    polygons=flags.polygons,
  )
  seconds = time.monotonic() - began
  done = len(jobs) - len(failures)
  out = messages.printable(flags.out)
  print(f"{done} of {len(jobs)} pictures done in {seconds:.1f} s: {out}")
  if share or flags.resume:
    _summarise(flags, share, skipped, jobs, failures, seconds)
  for failure in failures:
    line = f"failed: {failure.source}: {failure.reason}"
    print(messages.printable(line), file=sys.stderr)
  if failures:
    return 1
  if flags.package:
    archive = pack(flags.package, every, flags.out)
    print(f"packed: {messages.printable(archive)}")
  return 0


def _left(
  flags: argparse.Namespace,
  jobs: Sequence[Job],
  share: shares.Share | None,
  kinds: Sequence[str],
  folders: Sequence[str],
  rasters: set[Job],
) -> tuple[list[Job], int]:
  """What this process has to do, and how much of its share is done already.

  `folders` are those of classes that overlap, `rasters` jobs of their own kind.
  """
  out = remote.as_path(flags.out)
  max_pixels = _protocol(flags).get("max_pixels", Protocol.max_pixels)

  def results(job: Job) -> list[str]:
    if job in rasters:
      return results_of_raster(job, kinds, flags.polygons, max_pixels)
    return results_of(job, kinds, folders)

  settings = {
    "checkpoint": _identity(flags.checkpoint),
    "kinds": list(kinds),
    "output_stride": flags.output_stride,
    "dtype": flags.dtype,
    **_protocol(flags),
  }
  shares.require_same_settings(out, settings, flags.resume)
  mine = shares.of_share(jobs, share or shares.Share(0, 1))
  left = shares.undone(mine, out, results) if flags.resume else mine
  return left, len(mine) - len(left)


def _identity(checkpoint: str) -> str:
  """Tells the weights of a checkpoint from others, wherever they are."""
  step = find_step(checkpoint)
  sums = step / "checksums.json"
  text = sums.read_bytes() if sums.is_file() else str(step).encode()
  return f"{step.name} {hashlib.sha256(text).hexdigest()[:16]}"


def _summarise(
  flags: argparse.Namespace,
  share: shares.Share | None,
  skipped: int,
  jobs: Sequence[Job],
  failures: Sequence[Failure],
  seconds: float,
) -> None:
  """Notes and says what this share has done, and all of them if it is last."""
  if skipped:
    print(f"{skipped} pictures were done before")
  facts = {
    "pictures": len(jobs) + skipped,
    "done": len(jobs) - len(failures),
    "skipped": skipped,
    "seconds": round(seconds, 1),
    "failures": [f"{failure.source}: {failure.reason}" for failure in failures],
  }
  out = remote.as_path(flags.out)
  total = shares.write_summary(out, share or shares.Share(0, 1), facts)
  if total is not None and share is not None:
    where = messages.printable(out / shares.SUMMARY)
    print(
      f"all {total['shares']} shares: {total['done'] + total['skipped']} of "
      f"{total['pictures']} pictures are labelled: {where}"
    )


def _kinds(flags: argparse.Namespace) -> list[str]:
  """What to write of each picture."""
  asked = {
    LABELS: True,
    OVERLAYS: not flags.no_overlay,
    PROBABILITIES: flags.probabilities,
    UNCERTAINTY: flags.uncertainty,
  }
  return [kind for kind, is_asked in asked.items() if is_asked]


def _protocol(flags: argparse.Namespace) -> dict[str, Any]:
  """How pictures are looked at: arguments of `Segmenter`."""
  protocol = {"scales": flags.scales, "flip": flags.flip}
  if flags.tile is None:
    return protocol
  return protocol | {"tile": flags.tile, "max_pixels": max(flags.tile, 1) ** 2}


def _make_folders(out: str, kinds: Sequence[str]) -> None:
  """Finds out before any work whether results can be written."""
  if remote.is_address(out):
    remote.require_writable(out)
    return
  for kind in kinds:
    try:
      pathlib.Path(out, kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ValueError(f"--out {out}: {error}") from error


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "python -m deeplab_jax.predict", description="Labels pictures."
  )
  parser.add_argument(
    "checkpoint", help="workdir, step in it, or imported model directory"
  )
  parser.add_argument(
    "inputs",
    nargs="*",
    metavar="IMAGE_OR_FOLDER",
    help="pictures, folders, or tar files of pictures",
  )
  parser.add_argument(
    "--list",
    action="append",
    metavar="FILE",
    help="a text file with a picture, folder or tar file a line",
  )
  parser.add_argument("--out", required=True, help="folder of the results")
  parser.add_argument(
    "--share",
    metavar="INDEX/COUNT",
    help="label every COUNT-th picture, from INDEX on, such as 0/8; auto takes "
    "both from SLURM, Kubernetes or JAX's variables",
  )
  parser.add_argument(
    "--resume", action="store_true", help="leave out what DIR holds already"
  )
  parser.add_argument(
    "--output_stride", type=int, help="8, 16 or 32; the model's by default"
  )
  parser.add_argument(
    "--dtype",
    choices=INFERENCE_DTYPES,
    help="what the network computes in; by default what it was trained in",
  )
  parser.add_argument(
    "--scales",
    type=scales_argument,
    default=(1.0,),
    help="average over these, such as 0.5,0.75,1,1.25,1.5,1.75",
  )
  parser.add_argument(
    "--flip", action="store_true", help="average over mirror images, too"
  )
  parser.add_argument(
    "--tile",
    type=int,
    help="side of the windows that pictures of more pixels than such a window "
    "are cut into, k * 32 + 1; by default 1025, for those above 2049 x 2049",
  )
  parser.add_argument(
    "--mesh_height",
    type=int,
    default=1,
    metavar="DEVICES",
    help="devices that share each picture, for pictures larger than one can "
    "hold; with --tile as large as these",
  )
  parser.add_argument(
    "--probabilities",
    action="store_true",
    help="also write those of all classes, .npy of float16 (h, w, classes)",
  )
  parser.add_argument(
    "--uncertainty",
    action="store_true",
    help="also write how unsure each pixel is, from black to white",
  )
  parser.add_argument(
    "--no_overlay", action="store_true", help="write no overlays"
  )
  parser.add_argument(
    "--polygons",
    choices=polygons.FORMATS,
    default="",
    help="also write the regions of a TIFF with a place on earth",
  )
  parser.add_argument(
    "--package", choices=SERVERS, help="also pack the labels for a test server"
  )
  return parser.parse_args(arguments)
