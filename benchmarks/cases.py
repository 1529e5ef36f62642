"""The parts "inference" and "training": whole networks, case by case."""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.timing import Case, Comparison, Contender, Result, measure

# Of an output, relative to its largest value; of pixels; of losses. The second
# loss follows an update, which multiplies rounding errors.
_TOLERANCE = {"logits": 1e-3, "labels": 1e-3, "training step": (1e-4, 3e-2)}


def run_inference(options: argparse.Namespace) -> Iterator[Comparison]:
  """Logits at stride 4 and label maps at full size."""
  for case in _cases(options, "inference", options.outputs, options.size):
    yield case, measure_inference(case, options)


def measure_inference(case: Case, options: argparse.Namespace) -> list[Result]:
  """Every program for `case`."""
  variables, batch = _inputs(case)
  images = batch["image"]
  start = functools.partial(networks.start_inference, case, variables, images)
  contenders = [Contender("jax", start)]
  if "torch" in options.against:
    from benchmarks import torch_programs

    contenders += _chosen(
      torch_programs.inference(case, options.device, variables, images), options
    )
  if "smp" in options.against:
    from benchmarks import smp_programs

    contenders += _chosen(
      smp_programs.inference(case, options.device, images), options
    )
  if not {"onnxruntime", "openvino"}.isdisjoint(options.against):
    from benchmarks import file_programs

    contenders += file_programs.inference(
      case, options.against, variables, images
    )
  return _measure(case, contenders, options)


def run_training(options: argparse.Namespace) -> Iterator[Comparison]:
  """The training step: forward, backward, update."""
  sizes = options.training_size
  for case in _cases(options, "training", ("training step",), sizes):
    variables, batch = _inputs(case)
    start = functools.partial(networks.start_training, case, variables, batch)
    contenders = [Contender("jax", start)]
    decay = networks.make_config(case).weight_decay
    if "torch" in options.against:
      from benchmarks import torch_programs

      contenders += _chosen(
        torch_programs.training(case, options.device, variables, batch, decay),
        options,
      )
    if "smp" in options.against:
      from benchmarks import smp_programs

      contenders += _chosen(
        smp_programs.training(case, options.device, batch, decay), options
      )
    yield case, _measure(case, contenders, options)


def _cases(options, part, outputs, size) -> Iterator[Case]:
  batches = options.batches
  if part == "training":
    batches = options.training_batches
  for fields in itertools.product(
    options.models, options.dtypes, batches, outputs
  ):
    model, dtype, batch, what = fields
    case = Case(part, model, what, size, batch, dtype)
    print(f"{part}: {case}", file=sys.stderr)
    yield case


def _inputs(case: Case) -> tuple[Any, dict[str, np.ndarray]]:
  return networks.settled_variables(case.model), networks.random_batch(case)


def _chosen(contenders, options) -> list[Contender]:
  """Those of torch's programs that are asked for."""
  return [c for c in contenders if not options.torch or c.name in options.torch]


def _measure(case, contenders, options) -> list[Result]:
  return measure(
    contenders,
    rounds=options.rounds,
    calls=options.calls,
    warm=options.warm,
    check=_check(case, options.device),
  )


def _check(
  case: Case, device: str
) -> Callable[[np.ndarray, np.ndarray], float]:
  """How outputs of `case` compare; strict in float32.

  On a GPU both frameworks multiply float32 with the 10 bits of TF32.
  """

  def check(reference, output):
    differences = _differences(case, reference, output)
    allowed = np.asarray(_TOLERANCE[case.what])
    allowed = allowed * (1 if device == "cpu" else 30)
    if case.dtype == "float32" and not np.all(differences <= allowed):
      raise ValueError(
        f"{case.what} of {case.model} differ from jax's by {differences}, more "
        f"than {allowed}: the programs do not compute the same"
      )
    return float(differences.max())

  return check


def _differences(case, reference, output) -> np.ndarray:
  if case.what == "labels":
    return np.mean(reference != output)
  apart = np.abs(output - reference)
  if case.what == "logits":
    return apart.max() / np.abs(reference).max()
  return apart / np.abs(reference)
