"""What torch users run: eager and compiled, in the layouts that they know."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Case, Contender, Program
from benchmarks.torch_deeplab import DeepLab, Labels, Loss
from benchmarks.torch_layers import NCHW, NHWC, place, waiter
from benchmarks.torch_weights import load

Compiler = Callable[[nn.Module], Callable]
COMPILE: Compiler = functools.partial(torch.compile, dynamic=False)
# One launch for a whole network on a GPU; on a CPU constants folded, and
# weights laid out for oneDNN beforehand.
GRAPHS: Compiler = functools.partial(COMPILE, mode="reduce-overhead")
FROZEN: Compiler = functools.partial(COMPILE, options={"freezing": True})
_COMMON = {
  "torch eager NCHW": (NCHW, None),
  "torch eager": (NHWC, None),
  "torch.compile": (NHWC, COMPILE),
}
_FASTEST = {
  "cpu": {"torch.compile frozen": (NHWC, FROZEN)},
  "gpu": {"torch.compile graphs": (NHWC, GRAPHS)},
}
_LEARNING_RATE = 0.007
_MOMENTUM = 0.9


def inference(
  case: Case, device: str, variables: Any, images: np.ndarray
) -> list[Contender]:
  """Every way to infer `case` with `variables`, batch norm fused."""
  _forget_compiled()

  def build(layout):
    network = load(DeepLab(case.model, layout=layout), variables)
    network.prepare(getattr(torch, case.dtype))
    return network if case.what == "logits" else Labels(network)

  return [
    Contender(
      name,
      functools.partial(
        start_inference,
        device,
        functools.partial(build, layout),
        images,
        compiler,
      ),
    )
    for name, (layout, compiler) in (_COMMON | _FASTEST[device]).items()
  ]


def training(
  case: Case,
  device: str,
  variables: Any,
  batch: dict[str, np.ndarray],
  weight_decay: float,
) -> list[Contender]:
  """Every way to make the steps of `case` from `variables`."""
  _forget_compiled()

  def build(layout):
    network = load(DeepLab(case.model, layout=layout), variables)
    return Loss(network), _parameter_groups(network, weight_decay)

  return [
    Contender(
      name,
      functools.partial(
        start_training,
        device,
        functools.partial(build, layout),
        batch,
        case.dtype,
        compiler,
      ),
    )
    for name, (layout, compiler) in _COMMON.items()
  ]


def start_inference(
  device: str,
  build: Callable[[], nn.Module],
  images: np.ndarray,
  compiler: Compiler | None,
) -> Program:
  """Compiles what `build` gives, and runs it; logits come out channels last."""
  before = _allocated(device)
  module = build().eval().to(place(device))
  images = torch.from_numpy(images).to(place(device))
  run = module if compiler is None else compiler(module)

  def call():
    with torch.no_grad():
      return run(images)

  output = call()
  if output.ndim == 4:
    output = output.permute(0, 2, 3, 1)
  return Program(
    call, waiter(device), output.cpu().numpy(), _peak_bytes(device, before)
  )


def start_training(
  device: str,
  build: Callable[[], tuple[nn.Module, list[dict]]],
  batch: dict[str, np.ndarray],
  dtype: str,
  compiler: Compiler | None,
) -> Program:
  """Compiles the loss that `build` gives; the output is of two steps.

  Args:
    device: "cpu" or "gpu".
    build: gives the loss, a module of images and labels, and the groups of
      parameters for SGD.
    batch: "image" and "label".
    dtype: of the computation; other than float32 by autocast.
    compiler: of the loss, and so of its gradient; None runs it as it is.
  """
  before = _allocated(device)
  module, groups = build()
  module.to(place(device)).train()
  optimizer = torch.optim.SGD(
    groups, lr=_LEARNING_RATE, momentum=_MOMENTUM, fused=True
  )
  batch = [
    torch.from_numpy(batch[name]).to(place(device))
    for name in ("image", "label")
  ]
  loss_of = module if compiler is None else compiler(module)
  cast = contextlib.nullcontext()
  if dtype != "float32":
    cast = torch.autocast(place(device), getattr(torch, dtype))

  def call():
    optimizer.zero_grad(set_to_none=True)
    with cast:
      loss = loss_of(*batch)
    loss.backward()
    optimizer.step()
    return loss

  losses = [call().item() for _ in range(2)]
  return Program(
    call, waiter(device), np.array(losses), _peak_bytes(device, before)
  )


def _parameter_groups(network: DeepLab, weight_decay: float) -> list[dict]:
  """Decay for full and pointwise kernels, twice the rate for the only bias."""
  decayed, others = [], []
  for module in network.modules():
    if isinstance(module, nn.Conv2d):
      (others if module.groups > 1 else decayed).append(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
      others += [module.weight, module.bias]
  return [
    {"params": decayed, "weight_decay": weight_decay},
    {"params": others},
    {"params": [network.logits.bias], "lr": 2 * _LEARNING_RATE},
  ]


def _forget_compiled() -> None:
  """Of the cases before; the variants of one case share the code compiled."""
  torch._dynamo.reset()
  torch._dynamo.config.recompile_limit = 64


def _allocated(device: str) -> int:
  """Bytes in use; the peak is counted from here on."""
  if device == "cpu":
    return 0
  torch.cuda.empty_cache()
  torch.cuda.reset_peak_memory_stats()
  return torch.cuda.memory_allocated()


def _peak_bytes(device: str, before: int) -> int | None:
  if device == "cpu":
    return None
  return torch.cuda.max_memory_allocated() - before
