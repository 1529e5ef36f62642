"""Prints what a network costs: `python -m deeplab_jax.summary xception_65`.

Parameters, exact multiply-adds and activation bytes per module, and the total
by the paper's convention. Nothing is run.
"""

import argparse
import sys

import rich.console

from deeplab_jax.models import BACKBONES, DeepLab
from deeplab_jax.summary import multiply_adds, paper_multiply_adds
from deeplab_jax.summary.counting import TABLE_WIDTH


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = _parser().parse_args(arguments)
  size = tuple(options.size * 2)[:2]
  try:
    summary = multiply_adds(_model(options), size)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  console = rich.console.Console(width=TABLE_WIDTH)
  console.print(summary.table(options.depth))
  console.print(
    f"{summary.total / 1e9:.2f} B multiply-adds,"
    f" {paper_multiply_adds([summary], size) / 1e9:.2f} B by the paper's"
    f" convention, {summary.parameters:,} parameters"
  )
  return 0


def _model(options):
  published = BACKBONES[options.backbone]
  return DeepLab(
    options.num_classes,
    options.backbone,
    output_stride=options.output_stride,
    width_multiplier=options.width_multiplier,
    head=options.head or published.head,
    atrous_rates=() if options.no_rates else (6, 12, 18),
    decoder=() if options.no_decoder else published.decoder,
    aspp_separable=not options.plain,
    decoder_separable=not options.plain,
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m deeplab_jax.summary", description=__doc__
  )
  add = parser.add_argument
  add("backbone", metavar="BACKBONE", choices=sorted(BACKBONES))
  add("--output_stride", type=int, default=16, help="8, 16 or 32")
  add("--size", type=int, nargs="+", default=[513], help="side, or H W")
  add("--num_classes", type=int, default=21)
  add("--width_multiplier", type=float, default=1.0, help="of MobileNetV2")
  add("--head", default="", help="aspp, dpc, lraspp; default: as published")
  add("--no_rates", action="store_true", help="ASPP without atrous branches")
  add("--no_decoder", action="store_true", help="logits at the output stride")
  add("--plain", action="store_true", help="no separable convolutions in heads")
  add("--depth", type=int, default=2, help="of the modules listed")
  return parser


if __name__ == "__main__":
  sys.exit(main())
