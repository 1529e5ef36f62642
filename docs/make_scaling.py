"""Plans training on TPU slices of many sizes and writes docs/scaling.md.

  python -m docs.make_scaling [--workers 2]

Xception-65 at 513 x 513 in bfloat16, compiled by `python -m deeplab_jax.plan`
for every slice and batch below, some minutes each. The figures are kept in
--records, so that a run that was cut off goes on where it stopped.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

Facts = dict[str, Any]

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_BATCHES = {
  "v5e:2x2": (16, 64, 128),
  "v5e:4x4": (16, 64, 256),
  "v5e:8x8": (64, 256, 1024),
  "v5e:16x16": (256, 1024, 4096),
  "v5p:2x2x1": (16, 64, 256),
  "v5p:4x4x4": (64, 1024, 4096),
  "v5p:8x8x8": (512, 4096),
}
_LARGEST = {"v5e:2x2": 256, "v5p:2x2x1": 1024}
_SIZES = ("devices", "batch_size", "images_per_device")
_HEADINGS = (
  *("slice", "chips", "batch", "images a chip"),
  *("memory a chip, GiB", "temporaries, GiB"),
  *("all-reduces", "reduced, MB", "sent by a chip, MB"),
  *("interconnect, ms", "compute, ms", "HBM, ms", "recomputed"),
)
_TEXT = """\
# Scaling

Made by `python -m docs.make_scaling`: the training step of `configs/voc.py`
(Xception-65, 513 x 513, bfloat16) compiled for TPU slices by
`python -m deeplab_jax.plan`. **Nothing ran on a TPU**: memory, collectives and
memory traffic are the compiler's (jaxlib 0.10.2, libtpu 0.0.42), times are
floors at published peak rates.

{table}

- *memory a chip*: arguments, temporaries and program, of 16 GiB on a v5e and
  95 on a v5p. The compiler trades free memory for speed: this is what it takes,
  not the least that would do.
- *reduced*: the gradients (of kernels in bfloat16, the dtype of the
  computation, in which the compiler leaves the sum over chips) and the sums of
  batch norm (float32). *sent by a chip*: at least, in a ring.
- *interconnect, compute, HBM*: the time that each takes at its peak rate; HBM
  if every layer reads and writes its activations once in each direction. All
  three may overlap; the largest is the floor of the step. The latency of the
  all-reduces, which grows with the slice, is in no column.
- *recomputed*: operations of the compiled program beyond those of the leanest
  program here, per image. Where activations do not fit, the compiler computes
  them again.
- The compiler worked with its least effort (`--effort=-1`). With the effort of
  training, tried once, v5e:2x2 at batch 64 took 341 s to compile rather than
  64, 1 % more memory, and 72 GB of HBM traffic a chip rather than 90.

## How the cost grows

{growth}

## Largest batches

Found to an eighth by compiling. Near its limit a program computes activations
again: it fits, and is slower per image.

{largest}

## Pictures larger than a chip

With `--config.mesh_height=N`, N devices of one process share each picture, in
training and in the evaluations of a run: the mesh is (devices / N, N), the
state is whole on all devices, and each computes its rows of every map. N must
divide the devices of a process, and the batch is a multiple of devices / N, so
that one picture on a whole host is a batch of 1. A run may be continued with
another N. `Segmenter(..., mesh_height=N)` and `python -m deeplab_jax.predict
--mesh_height=N` do the same for labelling, with `max_pixels`, or `--tile`, as
large as the pictures.

- **Rows need not divide**: XLA pads the last part and leaves the padding out of
  means. 513 rows are 65 for each of 8 devices, 33 rows at stride 16 are 5 for
  each of 7. Where a layer has a stride, parts of such sizes do not lie above
  each other, and for 8 devices 7 rows are sent rather than 1.
- **What is sent** (MobileNetV2 with ASPP and decoder, 2049 x 4097, one picture
  on 8 forced CPU devices, as compiled): convolutions, atrous and depthwise ones
  among them, and max pooling send rows (collective-permute); means, batch norm
  and gradients of kernels are summed. Two maps are gathered, both before they
  are resized: the features that enter the decoder, at stride 16, and the
  logits at stride 4. Their gradients are summed.
- **What is gathered besides**: losses that sort pixels (hard pixels,
  `lovasz_softmax`) gather one value a pixel and class, the confusion matrix
  gathers labels, and results that leave the program with rows that do not
  divide, such as probabilities, are whole on every device. Vision transformers
  gather tokens, keys and values: every token looks at all.
