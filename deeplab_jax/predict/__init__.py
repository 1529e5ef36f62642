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
labels of a whole test split for its server, see `packages`.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from deeplab_jax import messages, runtime
from deeplab_jax.checkpoints.model_directory import find_step, read_model
from deeplab_jax.data import bands
from deeplab_jax.inference import load
from deeplab_jax.inference.protocol import scales_argument
from deeplab_jax.models import INFERENCE_DTYPES
from deeplab_jax.predict import geo, polygons
from deeplab_jax.predict.files import Failure, predict_files
from deeplab_jax.predict.naming import (
  LABELS,
  OVERLAYS,
  PROBABILITIES,
  UNCERTAINTY,
  Job,
  find_jobs,
  folders_like_pictures,
)
from deeplab_jax.predict.packages import SERVERS, pack
from deeplab_jax.predict.reading import (
  read_for,
  read_image,
  remarks,
  takes_rgb,
)

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
  is_rgb = takes_rgb(read_model(find_step(flags.checkpoint)))
  jobs = find_jobs(flags.inputs, flags.out, arrays=not is_rgb)
  rasters = [job for job in jobs if geo.is_raster(job.source)]
  if flags.polygons:
    bands.import_rasterio("raster whose polygons are wanted")
    if without := len(jobs) - len(rasters):
      line = f"{without} pictures have no place on earth and get no polygons"
      print(f"warning: {line}", file=sys.stderr)
  kinds = _kinds(flags)
  _make_folders(flags.out, kinds)
  segmenter = load(
    flags.checkpoint, flags.output_stride, flags.dtype, **_protocol(flags)
  )
  if flags.package and segmenter.thresholds is not None:
    raise ValueError(
      f"--package {flags.package} is of one class a pixel, but those of "
      f"{flags.checkpoint} overlap; leave it out"
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
  for failure in failures:
    line = f"failed: {failure.source}: {failure.reason}"
    print(messages.printable(line), file=sys.stderr)
  if failures:
    return 1
  if flags.package:
    archive = pack(flags.package, jobs, flags.out)
    print(f"packed: {messages.printable(archive)}")
  return 0


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
    "inputs", nargs="+", metavar="IMAGE_OR_FOLDER", help="pictures, or folders"
  )
  parser.add_argument("--out", required=True, help="folder of the results")
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
