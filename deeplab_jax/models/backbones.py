"""Every backbone by name, and all that depends on which one a network has.

A new backbone is a module and its entry in `BACKBONES`. Nothing elsewhere reads
anything out of a backbone's name.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models import (
  convnext,
  efficient,
  mobilenet,
  mobilenet_v3,
  resnet,
  vit,
  xception,
)
from deeplab_jax.models.atrous import RatesFrom
from deeplab_jax.models.layers import Norm
from deeplab_jax.models.positions import PositionsOf

ValueRange = tuple[tuple[float, float], ...]  # low and high of each channel


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A named backbone; the defaults suit a new one.

  Attributes:
    module: its class. It takes `output_stride`, `norm` and `dtype` beside its
      `settings`, and maps `(b, h, w, 3)` and whether to use batch statistics to
      features and a dict of the low-level features "conv2", "conv3" and
      "conv4" (strides 4, 8 and 16).
    norm: batch-norm settings of the official training; None if there is no
      batch norm, and no such attribute.
    settings: the attributes of the class that make it this backbone.
    multi_grid: published default, or None where there is none to set.
    has_width: whether it takes a width multiplier.
    has_drop_path: whether it takes a `drop_path_rate`.
    has_patches: whether it takes `whole_patches`.
    mean: RGB (0..255) that the network's input takes for 0.
    scale: factor of what is left after the mean.
    weight_decay: of the official training.
    head: of the published segmentation network, as `DeepLab` takes it.
    decoder: the same of its decoder.
    classifier_features: channels of the 1x1 convolution, at width 1, between
      the features and the pooling of an ImageNet classifier; 0 for none.
    classifier_dropout: share of the pooled features that its training drops.
    classifier_norm: whether the pooled features go through layer norm.
    scope: of the official TensorFlow variables; "" is the backbone's name.
    telltale: part of the name of a variable that only this one has of the
      backbones of the same scope; "" where there is none.
  """

  module: type[nn.Module]
  norm: Norm | None
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  multi_grid: tuple[int, int, int] | None = None
  has_width: bool = False
  has_drop_path: bool = False
  has_patches: bool = False
  mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
  scale: tuple[float, float, float] = (2 / 255, 2 / 255, 2 / 255)
  weight_decay: float = 4e-5
  head: str = "aspp"
  decoder: tuple[str, ...] = ("conv2",)
  classifier_features: int = 0
  classifier_dropout: float = 0.0
  classifier_norm: bool = False
  scope: str = ""
  telltale: str = ""

  @property
  def has_rates_from(self) -> bool:
    """Whether its class takes `rates_from`, see `atrous_plan`."""
    return self._takes("rates_from")

  @property
  def has_half_pixel(self) -> bool:
    """Whether its class resizes, and takes `half_pixel`."""
    return self._takes("half_pixel")

  @property
  def has_positions(self) -> bool:
    """Whether its class takes `positions_of`, see `models.positions`."""
    return self._takes("positions_of")

  def _takes(self, attribute: str) -> bool:
    return attribute in self.module.__dataclass_fields__


_NO_GRID = (1, 1, 1)
_TORCHVISION = {
  "mean": (123.675, 116.28, 103.53),
  "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375),
}


def _xception(variant):
  return Backbone(
    xception.Xception,
    xception.NORM,
    {"variant": variant},
    multi_grid=_NO_GRID,
    classifier_dropout=0.5,
  )


def _resnet(variant, multi_grid=_NO_GRID, beta=False, torch=False, **facts):
  return Backbone(
    resnet.ResNet,
    resnet.NORM,
    {"variant": variant, "beta": beta, "torchvision": torch},
    multi_grid=multi_grid,
    weight_decay=1e-4,
    **facts,
  )


def _plain_resnet(variant, scope):
  return _resnet(
    variant,
    mean=(123.15, 115.90, 103.06),
    scale=(1.0, 1.0, 1.0),
    scope=scope,
  )


def _beta_resnet(variant, scope):
  return _resnet(
    variant, (1, 2, 4), beta=True, scope=scope, telltale="/conv1_1/"
  )