- **Every operation is in its plain form** then, on CPUs and GPUs too: the forms
  made for one CPU are sums of slices, of which XLA would send whole parts.
  With `mesh_height=1`, the default, programs are what they were.
- **Functions that a program calls for every layer** would be gathered for by
  the TPU compiler (libtpu 0.0.42): three separable convolutions with batch norm
  had 36 all-gathers; written out, as they are for such a mesh, none.

`python -m deeplab_jax.plan --config.mesh_height=N` plans this, and
`--largest_crop` looks for the largest crop of the planned one's form that fits.
Xception-65 in bfloat16, `configs/cityscapes.py`, on the 8 chips of v5e:2x4:

| crop | chips a picture | pictures | GiB a chip | MiB sent | floor, ms |
| --- | --- | --- | --- | --- | --- |
| 2049 x 4097 | 8 | 1 | 6.81 | 694 | 10.4 |
| 2049 x 4097 | 4 | 2 | 12.46 | 672 | 20.0 |
| 2049 x 4097 | 1 | 8 | more than 16 | | |
| 1025 x 2049 | 1 | 8 | 9.55 | 139 | 20.1 |

Those that fit took 71 to 79 s to compile on one core (`--effort=-1`, jaxlib
0.10.2, libtpu 0.0.42). Of what each of 8 chips sends, 413 MiB are rows for
neighbours, about 50 the two gathered maps, the rest sums.

## What may be turned, and what is left alone

- **Batch norm** is that of the whole batch over all chips. With
  `--config.batch_norm_groups=G` each of G groups of neighbouring images has its
  own statistics, whatever the number of chips; with a group a chip, batch norm
  exchanges nothing forwards or backwards: a small network for v5e:2x2 has 3
  all-reduces rather than 108. The moving statistics take the mean over groups.
- **`--config.accumulate_steps=K`** takes a batch in K parts for want of memory.
  With frozen batch norm nothing changes; with batch norm trained, parts have
  their own statistics.
- **`--config.remat=true`** stores results of convolutions only.
- **The state is replicated**, not divided over chips. All that could be divided
  is the momentum, 157 of 4700 MiB at 4 images of Xception-65 a chip (parameters
  are as much again and are needed whole): 3 % of the memory, for a second kind
  of collective in each step.
- **Gradients in bfloat16**: layers cast their kernels, so that the compiler
  sums the gradients of kernels over chips in bfloat16, half the bytes. They
  stay so, as the batch's own noise hides it: of 64 chips with 2 crops of
  CamVid each, summed chip by chip as a ring does (gradients of
  `zoo/camvid_mobilenet_v2` in training, computed on a CPU), the sum is off by
  1.0 % of its norm, while 128 other crops give one that differs by 170 %.
  `--config.model.dtype=float32` sums in float32; all else of the state is
  float32 in either.
- **Workdirs are folders** that all hosts see, or addresses such as
  gs://bucket/run and s3://bucket/run, for which hosts need share nothing: see
  [docs/runs.md](runs.md). Other stores are mounted.
