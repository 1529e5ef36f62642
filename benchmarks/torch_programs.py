"""What torch users run: eager and compiled, in the layouts that they know."""

import contextlib
import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Case, Contender, Program
from benchmarks.torch_deeplab import DeepLab, Labels, Loss
from benchmarks.torch_layers import NCHW, NHWC, place, waiter
from benchmarks.torch_networks import ConvNorm

_COMPILE = functools.partial(torch.compile, dynamic=False, fullgraph=True)
_INFERENCE = {
  "torch eager NCHW": (NCHW, None),
  "torch eager": (NHWC, None),
  "torch.compile": (NHWC, _COMPILE),
}
_TRAINING = dict(_INFERENCE)
# A graph of launches on the GPU; constants folded, and weights laid out for
# oneDNN, on the CPU.
_GRAPHS = {
  "torch.compile graphs": (
    NHWC,
    functools.partial(_COMPILE, mode="reduce-overhead"),
  )
}
_FROZEN = {
  "torch.compile frozen": (
    NHWC,
    functools.partial(_COMPILE, options={"freezing": True}),
  )
}


def inference(
  case: Case, device: str, variables: Any, images: np.ndarray
) -> list[Contender]:
  """Every way to infer `case` with `variables`, batch norm fused."""
  _forget_compiled()
  extra = _GRAPHS if device == "gpu" else _FROZEN
  return [
    Contender(
      name,
      functools.partial(
        _start_inference, case, device, variables, images, layout, compiler
      ),
    )
    for name, (layout, compiler) in (_INFERENCE | extra).items()
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
  return [
    Contender(
      name,
      functools.partial(
        _start_training,
        case,
        device,
        variables,
        batch,
        weight_decay,
        layout,
        compiler,
      ),
    )
    for name, (layout, compiler) in _TRAINING.items()
  ]


def _start_inference(case, device, variables, images, layout, compiler):
  before = _allocated(device)
  network = load(DeepLab(case.model, layout=layout), variables)
  network.prepare(getattr(torch, case.dtype)).to(place(device))
  module = network if case.what == "logits" else Labels(network).eval()
  images = torch.from_numpy(images).to(place(device))
  run = module if compiler is None else compiler(module)

  def call():
    with torch.no_grad():
      return run(images)

  value = call()
  if case.what == "logits":
    value = value.permute(0, 2, 3, 1)
  return Program(
    call, waiter(device), value.cpu().numpy(), _peak_bytes(device, before)
  )


def _start_training(
  case, device, variables, batch, weight_decay, layout, compiler
):
  before = _allocated(device)
  network = load(DeepLab(case.model, layout=layout), variables)
  module = Loss(network).to(place(device)).train()
  optimizer = _optimizer(network, weight_decay)
  batch = [
    torch.from_numpy(batch[name]).to(place(device))
    for name in ("image", "label")
  ]
  loss_of = module if compiler is None else compiler(module)
  cast = contextlib.nullcontext()
  if case.dtype == "bfloat16":
    cast = torch.autocast("cuda" if device == "gpu" else "cpu", torch.bfloat16)

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


def _optimizer(network: nn.Module, weight_decay: float):
  """Decay for full and pointwise kernels, twice the rate for the only bias."""
  decayed, others = [], []
  for module in network.modules():
    if isinstance(module, nn.Conv2d):
      rest = others if module.groups > 1 else decayed
      rest.append(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
      others += [module.weight, module.bias]
  return torch.optim.SGD(
    [
      {"params": decayed, "weight_decay": weight_decay},
      {"params": others},
      {"params": [network.logits.bias], "lr": 2 * 0.007},
    ],
    lr=0.007,
    momentum=0.9,
    fused=True,
  )


def load(network: DeepLab, variables: Any) -> DeepLab:
  """Copies flax variables into the modules of the same names.

  Raises:
    ValueError: leaves were left over, so the networks differ.
  """
  copied = 0
  with torch.no_grad():
    for name, module in network.named_modules():
      if isinstance(module, ConvNorm) or name == "logits":
        copied += _copy(module, *_at(variables, name.split(".")))
  leaves = sum(_count(variables[name]) for name in ("params", "batch_stats"))
  if copied != leaves:
    raise ValueError(f"copied {copied} of {leaves} leaves into torch's network")
  return network


def _at(variables, path):
  """Parameters and statistics of the module at `path`."""
  trees = [variables["params"], variables["batch_stats"]]
  for name in path:
    trees = [tree.get(name, {}) for tree in trees]
  return trees


def _copy(module, params, stats) -> int:
  """Returns how many leaves were copied."""
  conv = getattr(module, "conv", module)
  pairs = [(conv.bias, params.get("bias"))]
  for name in ("kernel", "depthwise_kernel"):
    if name in params:
      pairs.append((conv.weight, params[name].transpose(3, 2, 0, 1)))
  if "norm" in params:
    norm, values = module.norm, params["norm"] | stats["norm"]
    pairs += [(norm.weight, values["scale"]), (norm.bias, values["bias"])]
    pairs += [
      (norm.running_mean, values["mean"]),
      (norm.running_var, values["var"]),
    ]
  pairs = [pair for pair in pairs if pair[0] is not None]
  for target, array in pairs:
    target.copy_(torch.from_numpy(np.ascontiguousarray(array)))
  return len(pairs)


def _count(tree) -> int:
  return sum(map(_count, tree.values())) if isinstance(tree, dict) else 1


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
