"""Programs timed side by side: interleaved rounds, medians, p10, ratios."""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Between two programs: threads that still spin would take cores from the next.
_PAUSE = 0.02


@dataclasses.dataclass(frozen=True)
class Case:
  """What all programs of a comparison compute.

  Attributes:
    part: of the benchmark, such as "inference".
    model: a backbone, or another object of the comparison.
    what: is computed, such as "logits".
    size: side of the images in pixels.
    batch: images.
    dtype: of the computation, "float32" or "bfloat16".
  """

  part: str
  model: str
  what: str
  size: int
  batch: int = 1
  dtype: str = "float32"

  def __str__(self) -> str:
    return (
      f"{self.model}, {self.what}, {self.size} px, batch {self.batch}, "
      f"{self.dtype}"
    )


class Program(NamedTuple):
  """A program that has run once or more.

  Attributes:
    call: begins a pass and returns what it will give.
    wait: returns when that is there.
    output: of the first pass or passes, to be compared, or None.
    memory: bytes that it takes at its peak, if that is known.
    temporaries: those among them that live within a pass.
  """

  call: Callable[[], Any]
  wait: Callable[[Any], Any]
  output: np.ndarray | None = None
  memory: int | None = None
  temporaries: int | None = None


class Contender(NamedTuple):
  """A named way to compute a case; `start` compiles it and runs it."""

  name: str
  start: Callable[[], Program]


Comparison = tuple[Case, list["Result"]]


@dataclasses.dataclass
class Result:
  """Times of one contender.

  Attributes:
    contender: its name.
    seconds: of a pass, one per round.
    start_seconds: until the first output, compilation included.
    memory: see `Program`.
    temporaries: see `Program`.
    difference: from the first contender's output, as `compare` measures it.
    error: why it did not run, or None.
  """

  contender: str
  seconds: list[float] = dataclasses.field(default_factory=list)
  start_seconds: float | None = None
  memory: int | None = None
  temporaries: int | None = None
  difference: float | None = None
  error: str | None = None

  def percentile(self, q: float) -> float:
    """Seconds of a pass: 50 is the median, 10 all but undisturbed."""
    return float(np.percentile(self.seconds, q)) if self.seconds else np.nan


def measure(
  contenders: Sequence[Contender],
  *,
  rounds: int,
  calls: int = 1,
  warm: int = 1,
  check: Callable[[np.ndarray, np.ndarray], float] | None = None,
  quiet: bool = False,
) -> list[Result]:
  """Times contenders in turn, `rounds` times, after they all have started.

  Args:
    contenders: the first is the reference for outputs.
    rounds: samples of each.
    calls: passes begun before the last is waited for, in one sample.
    warm: passes before each sample, which do not count: the first after the
      others had the machine takes longer.
    check: gives the difference of an output from the first contender's, or
      raises ValueError if it is too large.
    quiet: whether to say nothing on the way.
  """
  results, programs = [], []
  for contender in contenders:
    result, program = _start(contender, quiet)
    results.append(result)
    if program is not None:
      programs.append((program, result))
  if check is not None and programs:
    reference = programs[0][0].output
    for program, result in programs[1:]:
      if program.output is None:
        continue
      try:
        result.difference = check(reference, program.output)
      except ValueError as error:
        raise ValueError(f"{result.contender}: {error}") from error
  _run_rounds(programs, rounds, calls, warm)
  return results


def _start(contender: Contender, quiet: bool) -> tuple[Result, Program | None]:
  """Starts a contender; one that fails is reported, and the others go on."""
  result, program = Result(contender.name), None
  begin = time.perf_counter()
  try:
    program = contender.start()
    for _ in range(2):
      program.wait(program.call())
    result.start_seconds = time.perf_counter() - begin
    result.memory, result.temporaries = program[-2:]
    message = f"started in {result.start_seconds:.1f} s"
  except Exception as error:  # out of memory, no compiler, ...
    program = None
    message = result.error = _brief(error)
  if result.error or not quiet:
    print(f"  {contender.name}: {message}", file=sys.stderr)
  return result, program


def _brief(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _run_rounds(programs, rounds, calls, warm):
  gc.collect()
  gc.disable()
  try:
    for i in range(rounds):
      # Another first one every round.
      turn = i % max(len(programs), 1)
      for program, result in programs[turn:] + programs[:turn]:
        if result.error is None:
          _sample(program, result, calls, warm)
  finally:
    gc.enable()


def _sample(program: Program, result: Result, calls: int, warm: int) -> None:
  """Adds one time to `result`, or the error."""
  time.sleep(_PAUSE)
  try:
    for _ in range(warm):
      program.wait(program.call())
    begin = time.perf_counter()
    for _ in range(calls):
      value = program.call()
    program.wait(value)
  except Exception as error:  # out of memory beside the others
    result.error = _brief(error)
    return
  result.seconds.append((time.perf_counter() - begin) / calls)
