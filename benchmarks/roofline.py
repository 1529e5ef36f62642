"""The part "roofline": each layer's floor on this device beside its time.

A layer with batch norm folded is timed alone; its floor is the longer of its
arithmetic at the rate of a large matrix product, and of the bytes that it must
read and write at the rate of reading and writing as many over and over, from
the caches if they fit. Both rates are measured first.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from benchmarks.rates import Rates, measure_rates
from benchmarks.timing import (
  Case,
  Comparison,
  Contender,
  Program,
  Result,
  measure,
)
from deeplab_jax.config import make_model
from deeplab_jax.inference import onednn
from deeplab_jax.models.ops.convolution import conv, paddings
from deeplab_jax.models.ops.depthwise import depthwise_conv
from deeplab_jax.summary import Layer, multiply_adds

# Passes in a sample of one layer: alone, it would mostly wait for threads.
_CALLS = 5


@dataclasses.dataclass(frozen=True)
class LayerCase(Case):
  """Equal layers of a network, or several of a kind together.

  Attributes:
    count: how often the network has them.
    flops: of one.
    nbytes: that one reads and writes.
    floor: of one, in seconds.
  """

  count: int = 1
  flops: float = 0
  nbytes: float = 0
  floor: float = 0


def run_roofline(options: argparse.Namespace) -> Iterator[Comparison]:
  """Layers by kind and shape; then sums over a kind, and the network."""
  from benchmarks import cases

  for dtype, batch, name in itertools.product(
    options.dtypes, options.batches, options.models
  ):
    rates = measure_rates(options, dtype)
    case = Case("roofline", name, "logits", options.size, batch, dtype)
    measured = []
    for layer, count in _groups(case).items():
      layer_case = _layer_case(case, layer, count, rates)
      print(f"roofline: {layer_case}", file=sys.stderr)
      results = _measure(layer_case, layer, options)
      measured.append((layer_case, results))
      yield layer_case, results
    yield from _sums(case, measured)
    name = f"the network; the device does {rates}"
    total, _ = _sum(case, name, measured)
    yield total, cases.measure_inference(case, options)


def _groups(case: Case) -> collections.Counter[Layer]:
  """Layers by shape, whatever their names."""
  model = make_model(networks.make_config(case), networks.NUM_CLASSES)
  layers = multiply_adds(model, (case.size, case.size)).layers
  return collections.Counter(
    dataclasses.replace(layer, path=_kind(layer), bias=True, parameters=0)
    for layer in layers
  )


def _kind(layer: Layer) -> str:
  if layer.depthwise:
    return "depthwise"
  return "1x1" if layer.kernel[:2] == (1, 1) else "full"


def _stride(layer: Layer) -> int:
  return round(layer.input_shape[1] / layer.output_shape[1])


def _layer_case(case: Case, layer: Layer, count: int, rates: Rates):
  itemsize = jnp.dtype(case.dtype).itemsize
  flops = 2 * case.batch * layer.multiply_adds
  values = case.batch * sum(
    np.prod(shape) for shape in (layer.input_shape, layer.output_shape)
  )
  if layer.kernel[:2] == (1, 1):  # reads only what its stride leaves
    values -= (
      case.batch * np.prod(layer.input_shape) * (1 - 1 / _stride(layer) ** 2)
    )
  nbytes = float(itemsize * (values + np.prod(layer.kernel)))
  side, _, outputs = layer.output_shape[1:]
  what = f"{layer.path}, {layer.input_shape[3]} to {outputs}"
  what += f", rate {layer.rate[0]}" if max(layer.rate) > 1 else ""
  what += f", stride {_stride(layer)}" if _stride(layer) > 1 else ""
  return LayerCase(
    "roofline",
    case.model,
    what,
    side,
    case.batch,
    case.dtype,
    count=count,
    flops=float(flops),
    nbytes=nbytes,
    floor=rates.floor(flops, nbytes),
  )


def _measure(case: LayerCase, layer: Layer, options) -> list[Result]:
  generator = np.random.default_rng(0)
  shapes = (case.batch, *layer.input_shape[1:]), layer.kernel
  arrays = [generator.standard_normal(shape, np.float32) for shape in shapes]
  arrays.append(np.zeros(layer.output_shape[-1], np.float32))
  contenders = [
    Contender("jax", functools.partial(_start_jax, case, layer, arrays))
  ]
  if "torch" in options.against:
    from benchmarks import torch_layers

    start = functools.partial(
      torch_layers.start_layer,
      case,
      options.device,
      arrays,
      stride=_stride(layer),
      rates=layer.rate,
    )
    contenders.append(Contender("torch", start))
  return measure(
    contenders,
    rounds=options.rounds,
    calls=max(options.calls, _CALLS),
    warm=options.warm,
    check=lambda a, b: float(np.abs(a - b).max() / np.abs(a).max()),
    quiet=True,
  )


def _start_jax(case: LayerCase, layer: Layer, arrays: list[Any]) -> Program:
  stride = _stride(layer)

  def run(x, kernel, bias):
    pads = paddings(x, kernel, stride, layer.rate, "explicit")
    window = {"padding": pads, "stride": stride, "rate": layer.rate}
    if onednn.is_available() and onednn.takes(x, kernel, pads):
      return onednn.convolution(x, kernel, bias, **window, activation=nn.relu)
    if layer.depthwise:
      y = depthwise_conv(x, kernel, **window)
    else:
      y = conv(x, kernel, stride=stride, rate=layer.rate[0])
    return nn.relu(y + bias)

  return networks.start_function(run, arrays, case.dtype)


def _sums(case: Case, measured: list[Comparison]) -> Iterator[Comparison]:
  """All depthwise, all 1x1, all full convolutions, and all layers."""
  for kind in ("depthwise", "1x1", "full", ""):
    chosen = [
      (layer, results)
      for layer, results in measured
      if layer.what.startswith(kind)
    ]
    if chosen:
      yield _sum(case, f"all {kind or 'layers'}", chosen)


def _sum(case: Case, what: str, chosen: Sequence[Comparison]) -> Comparison:
  """One line for several; times are sums of medians."""
  totals = {
    field: sum(layer.count * getattr(layer, field) for layer, _ in chosen)
    for field in ("flops", "nbytes", "floor")
  }
  fields = dataclasses.asdict(case) | {"what": what} | totals
  results = [
    Result(
      columns[0].contender,
      [
        sum(
          layer.count * result.percentile(50)
          for (layer, _), result in zip(chosen, columns)
        )
      ],
    )
    for columns in zip(*(results for _, results in chosen))
  ]
  return LayerCase(**fields), results


HEADINGS = (
  *("layer", "count", "GFLOP", "MB", "floor ms"),
  *("jax ms", "floor / jax", "torch ms", "jax / torch"),
)


def row(case: LayerCase, results: list[Result]) -> list[str]:
  """A line of the table; all figures are of `count` layers together."""
  figures = [case.count * x for x in (case.flops, case.nbytes, case.floor)]
  cells = [
    f"{case.model}, {case.what}, {case.size} px, batch {case.batch}, "
    f"{case.dtype}",
    str(case.count),
    f"{figures[0] / 1e9:.2f}",
    f"{figures[1] / 1e6:.1f}",
    f"{1e3 * figures[2]:.2f}",
  ]
  ours, *others = (case.count * result.percentile(50) for result in results)
  cells += [f"{1e3 * ours:.2f}", f"{figures[2] / ours:.2f}"]
  best = min(others, default=np.nan)
  return [*cells, f"{1e3 * best:.2f}", f"{ours / best:.2f}"]
