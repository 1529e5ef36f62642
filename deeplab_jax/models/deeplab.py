"""DeepLabv3+: encoder, decoder and logits (paper, section 3, figure 2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.arguments import (
  LITE_HEADS,
  LOW_LEVEL_STRIDES,
  check_arguments,
)
from deeplab_jax.models.aspp import ASPP, HEAD_NORM, refining_conv
from deeplab_jax.models.atrous import RatesFrom
from deeplab_jax.models.auxiliary import NAME as AUXILIARY
from deeplab_jax.models.auxiliary import AuxiliaryHead
from deeplab_jax.models.backbones import ValueRange, build_backbone
from deeplab_jax.models.decoder import Decoder
from deeplab_jax.models.dpc import DPC
from deeplab_jax.models.layers import Conv, truncated_normal
from deeplab_jax.models.lraspp import LiteRASPP
from deeplab_jax.models.ops.precision import wide_dtype
from deeplab_jax.models.positions import PositionsOf

INFERENCE_DTYPES = ("float32", "bfloat16")
"""What pictures can be labelled in, whatever a network was trained in."""


class DeepLab(nn.Module):
  """The segmentation network.

  The output stride, rates and dtype change no parameter's name or shape: one
  set of parameters serves all of them.

  Attributes:
    num_classes: channels of the logits.
    channels: of the images, 1 to 32; three are red, green and blue.
    image_dtype: of the images as they come, a name of `IMAGE_DTYPES`.
    value_range: lowest and highest value of each channel, which `preprocess`
      takes for 0 and 255; `()` for images of 0..255.
    backbone: a key of `BACKBONES`.
    output_stride: image pixels per encoder feature, 8, 16 or 32.
    multi_grid: factors of the atrous rates of the backbone's last three units
      or convolutions; None takes the backbone's published ones.
    width_multiplier: factor of all channels of a MobileNet backbone.
    head: of the encoder: `"aspp"`; `"dpc"`, the dense prediction cell of the
      released Xception-71; `"lraspp"`, the whole head of the released
      MobileNetV3, which joins one low-level feature; `"lraspp_torch"`,
      torchvision's kind of it.
    atrous_rates: of the ASPP branches, at output stride 16; scaled by
      16 / output_stride inside. `()` leaves these branches out.
    image_pooling: whether ASPP has the image-level branch.
    aspp_channels: of every branch of ASPP, or of the dense prediction cell, and
      of its result.
    head_convs: `(kernel size, channels)` of convolutions between that head and
      decoder or logits, separable as the decoder's; `()` for none.
    aspp_separable: whether ASPP's 3x3 convolutions are depthwise separable.
    decoder_separable: the same for the decoder.
    separable_norm: whether those have batch norm and ReLU between their halves,
      too; torch's networks have not.
    decoder: low-level features that join, by the paper's names and from coarse
      to fine: `("conv2",)`, `("conv3", "conv2")`; `()` for no decoder. torch's
      networks join `("stage2",)`, the result of all that has stride 4.
    decoder_low_level_channels: that each of them is reduced to.
    decoder_convs: `(kernel size, channels)` of the convolutions after joining.
    auxiliary: feature that a second head is on, which gives logits in training
      alone: `"conv2"`, `"conv3"`, `"conv4"` (strides 4, 8, 16) or
      `"features"`, the backbone's last; `""` for none.
    whole_patches: whether a backbone of patches (ConvNeXt, vision transformer)
      leaves out what is left of a side that they do not divide, as the networks
      in PyTorch do; filled up with zeros otherwise, so that the image's border
      is seen.
    positions_of: whose code tells a vision transformer where patches are:
      `"timm"`, `"transformers"` or `"authors"`; see `models.positions`.
    rates_from: where the rate begins that replaces a stride of the backbone:
      `"next_unit"`, behind the unit that had it; `"same_unit"`, in that unit,
      as in some networks of torch; `"next_stage"`, behind all units of its
      stage.
    half_pixel: whether all resizing, that of the logits to the image included,
      aligns outer edges, as torch's `align_corners=False`; else the centres of
      corner pixels, as in the paper.
    pad_input: whether images are padded to a multiple of the output stride plus
      1 pixels a side, as the paper's are, where they are labelled; torch's
      networks take them as they are.
    dropout_rate: after ASPP, in training.
    drop_path_rate: of the last residual block of a backbone that has stochastic
      depth, in training.
    batch_norm_momentum: share of the old moving statistics kept at each step,
      everywhere; None takes the published ones (0.9997 but in ResNet, 0.95, and
      MobileNet, 0.997), which take thousands of steps to settle.
    dtype: of the computation. Parameters, batch statistics and logits stay
      float32.
  """

  num_classes: int
  backbone: str = "xception_65"
  output_stride: int = 16
  multi_grid: tuple[int, int, int] | None = None
  width_multiplier: float = 1.0
  head: str = "aspp"
  atrous_rates: tuple[int, ...] = (6, 12, 18)
  image_pooling: bool = True
  aspp_channels: int = 256
  head_convs: tuple[tuple[int, int], ...] = ()
  aspp_separable: bool = True
  decoder_separable: bool = True
  separable_norm: bool = True
  decoder: tuple[str, ...] = ("conv2",)
  decoder_low_level_channels: int = 48
  decoder_convs: tuple[tuple[int, int], ...] = ((3, 256), (3, 256))
  auxiliary: str = ""
  whole_patches: bool = False
  positions_of: PositionsOf = "timm"
  rates_from: RatesFrom = "next_unit"
  half_pixel: bool = False
  pad_input: bool = True
  dropout_rate: float = 0.1
  drop_path_rate: float = 0.0
  batch_norm_momentum: float | None = None
  dtype: jnp.dtype = jnp.float32
  channels: int = 3
  image_dtype: str = "uint8"
  value_range: ValueRange = ()

  def __post_init__(self):
    check_arguments(self)
    super().__post_init__()

  @property
  def logits_stride(self) -> int:
    """Image pixels per logit: of the finest low-level feature, if any."""
    if not self.decoder:
      return self.output_stride
    return min(self.output_stride, LOW_LEVEL_STRIDES[self.decoder[-1]])

  @property
  def crop_stride(self) -> int:
    """Images are padded to a multiple of it plus 1 a side; 0: not at all."""
    return self.output_stride if self.pad_input else 0

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    frozen_batch_norm: bool = False,
  ) -> jax.Array:
    """Computes logits.

    Args:
      images: `(b, h, w, channels)` as `preprocess` gives them, any size.
      train: whether to drop out and to normalise by batch statistics, which
        updates the collection `batch_stats`.
      frozen_batch_norm: in training, normalise by the stored statistics and
        leave them; scale and bias are still trained.

    Returns:
      float32 `(b, ceil(h / s), ceil(w / s), num_classes)` with s the logits
      stride: 4 with the decoder, `output_stride` without. Not yet resized to
      the image. In training those of the second head, if there is one, are the
      only entry of the collection "intermediates".
    """
    if images.ndim != 4 or images.shape[-1] != self.channels:
      raise ValueError(
        f"images must be (b, h, w, {self.channels}), got {images.shape}"
      )
    use_batch_stats = train and not frozen_batch_norm
    backbone = build_backbone(
      self.backbone,
      output_stride=self.output_stride,
      multi_grid=self.multi_grid,
      width_multiplier=self.width_multiplier,
      whole_patches=self.whole_patches,
      drop_path_rate=self.drop_path_rate if train else 0.0,
      batch_norm_momentum=self.batch_norm_momentum,
      dtype=self.dtype,
      rates_from=self.rates_from,
      half_pixel=self.half_pixel,
      positions_of=self.positions_of,
    )
    norm = HEAD_NORM.with_momentum(self.batch_norm_momentum)
    x, low_levels = backbone(images.astype(self.dtype), use_batch_stats)
    if not set(self.decoder) <= set(low_levels):
      raise ValueError(
        f"decoder must be of the low-level features of {self.backbone}, "
        f"{', '.join(low_levels) or 'none'}; got {self.decoder}"
      )
    if self.auxiliary and (train or self.is_initializing()):
      feature = {"features": x, **low_levels}[self.auxiliary]
      head = AuxiliaryHead(
        self.num_classes, self.dropout_rate, norm, self.dtype, name=AUXILIARY
      )
      logits = head(feature, use_batch_stats, train)
      self.sow("intermediates", f"{AUXILIARY}_logits", logits)
    if self.head in LITE_HEADS:
      head = LiteRASPP(
        self.num_classes,
        norm=norm,
        dtype=self.dtype,
        torchvision=self.head == "lraspp_torch",
        half_pixel=self.half_pixel,
        name="lraspp",
      )
      return head(x, low_levels[self.decoder[0]], use_batch_stats)
    x = self._encoder_head(norm)(x, use_batch_stats, train)
    for i, conv in enumerate(self.head_convs):
      x = refining_conv(
        conv,
        norm,
        separable=self.decoder_separable,
        separable_norm=self.separable_norm,
        dtype=self.dtype,
        name=f"head_conv{i}",
      )(x, use_batch_stats)
    for i, name in enumerate(self.decoder):
      x = Decoder(
        self.decoder_low_level_channels,
        self.decoder_convs,
        self.decoder_separable,
        norm=norm,
        dtype=self.dtype,
        separable_norm=self.separable_norm,
        half_pixel=self.half_pixel,
        name="decoder" if i == 0 else f"decoder_{i}",
      )(x, low_levels[name], use_batch_stats)
    wide = wide_dtype(self.dtype)
    logits = Conv(self.num_classes, truncated_normal(0.01), wide, name="logits")
    return logits(x)

  def _encoder_head(self, norm) -> nn.Module:
    if self.head == "dpc":
      return DPC(
        self.output_stride,
        self.aspp_channels,
        dropout_rate=self.dropout_rate,
        norm=norm,
        dtype=self.dtype,
        name="dpc",
      )
    return ASPP(
      tuple(rate * 16 // self.output_stride for rate in self.atrous_rates),
      self.image_pooling,
      self.aspp_separable,
      dropout_rate=self.dropout_rate,
      norm=norm,
      dtype=self.dtype,
      separable_norm=self.separable_norm,
      features=self.aspp_channels,
      name="aspp",
    )


def model_arguments(model: nn.Module) -> dict[str, Any]:
  """The arguments that `model`, a `DeepLab` or `Classifier`, was built from."""
  names = set(model.__dataclass_fields__) - {"parent", "name"}
  return {name: getattr(model, name) for name in sorted(names)}


def model_to_dict(model: nn.Module) -> dict[str, Any]:
  """`model`'s arguments as JSON holds them."""
  arguments = model_arguments(model)
  return arguments | {"dtype": jnp.dtype(model.dtype).name}


