"""Writes a network as one file that runs anywhere, with a certificate.

The file takes pictures as they are decoded, uint8 RGB (batch, height, width,
3), and gives labels; FILE.certificate.json beside it says how far it is from
the network, on which pictures, in which runtime. See docs/deploy.md.
"""

import argparse
import re
import sys

from deeplab_jax import messages, runtime
from deeplab_jax.export.exporting import export
from deeplab_jax.export.formats import FORMATS
from deeplab_jax.export.program import OUTPUTS


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = vars(_parser().parse_args(arguments))
  names = "checkpoint", "out", "format"
  checkpoint, out, format = map(options.pop, names)
  options["sizes"] = options.pop("size") or ()
  try:
    runtime.start_runtime()
    facts = export(checkpoint, out, format, tell=_tell, **options)
  except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    return messages.tell(error)
  _tell(f"{out}: {facts['bytes'] / 1e6:.1f} MB, {facts['contents']}")
  return 0


def _tell(line: str) -> None:
  print(messages.printable(line), flush=True)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m deeplab_jax.export", description=__doc__
  )
  add = parser.add_argument
  add("checkpoint", help="workdir, step in it, or imported model directory")
  add("--format", required=True, help=f"one of {', '.join(FORMATS)}")
  add("--out", required=True, metavar="FILE", help="the file to write")
  add("--output", default="labels", help=f"one of {', '.join(OUTPUTS)}")
  size = (
    "height and width of the pictures, any by default; stablehlo takes more"
  )
  add("--size", type=_size, action="append", metavar="HxW", help=size)
  add("--scales", type=_scales, default=(1.0,), help="average over these")
  add("--flip", action="store_true", help="average over mirror images, too")
  add("--output_stride", type=int, help="8, 16 or 32; the model's by default")
  add("--overwrite", action="store_true", help="replace files that are there")
  return parser


def _size(text: str) -> tuple[int, int]:
  if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
    raise argparse.ArgumentTypeError(
      f"must be HxW, such as 513x513; got {text}"
    )
  return int(found[1]), int(found[2])


def _scales(text: str) -> tuple[float, ...]:
  try:
    return tuple(map(float, text.split(",")))
  except ValueError:
    message = f"must be numbers with commas, such as 0.75,1,1.25; got {text!r}"
    raise argparse.ArgumentTypeError(message) from None


if __name__ == "__main__":
  sys.exit(main())
