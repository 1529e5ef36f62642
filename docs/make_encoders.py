"""The table of docs/encoders.md: what every encoder costs at every stride.

  python -m docs.make_encoders

writes it over the one in the page. Parameters and multiply-adds are counted
from shapes; errors are those of docs/exactness.md.
"""

import pathlib
import re

from deeplab_jax.models import DeepLab, convnext, efficient, vit
from deeplab_jax.summary import multiply_adds

_FOLDER = pathlib.Path(__file__).parent
_HEADING = """\
| encoder | parameters, M | multiply-adds, G, at 8 | at 16 | at 32 | error |
| --- | --- | --- | --- | --- | --- |
"""
_SIZE = (513, 513)
ENCODERS = (*convnext.VARIANTS, *efficient.VARIANTS, *vit.VARIANTS)


def row(encoder: str, errors: dict[str, float]) -> str:
  """The line of `encoder`; `errors` are those to timm's, by name."""
  counts = []
  for stride in (8, 16, 32):
    model = DeepLab(2, encoder, stride, atrous_rates=(), decoder=())
    summary = multiply_adds(model, _SIZE)
    counts.append(f"{summary.parts['backbone'] / 1e9:.2f}")
  layers = [x for x in summary.layers if x.path.startswith("backbone/")]
  millions = sum(layer.parameters for layer in layers) / 1e6
  error = f"{errors[encoder]:.1e}" if encoder in errors else "not yet run"
  return f"| {encoder} | {millions:.2f} | {' | '.join(counts)} | {error} |"


def errors_of(page: str) -> dict[str, float]:
  """The worst error to timm's features by encoder, from docs/exactness.md."""
  worst = {}
  pattern = r"^\| timm (\w+) \| (?:features|tokens), [^|]*\| (\S+) \|"
  for encoder, error in re.findall(pattern, page, re.MULTILINE):
    worst[encoder] = max(worst.get(encoder, 0.0), float(error))
  return worst


def main() -> None:
  """Writes the table; the prose before it stays."""
  page = _FOLDER / "encoders.md"
  errors = errors_of((_FOLDER / "exactness.md").read_text())
  prose = page.read_text().partition(_HEADING)[0]
  lines = [row(encoder, errors) for encoder in ENCODERS]
  page.write_text(prose + _HEADING + "\n".join(lines) + "\n")


if __name__ == "__main__":
  main()
