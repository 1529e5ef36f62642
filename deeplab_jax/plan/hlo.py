"""Reads the text of a compiled program: its collectives, its memory traffic.

JAX offers no structured view of a compiled program; XLA's text form is stable
enough in what is read here: result shapes, opcodes and operand names.
"""

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_COMPUTATION = re.compile(
  r"^(?:ENTRY )?(%?[\w.\-]+) \(.*\) -> .*\{$([\s\S]*?)^\}", re.M
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?(%?[\w.\-]+) = (.+?) ([a-z][a-z\d\-]*)\(([^)]*)\)(.*)$", re.M
)
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply)=(%?[\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=(%?[\w.\-]+)")
# They name or select values and move none; a loop's body moves them.
_FREE = (
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
)


class Instruction(NamedTuple):
  """One line of a program; `shape` is an array's or a tuple's, with layout.

  Attributes, such as the body of a loop, are as in the text.
  """

  name: str
  shape: str
  opcode: str
  operands: str
  attributes: str


Computations = dict[str, list[Instruction]]


class Collective(NamedTuple):
  """All collectives of one kind in a program.

  Attributes:
    count: how often one runs.
    bytes: of the whole arrays that they reduce, gather, scatter or send, as
      one device holds them before scattering or after gathering.
  """

  count: int
  bytes: int

  def sent(self, kind: str, devices: int) -> float:
    """Bytes that every device sends at least, in rings of all `devices`."""
    share = (devices - 1) / devices
    if kind == "collective-permute":
      return self.bytes
    return self.bytes * share * (2 if kind == "all-reduce" else 1)


def collectives(text: str, devices: int) -> dict[str, Collective]:
  """The collectives of a compiled program by kind, those that occur.

  Args:
    text: `Compiled.as_text()`.
    devices: in the group of every collective.
  """
  computations = _computations(text)
  runs = _runs(computations)
  found = collections.defaultdict(lambda: Collective(0, 0))
  for name, instructions in computations.items():
    for instruction in instructions:
      kind = instruction.opcode.removesuffix("-start")
      if kind in COLLECTIVES:
        size = array_bytes(_result(instruction))
        size *= devices if kind == "reduce-scatter" else 1
        count, total = found[kind]
        found[kind] = Collective(count + runs[name], total + runs[name] * size)
  return dict(sorted(found.items()))


def _computations(text: str) -> Computations:
  """The computations of a program by name; the main one is the last."""
  return {
    name: [Instruction(*match) for match in _INSTRUCTION.findall(body)]
    for name, body in _COMPUTATION.findall(text)
  }


def _runs(computations: Computations) -> collections.Counter:
  """How often each computation runs; those called are printed before."""
  runs = collections.Counter({list(computations)[-1]: 1})
  for name in reversed(computations):
    for instruction in computations[name]:
      trips = _trips(instruction, computations)
      for called in _CALLED.findall(instruction.attributes):
        runs[called] += runs[name] * trips
  return runs


def _trips(instruction: Instruction, computations: Computations) -> int:
  """The length of a `lax.scan`, if its condition holds it as a constant.

  1 for all else, loops that the compiler makes itself among it.
  """
  if instruction.opcode != "while" or '/while"' not in instruction.attributes:
    return 1
  condition = computations[_CONDITION.search(instruction.attributes)[1]]
  limits = [i.operands for i in condition if i.opcode == "constant"]
  return int(limits[0]) if len(limits) == 1 else 1


def _result(instruction: Instruction) -> str:
  """The shape of what a collective gives.

  Started gathers and permutations list their operands before it, and
  permutations two counters after it.
  """
  if instruction.opcode in ("all-gather-start", "collective-permute-start"):
    return _elements(instruction.shape)[1]
  return instruction.shape


def _elements(shape: str) -> list[str]:
  """The elements of a tuple's shape, which may be tuples."""
  elements, depth = [""], 0
  for character in shape[1:-1]:
    depth += (character in "([{") - (character in ")]}")
    if character == "," and depth == 0:
      elements.append("")
    else:
      elements[-1] += character
  return elements


def memory_traffic(text: str) -> int:
  """Bytes that the instructions of a program read and write in HBM.

  Whole operands and results of the main computation and of loops count, except
  those in on-chip memory; copies between the two count once.
  """
  computations = _computations(text)
  runs = _runs(computations)
  bodies = [
    called
    for instructions in computations.values()
    for instruction in instructions
    if instruction.opcode == "while"
    for called in _CALLED.findall(instruction.attributes)
  ]
  scheduled = {*bodies, list(computations)[-1]}
  return sum(runs[name] * _traffic(computations[name]) for name in scheduled)


def _traffic(instructions: list[Instruction]) -> int:
  """The bytes of one run of a computation."""
  shapes, total = {}, 0
  for name, shape, opcode, operands, _ in instructions:
    shapes[name] = shape
    if opcode.endswith("-done"):
      total += array_bytes(shape)
    elif opcode not in _FREE and not opcode.endswith("-start"):
      read = re.findall(r"%?[\w.\-]+", operands)
      arrays = [shape, *(shapes[name] for name in read if name in shapes)]
      total += sum(array_bytes(array, off_chip=True) for array in arrays)
  return total


def array_bytes(shape: str, *, off_chip: bool = False) -> int:
  """Bytes of all arrays in a shape such as `(f32[64]{0:S(1)}, bf16[2,3])`.

  Args:
    shape: of an array or a tuple; the padding of tiled layouts is left out.
    off_chip: leaves out arrays in memory spaces other than the first, HBM.
  """
  total = 0
  for dtype, bits, sides, layout in _ARRAY.findall(shape):
    if not (off_chip and "S(" in layout):
      count = math.prod(int(side) for side in sides.split(",") if side)
      total += count * (8 if dtype == "pred" else int(bits)) // 8
  return total
