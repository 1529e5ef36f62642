"""The part "encoders": features of encoders beside timm's, weight for weight.

Needs `requirements-reference.txt`. Programs map float32 images to the last
features, with the same random weights; batch norm is folded in ours, and in
torch by the compiler. The resize that transformers' features end in is part of
all. With `--against smp`, segmentation_models.pytorch is asked for its
DeepLabV3Plus of the same encoder and stride: a line without times, which says
how it refused, if it did.
"""

import argparse
import functools
import itertools
import re
import sys
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch

from benchmarks import torch_programs
from benchmarks.networks import start_folded
from benchmarks.timing import (
  Case,
  Comparison,
  Contender,
  Program,
  Result,
  measure,
)
from deeplab_jax.import_weights import from_torch
from deeplab_jax.models import DeepLab, convnext, vit
from deeplab_jax.models.backbones import build_backbone
from docs.make_encoders import ENCODERS

_TOLERANCE = 1e-3  # relative to the largest value


class Features(nn.Module):
  """The last features of `encoder`, which stands where a network has it."""

  encoder: str
  output_stride: int
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    settings = {}
    if self.encoder in convnext.VARIANTS:
      settings["whole_patches"] = True  # as timm
    self.backbone = build_backbone(
      self.encoder,
      output_stride=self.output_stride,
      dtype=jnp.dtype(self.dtype),
      **settings,
    )

  def __call__(self, images: jax.Array) -> jax.Array:
    """`(b, h, w, 3)` to `(b, h', w', c)`."""
    return self.backbone(images, False)[0]


class TimmFeatures(torch.nn.Module):
  """The same by timm, channels first inside; images are channels last."""

  def __init__(self, encoder: str, output_stride: int, dtype: torch.dtype):
    super().__init__()
    self.is_vit, self.stride = encoder in vit.VARIANTS, output_stride
    self.dtype = dtype
    settings = {"features_only": True, "output_stride": output_stride}
    if self.is_vit:  # fills patches up, as ours
      settings = {"dynamic_img_size": True, "dynamic_img_pad": True}
    self.network = timm.create_model(encoder, **settings).to(
      dtype, memory_format=torch.channels_last
    )

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """`(b, h, w, 3)` to `(b, c, h', w')`."""
    sides = images.shape[1:3]
    images = images.permute(0, 3, 1, 2).to(self.dtype)
    if not self.is_vit:
      return self.network(images)[-1].float()
    last = len(self.network.blocks) - 1
    _, (tokens,) = self.network.forward_intermediates(
      images, indices=[last], norm=True
    )
    return torch.nn.functional.interpolate(
      tokens.float(),
      [-(-side // self.stride) for side in sides],
      mode="bilinear",
      align_corners=True,
    )


def run_encoders(options: argparse.Namespace) -> Iterator[Comparison]:
  """Every encoder at every output stride, one image at a time."""
  for encoder in options.encoders or ENCODERS:
    state = timm.create_model(encoder).state_dict()
    randomise(state)
    for stride, dtype in itertools.product(
      options.output_strides, options.dtypes
    ):
      what = f"features at {stride}"
      case = Case("encoders", encoder, what, options.size, dtype=dtype)
      print(f"encoders: {case}", file=sys.stderr)
      images = _images(case)
      contenders = [
        Contender("jax", functools.partial(_ours, case, stride, state, images)),
        *_timms(case, stride, state, images, options),
      ]
      results = measure(
        contenders,
        rounds=options.rounds,
        calls=options.calls,
        warm=options.warm,
        check=functools.partial(_check, case),
      )
      if "smp" in options.against:
        results.append(Result("smp", error=_refusal(encoder, stride)))
      yield case, results


def _images(case: Case) -> np.ndarray:
  generator = np.random.default_rng(0)
  shape = (case.batch, case.size, case.size, 3)
  return generator.standard_normal(shape, np.float32)


def randomise(state: dict[str, torch.Tensor]) -> None:
  """Gives a state dict weights with which features stay near one, the same at
  every call."""
  generator = torch.Generator().manual_seed(0)
  for name, value in state.items():
    if not value.is_floating_point():
      continue
    noise = torch.randn(value.shape, generator=generator)
    if name.endswith("running_var"):
      value.copy_(torch.exp(0.2 * noise))
    elif value.ndim > 1:
      value.copy_(noise * np.prod(value.shape[1:]) ** -0.5)
    else:
      value.copy_((not name.endswith(("bias", "mean"))) + 0.1 * noise)


def _ours(case, stride, state, images) -> Program:
  network = DeepLab(2, case.model, atrous_rates=(), decoder=())
  variables = from_torch(state, network, parts="backbone")
  variables = {
    collection: {"backbone": tree["backbone"]}
    for collection, tree in variables.items()
    if "backbone" in tree
  }
  model = Features(case.model, stride, case.dtype)
  return start_folded(model, model.apply, variables, images)


def _timms(case, stride, state, images, options) -> list[Contender]:
  torch._dynamo.reset()

  def build():
    dtype = getattr(torch, case.dtype)
    features = TimmFeatures(case.model, stride, dtype)
    own = features.network.state_dict()
    by_name = {_plain(name): value for name, value in state.items()}
    features.network.load_state_dict(
      {name: by_name[_plain(name)] for name in own}
    )
    return features

  def start(compiler):
    return torch_programs.start_inference("cpu", build, images, compiler)

  programs = {"torch eager": None, "torch.compile": torch_programs.FROZEN}
  return [
    Contender(name, functools.partial(start, compiler))
    for name, compiler in programs.items()
    if not options.torch or name in options.torch
  ]


def _plain(name: str) -> str:
  """A name in timm's whole network, of one in what hands out features."""
  return re.sub(r"^(stem|stages)_(\d)", r"\1.\2", name)


def _refusal(encoder: str, stride: int) -> str | None:
  """What segmentation_models.pytorch says to a DeepLabV3Plus of these."""
  import segmentation_models_pytorch

  try:
    network = segmentation_models_pytorch.DeepLabV3Plus(
      f"tu-{encoder}", encoder_weights=None, encoder_output_stride=stride
    )
    with torch.no_grad():
      network.eval()(torch.zeros(1, 3, 224, 224))  # patches of 14, 16 and 32
  except Exception as error:
    return f"{type(error).__name__}: {error}".splitlines()[0]
  return None


def _check(case, reference, output) -> float:
  difference = np.abs(output - reference).max() / np.abs(reference).max()
  if case.dtype == "float32" and not difference <= _TOLERANCE:
    raise ValueError(
      f"{case.what} of {case.model} differ from jax's by {difference}, more "
      f"than {_TOLERANCE}: the programs do not compute the same"
    )
  return float(difference)
