"""Multiply-adds by the convention of the paper's tables 3 and 5.

The paper's figures are half of the float operations that TensorFlow 1's
profiler finds in the whole evaluation graph, where atrous convolutions run on
padded, interleaved maps. With the rules below every figure comes out within
0.02 B (but for 101.28 B in table 3, which does not fit the paper's other rows).
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn

from deeplab_jax.models.backbones import find_backbone
from deeplab_jax.summary.counting import Layer, Summary, multiply_adds


def evaluation_passes(
  model: nn.Module,
  size: tuple[int, int],
  *,
  scales: Sequence[float] = (1.0,),
  flip: bool = False,
  count: Callable[..., Summary] = multiply_adds,
) -> list[Summary]:
  """The forward passes of an evaluation, one summary each.

  Args:
    model: the network.
    size: height and width of the image.
    scales: of the image; a side n becomes `int((n - 1) * scale + 1)`.
    flip: whether every scale runs on the mirrored image too.
    count: counts one pass; a cached `multiply_adds` saves time where several
      evaluations share passes.
  """
  sides = [tuple(int((n - 1) * s + 1) for n in size) for s in scales]
  return [count(model, side) for side in sides] * (2 if flip else 1)


def paper_multiply_adds(
  passes: Sequence[Summary], size: tuple[int, int]
) -> float:
  """Multiply-adds of an evaluation as the paper's tables count them.

  Counted besides the convolutions, an operation each: preprocessing, bias, skip
  connections, pooling and argmax per value; for the weights, which all passes
  share, three operations of the decay (square, sum, scale) and two of the
  random initialisation (scale, shift). Not counted: batch normalisation,
  activations, resizing, softmax, MobileNetV3's gates and the average over
  passes.

  Args:
    passes: of one model, from `evaluation_passes`.
    size: height and width of the image, where argmax runs.
  """
  model, layers = passes[0].model, passes[0].layers
  kernels = sum(math.prod(layer.kernel) for layer in layers)
  decayed = kernels - sum(
    math.prod(layer.kernel) for layer in layers if layer.depthwise
  )
  argmax = math.prod(size) * model.num_classes
  once = 3 * decayed + 2 * kernels + argmax
  return (once + sum(map(_operations, passes))) / 2


def _operations(summary: Summary) -> int:
  """Float operations of one forward pass."""
  backbone = find_backbone(summary.model.backbone)
  preprocessing = (
    1 if backbone.scale == (1.0, 1.0, 1.0) else 2
  )  # subtract, scale
  biases = sum(
    math.prod(layer.output_shape) for layer in summary.layers if layer.bias
  )
  return (
    2 * sum(map(_space_to_batch_multiply_adds, summary.layers))
    + 3 * math.prod(summary.size) * preprocessing
    + biases
    + summary.additions
    + summary.pooled
  )


def _space_to_batch_multiply_adds(layer: Layer) -> int:
  """Of a layer whose maps are padded to multiples of the atrous rates."""
  positions = math.prod(
    rate * -(-side // rate)
    for rate, side in zip(layer.rate, layer.output_shape[1:3])
  )
  return positions * math.prod(layer.kernel)
