"""Exact counts per layer, from an abstract forward pass.

A multiply-add is one product and its addition in a convolution or matrix
product, atrous or not, padding included. Normalisation, activations, resizing
and additions are not multiply-adds.
"""

import collections
import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import rich.box
import rich.console
import rich.table

from deeplab_jax.models.aspp import ASPP
from deeplab_jax.models.blocks import DropPath
from deeplab_jax.models.layers import ConvNorm, MaxPool
from deeplab_jax.models.resnet import Bottleneck
from deeplab_jax.models.trace import Layer, layers_of, visit

TABLE_WIDTH = 110


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
  """The layers of a network at one input size, batch 1; prints as a table.

  Attributes:
    model: the network.
    size: height and width of the input.
    layers: in order of execution.
    additions: values that skip connections add.
    pooled: values that the windows of maxima and ASPP's mean read.
  """

  model: nn.Module
  size: tuple[int, int]
  layers: tuple[Layer, ...]
  additions: int
  pooled: int

  @property
  def total(self) -> int:
    """Multiply-adds of the whole network."""
    return sum(layer.multiply_adds for layer in self.layers)

  @property
  def parameters(self) -> int:
    """Trained values; the moving statistics are not among them."""
    return sum(layer.parameters for layer in self.layers)

  @property
  def statistics(self) -> int:
    """Moving means and variances of all batch normalisations."""
    return sum(layer.statistics for layer in self.layers)

  @property
  def activation_bytes(self) -> int:
    """Bytes that the layers read and write, if none is fused with another."""
    return sum(layer.activation_bytes for layer in self.layers)

  @property
  def by_module(self) -> dict[str, int]:
    """Multiply-adds of every module, at every depth, by path."""
    counts = collections.Counter()
    for layer in self.layers:
      names = layer.path.split("/")
      for path in itertools.accumulate(names, "{}/{}".format):
        counts[path] += layer.multiply_adds
    return dict(counts)

  @property
  def parts(self) -> dict[str, int]:
    """Multiply-adds of the backbone, the head, the decoder and the logits.

    The stages of a decoder count together, and 0 without one.
    """
    parts = {"backbone": 0, "aspp": 0, "decoder": 0, "logits": 0}
    for layer in self.layers:
      part = layer.path.split("/")[0].split("_")[0]  # "decoder_1": "decoder"
      parts[part] = parts.get(part, 0) + layer.multiply_adds
    return parts

  def table(self, depth: int = 2) -> rich.table.Table:
    """One line per module at `depth` (1: parts), and the total."""
    height, width = self.size
    title = f"{type(self.model).__name__} at {height} x {width}, batch 1"
    table = rich.table.Table(
      title=title, box=rich.box.SIMPLE_HEAD, show_footer=True
    )
    table.add_column("module", "total", no_wrap=True)
    table.add_column("output", no_wrap=True)
    for heading, footer in zip(_HEADINGS, _cells(self.layers, self.total)):
      table.add_column(heading, footer, justify="right")
    groups = itertools.groupby(
      self.layers, lambda layer: "/".join(layer.path.split("/")[:depth])
    )
    for path, group in groups:
      layers = list(group)
      shape = " x ".join(str(side) for side in layers[-1].output_shape[1:])
      table.add_row(path, shape, *_cells(layers, self.total))
    return table

  def __repr__(self) -> str:
    console = rich.console.Console(width=TABLE_WIDTH, color_system=None)
    with console.capture() as text:
      console.print(self.table())
    return text.get()


_HEADINGS = ("parameters", "multiply-adds", "%", "activations")


def _cells(layers, total):
  """The columns of `_HEADINGS` for some layers."""
  count = sum(layer.multiply_adds for layer in layers)
  return (
    f"{sum(layer.parameters for layer in layers):,}",
    f"{count / 1e6:,.1f} M",
    f"{100 * count / total:.1f}",
    f"{sum(layer.activation_bytes for layer in layers) / 1e6:,.1f} MB",
  )


def multiply_adds(model: nn.Module, size: tuple[int, int]) -> Summary:
  """Counts what one image costs, exactly and without running anything.

  Args:
    model: a `DeepLab`, or any module that takes images `(b, h, w, 3)`.
    size: height and width of the image.

  Returns:
    The count as `.total`, `.by_module`, `.parts`, with parameters and
    activation bytes per layer; it prints as a table.

  Raises:
    ValueError: if `size` is not two positive sides.
  """
  if len(size) != 2 or min(size) < 1:
    raise ValueError(f"size must be a positive (height, width), got {size}")
  layers, additions, pooled = [], [], []

  def note(module, inputs, y):
    layers.extend(layers_of(module, inputs[0], y))
    additions.append(_added(module, inputs, y))
    pooled.append(_pooled(module, inputs[0], y))

  visit(model, size, note)
  return Summary(model, tuple(size), tuple(layers), sum(additions), sum(pooled))


def _added(module: nn.Module, inputs: tuple[Any, ...], y: jax.Array) -> int:
  """Values that a skip connection adds."""
  match module:
    case ConvNorm() if len(inputs) > 2 and inputs[2] is not None:
      return y.size  # its third input is the shortcut
    case Bottleneck(low_level=True):  # adds after its last layer
      return y.size
    case DropPath():  # what is added comes from there
      return y.size
  return 0


def _pooled(module: nn.Module, x: jax.Array, y: jax.Array) -> int:
  """Values read by the pooling in `module`."""
  match module:
    case ASPP(image_pooling=True):
      return x.size
    case MaxPool():
      return 9 * y.size
  return 0
