"""Convolutions of each form that the networks have, by oneDNN and by XLA.

  python -m deeplab_jax.inference.onednn_trial float32

prints "equal", or which of them is off; the other type is "bfloat16". It is run
by `verdict`, as it may die.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplab_jax.inference import onednn, verdict
from deeplab_jax.models.blocks import gelu
from deeplab_jax.models.ops.convolution import same_padding

# Of the largest value; in bfloat16 the result is rounded by up to 2e-3 of it.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-3}
_BATCH, _SIDES = 2, (33, 41)


class _Form(NamedTuple):
  """A convolution of the networks; depthwise if it has no features."""

  taps: int
  channels: int
  features: int
  stride: int = 1
  rate: int = 1
  activation: Callable[[jax.Array], jax.Array] | None = None
  shortcut: bool = False

  def __str__(self) -> str:
    return (
      f"{self.taps} x {self.taps} taps, {self.channels} to "
      f"{self.features or self.channels} channels, stride {self.stride}, rate "
      f"{self.rate}"
    )


_FORMS = (
  _Form(3, 3, 32, stride=2, activation=nn.relu6),
  _Form(1, 24, 40),
  _Form(1, 24, 24, shortcut=True),
  _Form(1, 16, 8, stride=2, activation=nn.relu),
  _Form(3, 16, 24, activation=nn.relu, shortcut=True),
  _Form(3, 16, 24, stride=2),
  _Form(3, 16, 8, rate=12, activation=nn.relu6),
  _Form(3, 40, 0, activation=nn.relu),
  _Form(3, 33, 0, stride=2, activation=nn.relu6),
  _Form(3, 16, 0, rate=4),
  _Form(5, 24, 0, rate=2, activation=nn.relu6),
  _Form(1, 24, 40, activation=nn.silu),
  _Form(3, 40, 0, activation=nn.silu),
  _Form(1, 40, 24, activation=gelu),
  _Form(7, 24, 0),
  _Form(4, 3, 16, stride=4),
  _Form(2, 16, 24, stride=2),
)


def run(dtype: str) -> str:
  """`EQUAL`, or which form is off by how much, in "float32" or "bfloat16"."""
  arrays = [_arrays(form, dtype) for form in _FORMS]

  def both(arrays):
    return [_both_ways(form, *given) for form, given in zip(_FORMS, arrays)]

  program = onednn.compiled(jax.jit(both).lower(arrays))
  for form, (found, expected) in zip(_FORMS, program(arrays)):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error < _TOLERANCES[dtype]:  # nor is NaN
      return f"{form} are off by {error:.1e} of the largest value"
  return verdict.EQUAL


def _arrays(form: _Form, dtype: str) -> tuple[np.ndarray, ...]:
  """Picture, kernel, bias, always in float32, and shortcut."""
  random = np.random.default_rng(0)
  inputs, outputs = (form.channels, form.features)
  if not outputs:
    inputs, outputs = 1, form.channels
  sides = (-(-side // form.stride) for side in _SIDES)
  shapes = (
    (_BATCH, *_SIDES, form.channels),
    (form.taps, form.taps, inputs, outputs),
    (outputs,),
    (_BATCH, *sides, outputs),
  )
  x, kernel, bias, shortcut = (
    random.standard_normal(shape, np.float32) for shape in shapes
  )
  x, kernel, shortcut = (
    a.astype(jnp.dtype(dtype)) for a in (x, kernel, shortcut)
  )
  return x, kernel, bias, shortcut


def _both_ways(form: _Form, x, kernel, bias, shortcut):
  """The result by oneDNN's call, and by XLA's own operations."""
  if not form.shortcut:
    shortcut = None
  stride, rate = form.stride, form.rate
  rule = "tensorflow" if stride > 1 else "explicit"
  pads = tuple(
    same_padding(side, form.taps, stride, rate, rule) for side in _SIDES
  )
  found = onednn.convolution(
    x,
    kernel,
    bias,
    padding=pads,
    stride=stride,
    rate=rate,
    shortcut=shortcut,
    activation=form.activation,
  )
  x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  expected = lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    pads,
    rhs_dilation=(rate, rate),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=1 if form.features else form.channels,
  )
  expected += bias if shortcut is None else bias + shortcut
  if form.activation is not None:
    expected = form.activation(expected)
  return found.astype(jnp.float32), expected


if __name__ == "__main__":
  print(run(*sys.argv[1:]), flush=True)