- **Data** may be in the same bucket, where `prepare` publishes it, with
  `--config.data.data_dir=gs://bucket/data`; each host copies what it reads: see
  [docs/data.md](data.md#in-an-object-store). A slice that was taken away then
  continues on another with nothing but the bucket left. `launch/tpu_pod.sh`,
  `launch/gke.sh` and `launch/slurm.sbatch` show the commands with `--help`.

## Agreement of devices and processes

Training a deep network with batch norm is chaotic, which has nothing to do with
devices: one unit in the last place of one weight of the quickstart changes its
first gradient by 0.4 %, as some ReLUs open that were closed, and its losses by
1 % within 5 steps. Two processes in float32 are as far from one. So agreement
is tested where rounding cannot grow (`tests/test_launch_local.py`): in float64
(`JAX_ENABLE_X64=1`, `--config.model.dtype=float64`) two processes and one
differ by 2e-16 of the loss over 24 steps of the quickstart at a learning rate
of 1e-4, and at its own, 0.1, by 1e-15 after one update, 6e-11 after two, 1e-8
after three, 1e-3 after four. A small network stays within 1e-6 in float32 on 1
device, on 8, and in 2 processes (`tests/test_sharding.py`).
"""


def main() -> None:
  """Plans what is not in the records yet, then writes the page."""
  options = _parser().parse_args()
  options.records.mkdir(parents=True, exist_ok=True)
  cases = [(s, batch, False) for s in _BATCHES for batch in _BATCHES[s]]
  cases += [(name, batch, True) for name, batch in _LARGEST.items()]
  with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
    found = pool.map(lambda case: _facts(options.records, *case), cases)
    facts = dict(zip(cases, found))
  options.out.write_text(_page(facts))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--workers", type=int, default=2, help="compilers at a time")
  add("--records", type=pathlib.Path, default=_ROOT / "runs/scaling")
  add("--out", type=pathlib.Path, default=_ROOT / "docs/scaling.md")
  return parser


def _facts(
  records: pathlib.Path, topology: str, batch: int, largest: bool
) -> Facts:
  """The figures of one case, from its record or by planning it."""
  name = f"{topology.replace(':', '_')}_{'largest' if largest else batch}.json"
  if not (records / name).exists():
    command = [sys.executable, "-m", "deeplab_jax.plan"]
    command += ["--config", "configs/voc.py", "--config.model.dtype=bfloat16"]
    command += ["--topology", topology, f"--config.batch_size={batch}"]
    command += ["--largest" if largest else "--nolargest"]
    command += ["--json", str(records / name)]
    subprocess.run(command, cwd=_ROOT, check=True)
  return json.loads((records / name).read_text())


def _page(facts: dict[tuple[str, int, bool], Facts]) -> str:
  plans = [f for (_, _, largest), f in facts.items() if not largest]
  plain = min(f["compiled_flops"] / f["flops"] for f in plans)
  rows = [_HEADINGS, ["---"] * len(_HEADINGS)]
  rows += [_row(f, plain) for f in plans]
  largest = [
    f"- {f['machine']}: {f['largest_batch']}, "
    f"{f['largest_batch'] // f['devices']} images a chip."
    for (_, _, looked_for), f in facts.items()
    if looked_for
  ]
  return _TEXT.format(
    table="\n".join(f"| {' | '.join(row)} |" for row in rows),
    growth="\n".join(_growth(plans)),
    largest="\n".join(largest),
  )


def _row(facts: Facts, plain: float) -> list[str]:
  """A line of the table.

  Args:
    facts: of a plan.
    plain: compiled operations per operation of the network, if none is done
      again.
  """
  reduced, floor = facts["collectives"]["all-reduce"], facts["floor"]
  again = facts["compiled_flops"] / facts["flops"] / plain - 1
  return [
    facts["machine"],
    *(str(facts[name]) for name in _SIZES),
    f"{facts['memory_total'] / 2**30:.2f}",
    f"{facts['memory']['temporaries'] / 2**30:.2f}",
    str(reduced["count"]),
    f"{reduced['bytes'] / 1e6:.1f}",
    f"{facts['bytes_sent'] / 1e6:.1f}",
    *(f"{1e3 * floor[n]:.2f}" for n in ("interconnect", "compute", "memory")),
    f"{again:.0%}",
  ]


def _growth(plans: list[Facts]) -> list[str]:
  """What changes with the chips of a generation at equal images a chip."""
  groups = collections.defaultdict(list)
  for facts in plans:
    groups[facts["kind"], facts["images_per_device"]].append(facts)
  return [_growth_line(*group) for group in groups.values() if len(group) > 1]


def _growth_line(first: Facts, *others: Facts) -> str:
  last = others[-1]
  memory, sent = (last[n] / first[n] for n in ("memory_total", "bytes_sent"))
  share = last["floor"]["interconnect"] / _floor(last)
  line = (
    f"- {first['kind']}, {first['images_per_device']} images a chip, from "
    f"{first['devices']} chips to {last['devices']}: memory a chip x "
    f"{memory:.3f}, bytes sent by a chip x {sent:.3f} (a ring: "
    f"{_ring(last) / _ring(first):.3f}), floor of the step "
    f"{1e3 * _floor(first):.1f} to {1e3 * _floor(last):.1f} ms; collectives "
    f"would be {share:.1%} of that if nothing hid them."
  )
  return textwrap.fill(line, 80, subsequent_indent="  ")


def _ring(facts: Facts) -> float:
  """Bytes sent by a chip of a ring per byte reduced."""
  return 2 * (facts["devices"] - 1) / facts["devices"]


def _floor(facts: Facts) -> float:
  return max(facts["floor"][n] for n in ("compute", "memory", "interconnect"))


if __name__ == "__main__":
  main()
