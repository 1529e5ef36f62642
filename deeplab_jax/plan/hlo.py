"""Reads the text of a compiled program: its collectives, its memory traffic.

JAX offers no structured view of a compiled program; XLA's text form is stable
enough in what is read here: result shapes, opcodes and operand names.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?(%?[\w.\-]+) = (.+?) ([a-z][a-z\d\-]*)\(([^)]*)\)", re.M
)
# They name or select values and move none.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


class Instruction(NamedTuple):
  """One line of a program; `shape` is an array's or a tuple's, with layout."""

  name: str
  shape: str
  opcode: str
  operands: str


class Collective(NamedTuple):
  """All collectives of one kind in a program.

  Attributes:
    count: instructions of the kind.
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
  sizes = collections.defaultdict(list)
  for instruction in _instructions(text):
    kind = instruction.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      size = array_bytes(_result(instruction))
      sizes[kind].append(size * (devices if kind == "reduce-scatter" else 1))
  return {kind: Collective(len(s), sum(s)) for kind, s in sorted(sizes.items())}


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
  """Bytes that the instructions of the main computation read and write in HBM.

  Whole operands and results count, except those in on-chip memory; copies
  between the two count once; the bodies of loops do not count.
  """
  main = text[text.index("\nENTRY ") :].partition("\n}")[0]
  shapes, total = {}, 0
  for name, shape, opcode, operands in _instructions(main):
    shapes[name] = shape
    if opcode.endswith("-done"):
      total += array_bytes(shape)
    elif opcode not in _FREE and not opcode.endswith("-start"):
      read = re.findall(r"%?[\w.\-]+", operands)
      arrays = [shape, *(shapes[name] for name in read if name in shapes)]
      total += sum(array_bytes(array, off_chip=True) for array in arrays)
  return total


def _instructions(text: str) -> Iterator[Instruction]:
  return (Instruction(*match) for match in _INSTRUCTION.findall(text))


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
