"""Writes a network as one file that runs anywhere, with a certificate.

The file takes pictures as they are decoded, uint8 RGB (batch, height, width,
3), and gives labels; FILE.certificate.json beside it says how far it is from
the network, on which pictures, in which runtime. Format web writes a folder
with a page for browsers around such a file. See docs/deploy.md.
"""

import sys

from deeplab_jax import messages, runtime
from deeplab_jax.export.command import export_any, parser


def main(arguments: list[str] | None = None) -> int:
  """Parses `arguments` (default: the command line); gives the exit status."""
  options = vars(parser(__doc__).parse_args(arguments))
  try:
    runtime.start_runtime()
    facts = export_any(tell=_tell, **options)
  except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    return messages.tell(error)
  _tell(f"{options['out']}: {facts['bytes'] / 1e6:.1f} MB, {facts['contents']}")
  return 0


def _tell(line: str) -> None:
  print(messages.printable(line), flush=True)


if __name__ == "__main__":
  sys.exit(main())