def _mobilenet_v2(norm, **facts):
  return Backbone(
    mobilenet.MobileNetV2,
    norm,
    **{"has_width": True, "classifier_features": 1280} | facts,
    classifier_dropout=0.2,
  )


def _mobilenet_v2_torch(classifier_features=1280, **settings):
  return _mobilenet_v2(
    mobilenet.TORCHVISION_NORM,
    settings={"torchvision": True} | settings,
    classifier_features=classifier_features,
    **_TORCHVISION,
  )


def _mobilenet_v3(variant, **facts):
  return Backbone(
    mobilenet_v3.MobileNetV3,
    mobilenet.NORM,
    {"variant": variant},
    decoder=("conv3",),
    classifier_dropout=0.2,
    **facts,
  )


def _convnext(variant):
  return Backbone(
    convnext.ConvNeXt,
    None,
    {"variant": variant},
    has_drop_path=True,
    has_patches=True,
    classifier_norm=True,
    **_TORCHVISION,
  )


def _vit(variant):
  return Backbone(
    vit.VisionTransformer,
    None,
    {"variant": variant},
    has_drop_path=True,
    has_patches=True,
    **_TORCHVISION,
  )


def _efficient(variant, norm, **facts):
  return Backbone(
    efficient.EfficientNet,
    norm,
    {"variant": variant},
    has_drop_path=True,
    classifier_dropout=0.2,
    **facts,
  )


BACKBONES = {
  "xception_41": _xception("xception_41"),
  "xception_65": _xception("xception_65"),
  "xception_71": _xception("xception_71"),
  # Of the repository pytorch-deeplab-xception.
  "xception_65_torch": dataclasses.replace(
    _xception("xception_65"),
    norm=Norm(xception.NORM.momentum, epsilon=1e-5),
    settings={"variant": "xception_65", "torch": True},
    **_TORCHVISION,
  ),
  "resnet_50": _plain_resnet("resnet_50", "resnet_v1_50"),
  "resnet_101": _plain_resnet("resnet_101", "resnet_v1_101"),
  "resnet_50_beta": _beta_resnet("resnet_50", "resnet_v1_50"),
  "resnet_101_beta": _beta_resnet("resnet_101", "resnet_v1_101"),
  "resnet_50_torch": _resnet("resnet_50", torch=True, **_TORCHVISION),
  "resnet_101_torch": _resnet("resnet_101", torch=True, **_TORCHVISION),
  "mobilenet_v2": _mobilenet_v2(mobilenet.NORM, scope="MobilenetV2"),
  "mobilenet_v2_torch": _mobilenet_v2_torch(),
  # Of segmentation_models_pytorch: with the classifier's last convolution.
  "mobilenet_v2_1280_torch": _mobilenet_v2_torch(0, last_features=1280),
  # Of the repositories pytorch-deeplab-xception and DeepLabV3Plus-Pytorch.
  "mobilenet_v2_padded_torch": _mobilenet_v2_torch(pad_first=True),
  "mobilenet_v2_valid_torch": _mobilenet_v2_torch(
    pad_first=True, pad_stem=False
  ),
  "mobilenet_v3_large_seg": _mobilenet_v3(
    "mobilenet_v3_large_seg",
    head="lraspp",
    scope="MobilenetV3",
    telltale="/expanded_conv_14/",
  ),
  "mobilenet_v3_small_seg": _mobilenet_v3(
    "mobilenet_v3_small_seg", head="lraspp", scope="MobilenetV3"
  ),
  "mobilenet_v3_large_torch": _mobilenet_v3(
    "mobilenet_v3_large_torch", head="lraspp_torch", **_TORCHVISION
  ),
  **{variant: _convnext(variant) for variant in convnext.VARIANTS},
  **{
    variant: _efficient(variant, efficient.MOBILENET_V4_NORM, **_TORCHVISION)
    for variant in efficient.MOBILENET_V4
  },
  **{
    variant: _efficient(variant, efficient.EFFICIENTNET_V2_NORM, **_TORCHVISION)
    for variant in efficient.EFFICIENTNET_V2_BASE
  },
  **{
    variant: _efficient(variant, efficient.EFFICIENTNET_V2_NORM)
    for variant in efficient.EFFICIENTNET_V2
  },
  **{variant: _vit(variant) for variant in vit.VARIANTS},
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
  whole_patches: bool = False,
  drop_path_rate: float = 0.0,
  batch_norm_momentum: float | None = None,
  dtype: jnp.dtype = jnp.float32,
  rates_from: RatesFrom = "next_unit",
  half_pixel: bool = False,
  positions_of: PositionsOf = "timm",
) -> nn.Module:
  """The module `backbone` of a network; see `DeepLab` for the arguments.

  With a `drop_path_rate` it draws; 0 is for all but training.

  It maps `(b, h, w, 3)` and whether to use batch statistics to features and a
  dict of low-level features.
  """
  entry = find_backbone(name)
  settings = dict(entry.settings, output_stride=output_stride, dtype=dtype)
  if entry.norm is not None:
    settings["norm"] = entry.norm.with_momentum(batch_norm_momentum)
  if entry.multi_grid is not None:
    settings["multi_grid"] = multi_grid or entry.multi_grid
  if entry.has_rates_from:
    settings["rates_from"] = rates_from
  if entry.has_half_pixel:
    settings["half_pixel"] = half_pixel
  if entry.has_positions:
    settings["positions_of"] = positions_of
  if entry.has_width:
    settings["width_multiplier"] = width_multiplier
  if entry.has_patches:
    settings["whole_patches"] = whole_patches
  if entry.has_drop_path:
    settings["drop_path_rate"] = drop_path_rate
  return entry.module(**settings, name="backbone")


