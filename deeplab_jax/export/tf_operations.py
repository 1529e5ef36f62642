"""Primitives as operations of TensorFlow that LiteRT has, too.

Functions of the module tensorflow, a step and its operands, tensors or arrays,
to what the step gives.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from deeplab_jax.export.onnx_maps import matrix_orders
from deeplab_jax.export.onnx_values import Unsupported
from deeplab_jax.export.operations import at_least

Step = Any
Tensor = Any
_CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _require(is_so: bool, what: str) -> None:
  if not is_so:
    raise Unsupported(what)


def _named(name: str) -> Callable:
  """The function of that name in tf or tf.math."""
  return lambda tf, step, *operands: getattr(
    tf if hasattr(tf, name) else tf.math, name
  )(*operands)


def _is_number(x: Any, number: float) -> bool:
  return isinstance(x, np.ndarray) and x.size == 1 and x.item() == number


def _larger(tf, step, x, y):
  del step
  for number, other in ((x, y), (y, x)):
    if _is_number(number, 0):
      return tf.nn.relu(other)
    if _is_number(number, -math.inf):
      return other
  return tf.maximum(x, y)


def _smaller(tf, step, x, y):
  del step
  for number, other in ((x, y), (y, x)):
    if _is_number(number, 6) and other.op.type == "Relu":
      return tf.nn.relu6(other.op.inputs[0])
    if _is_number(number, math.inf):
      return other
  return tf.minimum(x, y)


def _clamp(tf, step, low, x, high):
  return _smaller(tf, step, _larger(tf, step, x, low), high)


def _cast(tf, step, x):
  return tf.cast(x, tf.as_dtype(np.dtype(step.params["new_dtype"])))


def _integer_power(tf, step, x):
  power = step.params["y"]
  return tf.square(x) if power == 2 else tf.pow(x, float(power))


def _select(tf, step, condition, no, yes):
  del step
  _require(condition.dtype in (tf.bool, np.dtype(bool)), "a choice by integers")
  return tf.where(condition, yes, no)


def _logical(name: str) -> Callable:
  def logical(tf, step, *operands):
    _require(step.outvars[0].aval.dtype == bool, f"{name} of integers")
    return getattr(tf, name)(*operands)

  return logical


# Of the ratio of polynomials in x ** 2 that times x is erf(x) to 1e-7, up to 4,
# as Eigen has it for float32; highest power first.
_ERF_ABOVE = (
  *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06),
  *(-5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03),
  -1.60960333262415e-02,
)
_ERF_BELOW = (
  *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03),
  *(-7.37332916720468e-03, -1.42647390514189e-02),
)


def _erf(tf, step, x):
  """TFLite has no operation of its own for it."""
  del step
  x = tf.clip_by_value(x, -4.0, 4.0)
  square = tf.square(x)
  above, below = (
    functools.reduce(lambda y, factor: y * square + factor, factors)
    for factors in (_ERF_ABOVE, _ERF_BELOW)
  )
  return x * above / below


ELEMENTWISE: dict[str, Callable] = {
  "abs": _named("abs"),
  "add": _named("add"),
  "add_any": _named("add"),
  "and": _logical("logical_and"),
  "ceil": _named("ceil"),
  "clamp": _clamp,
  "convert_element_type": _cast,
  "cos": _named("cos"),
  "div": _named("divide"),
  "eq": _named("equal"),
  "erf": _erf,
  "exp": _named("exp"),
  "exp2": lambda tf, step, x: tf.pow(2.0, x),
  "expm1": lambda tf, step, x: tf.exp(x) - 1.0,
  "floor": _named("floor"),
  "ge": _named("greater_equal"),
  "gt": _named("greater"),
  "integer_pow": _integer_power,
  "le": _named("less_equal"),
  "log": _named("log"),
  "log1p": lambda tf, step, x: tf.math.log(x + 1.0),
  "logistic": _named("sigmoid"),
  "lt": _named("less"),
  "max": _larger,
  "min": _smaller,
  "mul": _named("multiply"),
  "ne": _named("not_equal"),
  "neg": _named("negative"),
  "not": _logical("logical_not"),
  "or": _logical("logical_or"),
  "pow": _named("pow"),
  "rsqrt": _named("rsqrt"),
  "select_n": _select,
  "sign": _named("sign"),
  "sin": _named("sin"),
  "sqrt": _named("sqrt"),
  "square": _named("square"),
  "sub": _named("subtract"),
  "tanh": _named("tanh"),
}
"""Those of single elements: operands may have 1 where the result has more."""


def _pad(tf, step, x, number):
  config = step.params["padding_config"]
  is_plain = all(inner == 0 and min(ends) >= 0 for *ends, inner in config)
  _require(is_plain, f"padding of {tuple(config)}")
  ends = [(before, after) for before, after, _ in config]
  return tf.pad(x, ends, constant_values=number)


def _padded(tf, x, window, strides, rates, pads, number=0.0):
  """`x` and the name of the padding that is left to do for a window."""
  if all(tuple(pair) == (0, 0) for pair in pads):
    return x, "VALID"
  same = []
  for n, taps, stride, rate in zip(x.shape[1:3], window, strides, rates):
    reach = (-(-n // stride) - 1) * stride + (taps - 1) * rate + 1
    missing = max(reach - n, 0)
    same.append((missing // 2, missing - missing // 2))
  if [tuple(pair) for pair in pads] == same:
    return x, "SAME"
  _require(min(map(min, pads)) >= 0, f"padding of {tuple(pads)}")
  ends = [(0, 0), *map(tuple, pads), (0, 0)]
  return tf.pad(x, ends, constant_values=number), "VALID"


def _convolution(tf, step, x, kernel):
  settings = step.params
  numbers, groups = (
    settings["dimension_numbers"],
    settings["feature_group_count"],
  )
  _require(
    (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == _CHANNELS_LAST,
    "a convolution whose axes are not b, h, w, c",
  )
  _require(isinstance(kernel, np.ndarray), "a convolution by a computed kernel")
  _require(settings["batch_group_count"] == 1, "groups of a batch")
  _require(set(settings["lhs_dilation"]) == {1}, "a transposed convolution")
  strides, rates = settings["window_strides"], settings["rhs_dilation"]
  x, padding = _padded(tf, x, kernel.shape, strides, rates, settings["padding"])
  strides = (1, *strides, 1)
  if groups == x.shape[3] and groups > 1:
    kernel = kernel.reshape(*kernel.shape[:2], groups, -1)
    return tf.nn.depthwise_conv2d(x, kernel, strides, padding, None, rates)
  return tf.nn.conv2d(x, kernel, strides, padding, dilations=rates)


def _product(tf, step, x, matrix):
  (left, right), batch = step.params["dimension_numbers"]
  is_plain = (
    isinstance(matrix, np.ndarray)
    and matrix.ndim == 2
    and tuple(left) == (len(x.shape) - 1,)
    and not any(batch)
  )
  if not is_plain:  # of two that the picture tells, as attention has them
    return tf.matmul(*map(tf.transpose, (x, matrix), matrix_orders(step)))
  matrix = matrix if tuple(right) == (0,) else matrix.T
  if len(x.shape) == 4:
    return tf.nn.conv2d(x, matrix[None, None], 1, "VALID")
  return tf.matmul(x, matrix)


def _pool(name: str, number: float) -> Callable:
  def pool(tf, step, x):
    settings = step.params
    window, strides = settings["window_dimensions"], settings["window_strides"]
    pads = settings["padding"]
    is_plain = (window[0], window[3], strides[0], strides[3]) == (1, 1, 1, 1)
    is_plain &= {*settings["base_dilation"], *settings["window_dilation"]} == {
      1
    }
    is_plain &= (*pads[0], *pads[3]) == (0, 0, 0, 0)
    _require(is_plain, "windows along b or c, or with gaps")
    rates = (1, 1)
    x, padding = _padded(
      tf, x, window[1:3], strides[1:3], rates, pads[1:3], number
    )
    if name == "max":
      return tf.nn.max_pool2d(x, window[1:3], strides[1:3], padding)
    _require(padding == "VALID", "sums of windows over borders")
    means = tf.nn.avg_pool2d(x, window[1:3], strides[1:3], padding)
    return means * float(math.prod(window))

  return pool


def _mean_of_windows(tf, step, x):
  side, size = step.params["side"], x.shape[1:3]
  missing = [at_least(n, side) - n for n in size]
  if any(missing):
    x = tf.pad(x, [(0, 0), *((0, n) for n in missing), (0, 0)])
  means = tf.nn.avg_pool2d(x, side, step.params["strides"], "VALID")
  share = math.prod(side / min(n, side) for n in size)
  return means * share if share != 1 else means


def _resize(tf, step, x):
  half_pixel = step.params["half_pixel"]
  return tf.compat.v1.image.resize_bilinear(
    x,
    step.params["size"],
    align_corners=not half_pixel,
    half_pixel_centers=half_pixel,
  )


def _argmax(tf, step, x):
  (axis,) = step.params["axes"]
  return _to(tf, tf.argmax(x, axis, tf.int32), step.params["index_dtype"])


def _to(tf, x, dtype):
  dtype = tf.as_dtype(np.dtype(dtype))
  return x if x.dtype == dtype else tf.cast(x, dtype)


def _cut(tf, step, x):
  settings = step.params
  ends = settings["start_indices"], settings["limit_indices"]
  if ends == ((0,) * len(x.shape), tuple(x.shape)) and not settings["strides"]:
    return x
  return tf.strided_slice(x, *ends, settings["strides"] or [1] * len(x.shape))


def _gather(tf, step, x, indices):
  """Lines of one axis, or one block."""
  numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
  chosen, gone = numbers.start_index_map, numbers.collapsed_slice_dims
  is_plain = (
    not numbers.operand_batching_dims
    and isinstance(indices, np.ndarray)
    and step.params["mode"] == jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
  )
  _require(is_plain, "pixels whose places are computed")
  if indices.ndim == 1:
    begin = [0] * len(x.shape)
    for axis, start in zip(chosen, indices.tolist()):
      begin[axis] = start
    found = tf.slice(x, begin, sizes)
    return tf.squeeze(found, gone) if gone else found
  others = tuple(axis for axis in range(len(x.shape)) if axis not in chosen)
  is_plain = indices.ndim == 2 and chosen == gone and len(chosen) == 1
  _require(is_plain and numbers.offset_dims == others, "pixels one by one")
  return tf.gather(x, indices[:, 0].astype(np.int32), axis=chosen[0])


def _reduced(name: str) -> Callable:
  return lambda tf, step, x: getattr(tf, name)(x, step.params["axes"])


def _joined(tf, step, *parts: Sequence[Tensor]):
  return tf.concat(parts, step.params["dimension"])


OTHERS: dict[str, Callable] = {
  "argmax": _argmax,
  "concatenate": _joined,
  "conv_general_dilated": _convolution,
  "dot_general": _product,
  "gather": _gather,
  "mean": lambda tf, step, x: tf.reduce_mean(x, (1, 2), keepdims=True),
  "mean_of_windows": _mean_of_windows,
  "pad": _pad,
  "reduce_max": _reduced("reduce_max"),
  "reduce_min": _reduced("reduce_min"),
  "reduce_prod": _reduced("reduce_prod"),
  "reduce_sum": _reduced("reduce_sum"),
  "reduce_window_max": _pool("max", -math.inf),
  "reduce_window_sum": _pool("sum", 0.0),
  "reshape": lambda tf, step, x: tf.reshape(x, step.params["new_sizes"]),
  "resize_bilinear": _resize,
  "rev": lambda tf, step, x: tf.reverse(x, step.params["dimensions"]),
  "slice": _cut,
  "split": lambda tf, step, x: tf.split(
    x, step.params["sizes"], step.params["axis"]
  ),
  "squeeze": lambda tf, step, x: tf.squeeze(x, step.params["dimensions"]),
  "transpose": lambda tf, step, x: tf.transpose(x, step.params["permutation"]),
}
"""All others; operands are whole."""
