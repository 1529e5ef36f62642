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
    subtract_mean: whether the input is RGB less the ImageNet mean, in place of
      RGB scaled to -1..1.
    weight_decay: of the official training.
  """

  module: type[nn.Module]
  norm: Norm
  settings: dict
  multi_grid: tuple[int, int, int] | None = None
  has_width: bool = False
  subtract_mean: bool = False
  weight_decay: float = 4e-5


BACKBONES = {
  **{
    name: Backbone(
      xception.Xception, xception.NORM, {"variant": name}, multi_grid=(1, 1, 1)
    )
    for name in ("xception_41", "xception_65", "xception_71")
  },
  **{
    name: Backbone(
      resnet.ResNet,
      resnet.NORM,
      {"variant": name},
      multi_grid=(1, 1, 1),
      subtract_mean=True,
      weight_decay=1e-4,
    )
    for name in ("resnet_50", "resnet_101")
  },
  **{
    f"{name}_beta": Backbone(
      resnet.ResNet,
      resnet.NORM,
      {"variant": name, "beta": True},
      multi_grid=(1, 2, 4),
      weight_decay=1e-4,
    )
    for name in ("resnet_50", "resnet_101")
  },
  "mobilenet_v2": Backbone(
    mobilenet.MobileNetV2, mobilenet.NORM, {}, has_width=True
  ),
  **{
    name: Backbone(mobilenet_v3.MobileNetV3, mobilenet.NORM, {"variant": name})
    for name in ("mobilenet_v3_large_seg", "mobilenet_v3_small_seg")
  },
}

_IMAGENET_MEAN = (123.15, 115.90, 103.06)


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
  if find_backbone(backbone).subtract_mean:
    return _IMAGENET_MEAN
  return (127.5, 127.5, 127.5)


def preprocess(images: jax.Array, backbone: str) -> jax.Array:
  """Scales images as the backbone's published weights expect.

  Args:
    images: `(..., 3)` RGB, uint8, or float in 0..255.
    backbone: a key of `BACKBONES`.

  Returns:
    float32 of the same shape: RGB less the ImageNet mean for the plain ResNets,
    else RGB * 2 / 255 - 1.
  """
  if images.shape[-1] != 3:
    raise ValueError(f"images must be (..., 3) RGB, got shape {images.shape}")
  images = jnp.asarray(images, jnp.float32)
  if find_backbone(backbone).subtract_mean:
    return images - np.asarray(_IMAGENET_MEAN, np.float32)
  return images * np.float32(2 / 255) - 1
