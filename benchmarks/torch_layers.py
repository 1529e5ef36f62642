"""Single layers in eager torch: depthwise convolutions, and any network's."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.timing import Case, Contender, Program

NCHW, NHWC = torch.contiguous_format, torch.channels_last
_MASKS = {
  "input gradient": [True, False, False],
  "kernel gradient": [False, True, False],
}


def place(device: str) -> str:
  """torch's name of a device."""
  return "cuda" if device == "gpu" else "cpu"


def waiter(device: str) -> Callable[[Any], Any]:
  """What waits for a result on `device`."""
  if device == "gpu":
    return lambda _: torch.cuda.synchronize()
  return lambda value: value


def depthwise(
  case: Case, device: str, rate: int, arrays: list[np.ndarray]
) -> list[Contender]:
  """The convolution or gradient `case.what` in both layouts.

  Args:
    case: names pass and dtype.
    device: "cpu" or "gpu".
    rate: of the taps.
    arrays: input, kernel and gradient of the output, channels last.
  """
  return [
    Contender(
      name,
      functools.partial(_start_depthwise, case, device, rate, arrays, layout),
    )
    for name, layout in (("torch", NHWC), ("torch NCHW", NCHW))
  ]


def _start_depthwise(case, device, rate, arrays, layout) -> Program:
  x, kernel, dy = arrays
  x, dy = (
    torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    for array in (x, dy)
  )
  kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
  dtype, channels = getattr(torch, case.dtype), x.shape[1]
  x, kernel, dy = (a.to(place(device), dtype) for a in (x, kernel, dy))

  def call():
    if case.what == "forward":
      return F.conv2d(x, kernel, None, 1, rate, rate, channels)
    return torch.ops.aten.convolution_backward(
      *(dy, x, kernel, None, [1, 1], [rate] * 2, [rate] * 2, False, [0, 0]),
      *(channels, _MASKS[case.what]),
    )

  output = call()
  if case.what == "kernel gradient":
    output = output[1].permute(2, 3, 1, 0)
  else:
    output = output if case.what == "forward" else output[0]
    output = output.permute(0, 2, 3, 1)
  return Program(call, waiter(device), output.float().cpu().numpy())


def start_product(device: str, side: int, dtype: str) -> Program:
  """The product of two square matrices."""
  a = torch.ones((side, side), dtype=getattr(torch, dtype)).to(place(device))
  return Program(lambda: a @ a, waiter(device))


def start_layer(
  case: Case,
  device: str,
  arrays: list[np.ndarray],
  *,
  stride: int,
  rates: tuple[int, int],
) -> Program:
  """A convolution with bias and ReLU, as batch norm folds, channels last.

  Args:
    case: names the dtype.
    device: "cpu" or "gpu".
    arrays: input (b, h, w, c), kernel (kh, kw, c or 1, c') and bias (c',).
    stride: of both axes.
    rates: of rows and columns.
  """
  x, kernel, bias = arrays
  dtype = getattr(torch, case.dtype)
  x, kernel, bias = (
    torch.from_numpy(a).to(place(device), dtype)
    for a in (
      x.transpose(0, 3, 1, 2),
      kernel.transpose(3, 2, 0, 1).copy(),
      bias,
    )
  )
  x, kernel = (a.contiguous(memory_format=NHWC) for a in (x, kernel))
  padding = [(n - 1) * rate // 2 for n, rate in zip(kernel.shape[2:], rates)]
  groups = x.shape[1] // kernel.shape[1]

  def call():
    with torch.no_grad():
      y = F.conv2d(x, kernel, bias, stride, padding, rates, groups)
      return F.relu_(y)

  output = call().permute(0, 2, 3, 1).float().cpu().numpy()
  return Program(call, waiter(device), output)
