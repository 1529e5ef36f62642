"""segmentation_models.pytorch's DeepLabV3Plus, as its users run it.

A network of about the same cost, not the same: its ASPP and decoder differ in
detail, and it takes only sides that are multiples of 16, so it is given images
one pixel smaller. Its outputs are not compared.
"""

import functools

import numpy as np
import torch
from torch import nn

from benchmarks import torch_programs
from benchmarks.timing import Case, Contender, Program

_ENCODERS = {
  "mobilenet_v2": "mobilenet_v2",
  "resnet_101": "resnet101",
  "xception_65": "tu-xception65",
}


class Network(nn.Module):
  """From uint8 images (b, h, w, 3) to logits of their size."""

  def __init__(self, model, num_classes=21):
    super().__init__()
    self.network = _package().DeepLabV3Plus(
      _ENCODERS[model],
      encoder_weights=None,
      classes=num_classes,
      encoder_output_stride=16,
    )
    self.to(memory_format=torch.channels_last)

  def forward(self, images):
    x = images.float() * (2 / 255) - 1
    dtype = next(self.network.parameters()).dtype
    return self.network(x.permute(0, 3, 1, 2).to(dtype))


class Labels(Network):
  """From images to label maps, uint8 (b, h, w)."""

  def forward(self, images):
    return super().forward(images).argmax(1).to(torch.uint8)


class Loss(Network):
  """From images and labels (b, h, w), 255 ignored, to the mean loss."""

  def forward(self, images, labels):
    logits = super().forward(images).float()
    return nn.functional.cross_entropy(logits, labels.long(), ignore_index=255)


def inference(case: Case, device: str, images: np.ndarray) -> list[Contender]:
  """Eager and compiled programs for label maps; none for logits."""
  if case.what != "labels":
    return []
  images = _smaller(images)

  def start(compiler) -> Program:
    def build():
      return Labels(case.model).to(getattr(torch, case.dtype))

    program = torch_programs.start_inference(device, build, images, compiler)
    return program._replace(output=None)

  fastest = {"cpu": torch_programs.FROZEN, "gpu": torch_programs.GRAPHS}
  return _contenders(start, fastest[device])


def training(
  case: Case, device: str, batch: dict[str, np.ndarray], weight_decay: float
) -> list[Contender]:
  """Eager and compiled steps; all parameters decay."""
  batch = {name: _smaller(array) for name, array in batch.items()}

  def build():
    loss = Loss(case.model)
    groups = [{"params": loss.parameters(), "weight_decay": weight_decay}]
    return loss, groups

  def start(compiler) -> Program:
    program = torch_programs.start_training(
      device, build, batch, case.dtype, compiler
    )
    return program._replace(output=None)

  return _contenders(start, torch_programs.COMPILE)


def _contenders(start, fastest) -> list[Contender]:
  compilers = {"smp eager": None, "smp compile": fastest}
  return [
    Contender(name, functools.partial(start, compiler))
    for name, compiler in compilers.items()
  ]


def _smaller(array: np.ndarray) -> np.ndarray:
  """Without the last row and column: k * 16 + 1 to k * 16."""
  return np.ascontiguousarray(array[:, :-1, :-1])


@functools.cache
def _package():
  """The package, which imports torchvision.

  PyPI's torchvision is built for CUDA. Beside a torch for CPU its operators do
  not load, and for lack of two, which no segmentation uses, its import fails.
  """
  if torch.version.cuda is None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
      library.define(
        f"{name}(Tensor boxes, Tensor scores, float iou) -> Tensor"
      )
    _package.library = library  # which undefines them when it goes
  import segmentation_models_pytorch

  return segmentation_models_pytorch
