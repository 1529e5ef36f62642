"""What a network consists of, found by an abstract pass through it.

Nothing runs and nothing is allocated: every module is met in the order in which
it is called, with the shapes that go in and come out.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.blocks import DotProducts
from deeplab_jax.models.layers import shapes_only
from deeplab_jax.models.ops import plain
from deeplab_jax.models.ops.whole import replaced

_DEFINITIONS = {
  "conv": plain.conv,
  "depthwise_conv": plain.depthwise_conv,
  "all_threads": lambda x: x,
  "attention": plain.attention,
}
_KERNELS = ("kernel", "depthwise_kernel")
_NO_KERNEL = (0,)
_WITHOUT = "no kernel"


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution with its bias or batch normalisation, or what else counts.

  Attributes:
    path: names of the modules around it and its own, joined by "/".
    kernel: shape `(kh, kw, in, out)`, or `(kh, kw, 1, channels)` if depthwise;
      `(0,)` of a layer that has none, such as layer norm or attention.
    depthwise: whether every channel has its own kernel.
    rate: atrous rates of rows and columns.
    bias: whether it has a bias.
    input_shape: `(1, h, w, in)`.
    output_shape: `(1, h', w', out)`.
    activation_bytes: of the input read and of the output written.
    parameters: number of trained values.
    statistics: number of moving means and variances.
    products: multiply-adds of maps with each other, as attention's.
  """

  path: str
  kernel: tuple[int, ...]
  depthwise: bool
  rate: tuple[int, int]
  bias: bool
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]
  activation_bytes: int
  parameters: int
  statistics: int
  products: int = 0

  @property
  def multiply_adds(self) -> int:
    """One per kernel value and output position, and the products."""
    positions = math.prod(self.output_shape[:-1])
    return positions * math.prod(self.kernel) + self.products


def shapes_of(function: Callable, *arguments: Any) -> Any:
  """Shapes and dtypes of what `function(*arguments)` would give.

  As `jax.eval_shape`, in a third of the time where `function` initialises a
  network: draws are not traced, and of each convolution not the form for every
  platform.
  """

  def own(*arguments):  # JAX keeps what it traced of a function
    return function(*arguments)

  with shapes_only(), replaced(_DEFINITIONS):
    return jax.eval_shape(own, *arguments)


def visit(
  model: nn.Module,
  size: tuple[int, int],
  note: Callable[[nn.Module, tuple[Any, ...], jax.Array], None],
) -> None:
  """Calls `note` with every module that takes inputs, these and its output.

  Args:
    model: takes images `(b, h, w, c)`, of its `channels` or else of 3.
    size: height and width of the image.
    note: is given abstract arrays; of several outputs the first.
  """

  def record(call, args, kwargs, context):
    outputs = call(*args, **kwargs)
    inputs = (*args, *kwargs.values())
    if context.method_name == "__call__" and inputs:
      y = outputs[0] if isinstance(outputs, tuple) else outputs
      note(context.module, inputs, y)
    return outputs

  shape = (1, *size, getattr(model, "channels", 3))
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  with nn.intercept_methods(record):
    shapes_of(model.init, jax.random.key(0), images)


def layers(model: nn.Module, size: tuple[int, int]) -> list[Layer]:
  """The layers of `model` at an image of `size`, in order of execution."""
  found = []

  def note(module, inputs, y):
    found.extend(layers_of(module, inputs[0], y))

  visit(model, size, note)
  return found


def layers_of(module: nn.Module, x: jax.Array, y: jax.Array) -> list[Layer]:
  """The layer that `module` is, if it owns parameters, or is attention's."""
  params = module.variables.get("params", {})
  statistics = module.variables.get("batch_stats", {})
  products = 0
  if isinstance(module, DotProducts):  # of each query with each key, and value
    products = 2 * y.size * x.shape[1]
  kernels = [name for name in _KERNELS if name in params]
  if not kernels and not statistics:  # a batch norm belongs to its convolution
    params = {name: x for name, x in params.items() if hasattr(x, "shape")}
    kernels = [_WITHOUT] * bool(params or products)
  rate = getattr(module, "rate", 1)
  return [
    Layer(
      path="/".join(module.path),
      kernel=_NO_KERNEL if name == _WITHOUT else params[name].shape,
      depthwise=name == "depthwise_kernel",
      rate=rate if isinstance(rate, tuple) else (rate, rate),
      bias="bias" in params,
      input_shape=x.shape,
      output_shape=y.shape,
      activation_bytes=_bytes(x) + _bytes(y),
      parameters=_size(params),
      statistics=_size(statistics),
      products=products,
    )
    for name in kernels
  ]


def _size(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(x: jax.Array) -> int:
  return x.size * x.dtype.itemsize
