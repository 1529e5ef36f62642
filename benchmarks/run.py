"""Times the networks in jax, and in other frameworks beside it.

  python -m benchmarks.run [--against torch,onnxruntime,openvino] \
    [--parts inference,training]
  python -m benchmarks.run --against torch --device gpu --dtypes bfloat16 \
    --batches 1,16,64,128 --calls 10

Everything runs in one process, program after program and round after round, so
that load on the machine strikes all alike; outputs are compared first. The
folder --out gets `benchmark.md`, tables, and `benchmark.json`, every sample.
A program that fails, as for want of memory, is reported and the rest goes on.
"""

import importlib

from benchmarks import arguments, machine


def main() -> None:
  """Measures what the command line asks for."""
  options = arguments.parse(None, __doc__)
  machine.use_huge_pages()
  machine.restrict(
    options.device, options.threads, shared="torch" in options.against
  )
  machine.start_frameworks(options)
  # It imports jax, which looks for cores: not before `restrict`.
  from benchmarks import report

  facts = machine.facts(options.device)
  facts |= {
    name: getattr(options, name) for name in ("rounds", "calls", "warm")
  }
  facts["load before"] = machine.load_average()
  comparisons, text = [], ""
  for part in options.parts:
    module = importlib.import_module(f"benchmarks.{arguments.PARTS[part]}")
    for comparison in getattr(module, f"run_{part}")(options):
      comparisons.append(comparison)
      facts["load after"] = machine.load_average()
      # Each time, so that a run that is cut off leaves what it found.
      text = report.write(options.out, facts, comparisons)
  print(text)


if __name__ == "__main__":
  main()
