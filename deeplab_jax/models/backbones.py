"""Every backbone by name: how to build it, what input it was trained on."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models import mobilenet, mobilenet_v3, resnet, xception
from deeplab_jax.models.layers import Norm


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A named backbone.

  Attributes:
    module: its class.
    norm: batch-norm settings of the official training.
    settings: what the name says of the class's attributes.
    multi_grid: published default, or None where there is none to set.
    has_width: whether it takes a width multiplier.
    mean: RGB (0..255) that the network's input takes for 0.
    scale: factor of what is left after the mean.
    weight_decay: of the official training.
  """

  module: type[nn.Module]
  norm: Norm
  settings: dict
  multi_grid: tuple[int, int, int] | None = None
  has_width: bool = False
  mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
  scale: tuple[float, float, float] = (2 / 255, 2 / 255, 2 / 255)
  weight_decay: float = 4e-5


_NO_GRID = (1, 1, 1)
_TORCHVISION = {
  "mean": (123.675, 116.28, 103.53),
  "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375),
}


def _xception(name):
  return Backbone(
    xception.Xception, xception.NORM, {"variant": name}, multi_grid=_NO_GRID
  )


def _resnet(variant, multi_grid=_NO_GRID, beta=False, torch=False, **inputs):
  return Backbone(
    resnet.ResNet,
    resnet.NORM,
    {"variant": variant, "beta": beta, "torchvision": torch},
    multi_grid=multi_grid,
    weight_decay=1e-4,
    **inputs,
  )


def _plain_resnet(variant):
  return _resnet(variant, mean=(123.15, 115.90, 103.06), scale=(1.0, 1.0, 1.0))


BACKBONES = {
  "xception_41": _xception("xception_41"),
  "xception_65": _xception("xception_65"),
  "xception_71": _xception("xception_71"),
  "resnet_50": _plain_resnet("resnet_50"),
  "resnet_101": _plain_resnet("resnet_101"),
  "resnet_50_beta": _resnet("resnet_50", (1, 2, 4), beta=True),
  "resnet_101_beta": _resnet("resnet_101", (1, 2, 4), beta=True),
  "resnet_50_torch": _resnet("resnet_50", torch=True, **_TORCHVISION),
  "resnet_101_torch": _resnet("resnet_101", torch=True, **_TORCHVISION),
  "mobilenet_v2": Backbone(
    mobilenet.MobileNetV2, mobilenet.NORM, {}, has_width=True
  ),
  "mobilenet_v2_torch": Backbone(
    mobilenet.MobileNetV2,
    mobilenet.TORCHVISION_NORM,
    {"torchvision": True},
    has_width=True,
    **_TORCHVISION,
  ),
  "mobilenet_v3_large_seg": Backbone(
    mobilenet_v3.MobileNetV3,
    mobilenet.NORM,
    {"variant": "mobilenet_v3_large_seg"},
  ),
  "mobilenet_v3_small_seg": Backbone(
    mobilenet_v3.MobileNetV3,
    mobilenet.NORM,
    {"variant": "mobilenet_v3_small_seg"},
  ),
}


def find_backbone(name: str) -> Backbone:
  """The entry of `name`; ValueError with the known names otherwise."""
  if name not in BACKBONES:
    known = ", ".join(sorted(BACKBONES))
    raise ValueError(f"backbone must be one of {known}; got {name!r}")
  return BACKBONES[name]


def build_backbone(
  name: str,
  *,
  output_stride: int,
  multi_grid: tuple[int, int, int] | None = None,
  width_multiplier: float = 1.0,
  batch_norm_momentum: float | None = None,
  dtype: jnp.dtype = jnp.float32,
) -> nn.Module:
  """The module `backbone` of a network; see `DeepLab` for the arguments.

  It maps `(b, h, w, 3)` and whether to use batch statistics to features and a
  dict of low-level features.
  """
  entry = find_backbone(name)
  settings = dict(
    entry.settings,
    output_stride=output_stride,
    norm=entry.norm.with_momentum(batch_norm_momentum),
    dtype=dtype,
  )
  if entry.multi_grid is not None:
    settings["multi_grid"] = multi_grid or entry.multi_grid
  if entry.has_width:
    settings["width_multiplier"] = width_multiplier
  return entry.module(**settings, name="backbone")


def padding_value(backbone: str) -> tuple[float, float, float]:
  """The RGB value (0..255) that `preprocess` maps to 0."""
  return find_backbone(backbone).mean


def preprocess(images: jax.Array, backbone: str) -> jax.Array:
  """Scales images as the backbone's published weights expect.

  Args:
    images: `(..., 3)` RGB, uint8, or float in 0..255.
    backbone: a key of `BACKBONES`.

  Returns:
    float32 of the same shape: RGB * 2 / 255 - 1, but for the plain ResNets RGB
    less the ImageNet mean, for torchvision's divided by the deviation as well.
  """
  if images.shape[-1] != 3:
    raise ValueError(f"images must be (..., 3) RGB, got shape {images.shape}")
  entry = find_backbone(backbone)
  offset = np.multiply(entry.mean, entry.scale).astype(np.float32)
  scale = np.asarray(entry.scale, np.float32)
  return jnp.asarray(images, jnp.float32) * scale - offset