def model_from_dict(
  arguments: dict[str, Any], network: type[nn.Module] = DeepLab
) -> nn.Module:
  """The `network` of `model_to_dict`; lists may stand for tuples."""
  arguments = {name: _tuples(value) for name, value in arguments.items()}
  unknown = sorted(set(arguments) - set(network.__dataclass_fields__))
  if unknown:
    raise ValueError(
      f"unknown arguments of {network.__name__}: {', '.join(unknown)}"
    )
  if "dtype" in arguments:
    arguments["dtype"] = jnp.dtype(arguments["dtype"])
  return network(**arguments)


def for_inference(
  model: DeepLab, output_stride: int | None = None, dtype: str | None = None
) -> DeepLab:
  """`model` as it is to label pictures.

  Args:
    model: the stored network.
    output_stride: 8, 16 or 32 in place of its own; None keeps that.
    dtype: a name of `INFERENCE_DTYPES` that it computes in, in place of its
      own; None keeps that.

  Raises:
    ValueError: another stride or dtype.
  """
  settings = {}
  if output_stride is not None:
    settings["output_stride"] = output_stride
  if dtype is not None:
    if dtype not in INFERENCE_DTYPES:
      allowed = " or ".join(INFERENCE_DTYPES)
      raise ValueError(f"dtype must be {allowed}, got {dtype!r}")
    settings["dtype"] = jnp.dtype(dtype)
  return model.clone(**settings) if settings else model


def _tuples(value):
  if isinstance(value, list | tuple):
    return tuple(_tuples(item) for item in value)
  return value
