"""The tables of docs/encoders.md: what every encoder costs at every stride.

  python -m docs.make_encoders

writes them over those in the page. Parameters and multiply-adds are counted
from shapes; errors are those of docs/exactness.md; times, and what
segmentation_models.pytorch answers, of docs/performance/cpu_encoders.json.
"""

import json
import pathlib
import re
from collections.abc import Sequence

from benchmarks.report import digits, markdown
from deeplab_jax.models import DeepLab, convnext, efficient, vit
from deeplab_jax.summary import multiply_adds

_FOLDER = pathlib.Path(__file__).parent
_TIMES = _FOLDER / "performance" / "cpu_encoders.json"
_SIZE = (513, 513)
_STRIDES = (8, 16, 32)
_PROGRAMS = ("jax", "torch eager", "torch.compile")
ENCODERS = (*convnext.VARIANTS, *efficient.VARIANTS, *vit.VARIANTS)

COSTS = (
  "encoder",
  "parameters, M",
  "multiply-adds, G, at 8",
  "at 16",
  "at 32",
  "error",
)
TIMES = (
  "encoder",
  *(f"float32 at {stride}" for stride in _STRIDES),
  "bfloat16 at 16",
  "smp at 8, 16",
)


def costs(encoder: str, errors: dict[str, float]) -> list[str]:
  """The line of `encoder`; `errors` are those to timm's, by name."""
  counts = []
  for stride in _STRIDES:
    model = DeepLab(2, encoder, stride, atrous_rates=(), decoder=())
    summary = multiply_adds(model, _SIZE)
    counts.append(f"{summary.parts['backbone'] / 1e9:.2f}")
  layers = [x for x in summary.layers if x.path.startswith("backbone/")]
  millions = sum(layer.parameters for layer in layers) / 1e6
  error = f"{errors[encoder]:.1e}" if encoder in errors else "not yet run"
  return [encoder, f"{millions:.2f}", *counts, error]


def errors_of(page: str) -> dict[str, float]:
  """The worst error to timm's features by encoder, from docs/exactness.md."""
  worst = {}
  pattern = r"^\| timm (\w+) \| (?:features|tokens), [^|]*\| (\S+) \|"
  for encoder, error in re.findall(pattern, page, re.MULTILINE):
    worst[encoder] = max(worst.get(encoder, 0.0), float(error))
  return worst


def times(encoder: str, results: Sequence[dict]) -> list[str]:
  """The line of `encoder` of the results of the benchmark."""

  def find(stride, dtype, program):
    wanted = {
      "model": encoder,
      "what": f"features at {stride}",
      "dtype": dtype,
      "contender": program,
    }
    return next((r for r in results if wanted.items() <= r.items()), None)

  def milliseconds(stride, dtype="float32"):
    found = [find(stride, dtype, program) for program in _PROGRAMS]
    if not all(x and x["seconds"] for x in found):
      return ""
    return " / ".join(digits(1e3 * x["median"]) for x in found)

  asked = [find(stride, "float32", "smp") for stride in (8, 16)]
  answers = ["works" if not x["error"] else "refuses" for x in asked if x]
  return [
    encoder,
    *map(milliseconds, _STRIDES),
    milliseconds(16, "bfloat16"),
    ", ".join(answers),
  ]


def main() -> None:
  """Writes the tables; the prose around them stays."""
  path = _FOLDER / "encoders.md"
  page = path.read_text()
  errors = errors_of((_FOLDER / "exactness.md").read_text())
  results = json.loads(_TIMES.read_text())["results"]
  for headings, row_of in (
    (COSTS, lambda encoder: costs(encoder, errors)),
    (TIMES, lambda encoder: times(encoder, results)),
  ):
    start = re.escape(f"| {' | '.join(headings)} |")
    new = markdown(headings, [row_of(encoder) for encoder in ENCODERS])
    page = re.sub(rf"^{start}\n(\|.*\n)*", new + "\n", page, flags=re.MULTILINE)
  path.write_text(page)


if __name__ == "__main__":
  main()
