"""Builds a data set once: `python -m deeplab_jax.prepare NAME`.

A build that is killed leaves nothing that looks finished; the same command
starts it again and reuses what was downloaded. With `--data_dir
gs://BUCKET/data`, or s3://..., what was built is published there: see
docs/data.md.
"""

import argparse
import sys

from deeplab_jax import messages, remote
from deeplab_jax.data.datasets import DATASETS


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = _parser().parse_args(arguments)
  from deeplab_jax.data import build, published  # TFDS takes a while to import
  from deeplab_jax.data.annotations.options import Options
  from deeplab_jax.data.builders.folder_tiles import Tiling

  try:
    reading = {
      "nodata": options.nodata,
      "channels": options.channels,
      "tiling": Tiling(options.tile, options.tile_overlap, options.tile_nodata),
      "multilabel": options.multilabel,
      "options": Options(options.format, options.order, options.unannotated),
    }
    folder = build.directory(
      options.name,
      options.data_dir,
      options.manual_dir,
      **reading,
    )
    how = {
      "manual_dir": options.manual_dir,
      "skip_bad": options.skip_bad,
      "partial": options.partial,
    }
    if isinstance(folder, remote.Address):
      skipped = published.publish(options.name, folder, **how, **reading)
    else:
      skipped = build.build(options.name, folder=folder, **how, **reading)
  except Exception as error:
    return messages.tell(error)
  print(f"{options.name} is in {folder}")
  if options.name == "folder" and isinstance(folder, remote.Address):
    print(
      f"train with --config.data.name=folder --config.data.data_dir="
      f"{folder.parent.parent.parent} --config.data.path={folder.parent.name}"
    )
  for line in build.said(folder):
    print(line)
  for line in build.remarks(folder):
    print(f"warning: {line}")
  if skipped:
    lines = map(messages.printable, skipped)
    print(f"{len(skipped)} examples left out:", *lines, sep="\n  ")
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m deeplab_jax.prepare", description=__doc__
  )
  parser.add_argument(
    "name",
    metavar="NAME",
    choices=sorted(DATASETS),
    help=f"one of {', '.join(sorted(DATASETS))}",
  )
  parser.add_argument(
    "--manual_dir",
    default="",
    help="folder with the files you downloaded, as archives or extracted; of "
    "the data set folder your own, an archive of it, or a json in it",
  )
  parser.add_argument(
    "--data_dir",
    default="",
    help="where data sets are kept, a folder, gs://BUCKET/data or "
    "s3://BUCKET/data; $TFDS_DATA_DIR or ~/tensorflow_datasets",
  )
  parser.add_argument(
    "--nodata",
    type=float,
    help="number of a folder's masks that means that nothing is known",
  )
  parser.add_argument(
    "--channels",
    type=int,
    default=0,
    help="of a folder's pictures, read as they are, with all their bits; by "
    "default red, green and blue of 8 bits",
  )
  parser.add_argument(
    "--tile",
    type=int,
    default=0,
    help="side of the tiles that a folder's rasters are cut into",
  )
  parser.add_argument(
    "--tile_overlap",
    type=int,
    default=0,
    help="pixels that neighbouring tiles share",
  )
  parser.add_argument(
    "--tile_nodata",
    type=float,
    default=0.5,
    help="share of a tile that may be ignored; others are left out",
  )
  parser.add_argument(
    "--multilabel",
    action="store_true",
    help="classes of a folder overlap: masks are channels, or files a class",
  )
  parser.add_argument(
    "--format",
    default="",
    help="of a folder's annotations, where it holds several",
  )
  parser.add_argument(
    "--order",
    default="",
    help="of a folder's objects: area, listed, or names of classes",
  )
  parser.add_argument(
    "--unannotated",
    default="",
    help="pictures of a folder without annotation: background or skip",
  )
  parser.add_argument(
    "--skip_bad",
    action="store_true",
    help="leave out and list unusable examples instead of stopping at one",
  )
  parser.add_argument(
    "--partial",
    action="store_true",
    help="accept a sample: any number of examples, any checksum",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