def normalisation(
  backbone: str, channels: int = 3, value_range: ValueRange = ()
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and scale of each channel: the network's input is
  (image - mean) * scale.

  Args:
    backbone: a key of `BACKBONES`.
    channels: of the images. Three have the published figures of red, green and
      blue; each of any other number has the mean of these.
    value_range: as `DeepLab` has it.

  Returns:
    float64 `(channels,)` each, in the units of the images.
  """
  entry = find_backbone(backbone)
  mean, scale = np.array(entry.mean), np.array(entry.scale)
  if channels != len(mean):
    mean, scale = (np.repeat(x.mean(), channels) for x in (mean, scale))
  if not value_range:
    return mean, scale
  low, high = np.transpose(value_range)
  unit = (high - low) / 255
  return low + mean * unit, scale / unit


def padding_value(
  backbone: str, channels: int = 3, value_range: ValueRange = ()
) -> tuple[float, ...]:
  """The value of each channel that `preprocess` maps to 0; see there."""
  mean, _ = normalisation(backbone, channels, value_range)
  return tuple(mean.tolist())


def preprocess(
  images: jax.Array, backbone: str, value_range: ValueRange = ()
) -> jax.Array:
  """Scales images as the backbone's published weights expect.

  Args:
    images: `(..., channels)`; of three channels RGB, uint8, or float in 0..255.
    backbone: a key of `BACKBONES`.
    value_range: lowest and highest value of each channel, which take the place
      of 0 and 255; values beyond are set to them. () is 0 and 255.

  Returns:
    float32 of the same shape: RGB * 2 / 255 - 1, but for the plain ResNets RGB
    less the ImageNet mean, for torchvision's divided by the deviation as well.
    See `normalisation` for other channels and ranges.
  """
  channels = images.shape[-1]
  if value_range and len(value_range) != channels:
    raise ValueError(
      f"value_range must be of the {channels} channels of images "
      f"{images.shape}, got {value_range}"
    )
  mean, scale = normalisation(backbone, channels, value_range)
  images = jnp.asarray(images, jnp.float32)
  if not value_range:
    offset = (mean * scale).astype(np.float32)
    return images * scale.astype(np.float32) - offset
  low, high = np.asarray(value_range, np.float32).T
  centred = jnp.clip(images, low, high) - mean.astype(np.float32)
  return centred * scale.astype(np.float32)
