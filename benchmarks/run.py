"""Times the networks in jax, and in torch beside it.

  python -m benchmarks.run [--against torch] [--device gpu] [--parts inference]

Everything runs in one process, program after program and round after round, so
that load on the machine strikes all alike; outputs are compared first. The
folder --out gets `benchmark.md`, a table, and `benchmark.json`, every sample.
"""

import argparse
import pathlib
import sys

from benchmarks import machine

_PARTS = ("depthwise", "inference", "training", "roofline")


def main(arguments: list[str] | None = None) -> None:
  """Parses `arguments` (default: the command line) and runs the parts."""
  options = _parse(arguments)
  machine.restrict(
    options.device, options.threads, shared=options.against is not None
  )
  machine.start_frameworks(options)
  # Not before the process is restricted: these import jax.
  from benchmarks import cases, depthwise, report, roofline

  parts = {
    "depthwise": depthwise.run_depthwise,
    "inference": cases.run_inference,
    "training": cases.run_training,
    "roofline": roofline.run_roofline,
  }
  facts = machine.facts(options.device)
  facts |= {"rounds": options.rounds, "calls": options.calls}
  facts["load before"] = machine.load_average()
  comparisons, text = [], ""
  for part in options.parts:
    for comparison in parts[part](options):
      comparisons.append(comparison)
      facts["load after"] = machine.load_average()
      text = report.write(options.out, facts, comparisons)
  print(text)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.run",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--against", choices=["torch"], help="time torch beside jax")
  add("--device", choices=["cpu", "gpu"], default="cpu")
  add("--parts", type=_list(str), default=_PARTS, help="default: all")
  add(
    "--models",
    type=_list(str),
    default=("mobilenet_v2", "resnet_101", "xception_65"),
  )
  add("--size", type=_side, default=513, help="side of images, k * 16 + 1")
  add("--training_size", type=_side, help="default: 257 on cpu, else --size")
  add("--batches", type=_list(int), default=(1,))
  add("--training_batches", type=_list(int), help="default: --batches from 2")
  add("--dtypes", type=_list(str), default=("float32",))
  add("--outputs", type=_list(str), default=("logits", "labels"))
  add("--torch", type=_list(str), help="names of torch's programs to run")
  add(
    "--threads",
    type=int,
    default=3,
    help="for both; with 1, torch leaves oneDNN",
  )
  add("--rounds", type=int, default=20)
  add("--calls", type=int, default=1, help="passes in flight per sample")
  add("--out", type=pathlib.Path, default="runs/benchmark")
  options = parser.parse_args(arguments)
  unknown = sorted(set(options.parts) - set(_PARTS))
  if unknown:
    parser.error(f"--parts must be of {', '.join(_PARTS)}; got {unknown}")
  if options.training_size is None:
    options.training_size = 257 if options.device == "cpu" else options.size
  if options.training_batches is None:
    options.training_batches = tuple(
      dict.fromkeys(max(batch, 2) for batch in options.batches)
    )
  return options


def _list(kind: type):
  def parse(text: str) -> tuple:
    return tuple(kind(item) for item in text.split(","))

  return parse


def _side(text: str) -> int:
  side = int(text)
  if side % 16 != 1:
    raise argparse.ArgumentTypeError(
      f"must be k * 16 + 1, where torch and TensorFlow pad alike, got {side}"
    )
  return side


if __name__ == "__main__":
  sys.exit(main())
