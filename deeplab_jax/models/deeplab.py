"""DeepLabv3+: encoder, decoder and logits (paper, section 3, figure 2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab_jax.models.aspp import ASPP
from deeplab_jax.models.backbones import BACKBONES, find_backbone
from deeplab_jax.models.decoder import Decoder
from deeplab_jax.models.layers import Conv, truncated_normal

OUTPUT_STRIDES = (8, 16, 32)
LOW_LEVEL_FEATURES = ("conv4", "conv3", "conv2")
_LOW_LEVEL_STRIDES = {"conv2": 4, "conv3": 8, "conv4": 16}


class DeepLab(nn.Module):
  """The segmentation network.

  The output stride, rates and dtype change no parameter's name or shape: one
  set of parameters serves all of them.

  Attributes:
    num_classes: channels of the logits.
    backbone: a key of `BACKBONES`.
    output_stride: image pixels per encoder feature, 8, 16 or 32.
    multi_grid: factors of the atrous rates of the backbone's last three units
      or convolutions; None takes the backbone's published ones.
    width_multiplier: factor of all channels of a MobileNet backbone.
    atrous_rates: of the ASPP branches, at output stride 16; scaled by
      16 / output_stride inside. `()` leaves these branches out.
    image_pooling: whether ASPP has the image-level branch.
    aspp_separable: whether ASPP's 3x3 convolutions are depthwise separable.
    decoder_separable: the same for the decoder.
    decoder: low-level features that join, by the paper's names and from coarse
      to fine: `("conv2",)`, `("conv3", "conv2")`; `()` for no decoder.
    decoder_low_level_channels: that each of them is reduced to.
    decoder_convs: `(kernel size, channels)` of the convolutions after joining.
    dropout_rate: after ASPP, in training.
    dtype: of the computation. Parameters, batch statistics and logits stay
      float32.
  """

  num_classes: int
  backbone: str = "xception_65"
  output_stride: int = 16
  multi_grid: tuple[int, int, int] | None = None
  width_multiplier: float = 1.0
  atrous_rates: tuple[int, ...] = (6, 12, 18)
  image_pooling: bool = True
  aspp_separable: bool = True
  decoder_separable: bool = True
  decoder: tuple[str, ...] = ("conv2",)
  decoder_low_level_channels: int = 48
  decoder_convs: tuple[tuple[int, int], ...] = ((3, 256), (3, 256))
  dropout_rate: float = 0.1
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self):
    check_arguments(**model_arguments(self))
    super().__post_init__()

  @property
  def logits_stride(self) -> int:
    """Image pixels per logit: of the finest low-level feature, if any."""
    if not self.decoder:
      return self.output_stride
    return _LOW_LEVEL_STRIDES[self.decoder[-1]]

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
      images: `(b, h, w, 3)` as `preprocess` gives them, any size.
      train: whether to drop out and to normalise by batch statistics, which
        updates the collection `batch_stats`.
      frozen_batch_norm: in training, normalise by the stored statistics and
        leave them; scale and bias are still trained.

    Returns:
      float32 `(b, ceil(h / s), ceil(w / s), num_classes)` with s the logits
      stride: 4 with the decoder, `output_stride` without. Not yet resized to
      the image.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
      raise ValueError(f"images must be (b, h, w, 3), got {images.shape}")
    use_batch_stats = train and not frozen_batch_norm
    x, low_levels = self._backbone()(images.astype(self.dtype), use_batch_stats)
    x = ASPP(
      tuple(rate * 16 // self.output_stride for rate in self.atrous_rates),
      self.image_pooling,
      self.aspp_separable,
      dropout_rate=self.dropout_rate,
      dtype=self.dtype,
      name="aspp",
    )(x, use_batch_stats, train)
    for i, name in enumerate(self.decoder):
      x = Decoder(
        self.decoder_low_level_channels,
        self.decoder_convs,
        self.decoder_separable,
        dtype=self.dtype,
        name="decoder" if i == 0 else f"decoder_{i}",
      )(x, low_levels[name], use_batch_stats)
    wide = jnp.promote_types(self.dtype, jnp.float32)
    return Conv(self.num_classes, truncated_normal(0.01), wide, name="logits")(
      x
    )

  def _backbone(self) -> nn.Module:
    entry = BACKBONES[self.backbone]
    settings = dict(entry.settings, output_stride=self.output_stride)
    if entry.multi_grid is None:
      settings["width_multiplier"] = self.width_multiplier
    else:
      settings["multi_grid"] = self.multi_grid or entry.multi_grid
    return entry.module(**settings, dtype=self.dtype, name="backbone")


def model_arguments(model: DeepLab) -> dict[str, Any]:
  """The arguments that `model` was built from."""
  names = set(model.__dataclass_fields__) - {"parent", "name"}
  return {name: getattr(model, name) for name in sorted(names)}


def model_to_dict(model: DeepLab) -> dict[str, Any]:
  """`model`'s arguments as JSON holds them."""
  arguments = model_arguments(model)
  return arguments | {"dtype": jnp.dtype(model.dtype).name}


def model_from_dict(arguments: dict[str, Any]) -> DeepLab:
  """The model of `model_to_dict`; lists may stand for tuples."""
  arguments = {name: _tuples(value) for name, value in arguments.items()}
  unknown = sorted(set(arguments) - set(DeepLab.__dataclass_fields__))
  if unknown:
    raise ValueError(f"unknown arguments of DeepLab: {', '.join(unknown)}")
  if "dtype" in arguments:
    arguments["dtype"] = jnp.dtype(arguments["dtype"])
  return DeepLab(**arguments)


def _tuples(value):
  if isinstance(value, list | tuple):
    return tuple(_tuples(item) for item in value)
  return value


def check_arguments(
  num_classes: int,
  backbone: str = "xception_65",
  output_stride: int = 16,
  multi_grid: tuple[int, int, int] | None = None,
  width_multiplier: float = 1.0,
  atrous_rates: tuple[int, ...] = (6, 12, 18),
  decoder: tuple[str, ...] = ("conv2",),
  decoder_low_level_channels: int = 48,
  decoder_convs: tuple[tuple[int, int], ...] = ((3, 256), (3, 256)),
  dropout_rate: float = 0.1,
  **switches: Any,
) -> None:
  """Raises ValueError naming the first argument that `DeepLab` cannot take."""
  entry = find_backbone(backbone)
  _require(num_classes >= 1, "num_classes must be at least 1", num_classes)
  _require(
    output_stride in OUTPUT_STRIDES,
    "output_stride must be 8, 16 or 32",
    output_stride,
  )
  _require(
    multi_grid is None
    or (entry.multi_grid and len(multi_grid) == 3 and min(multi_grid) >= 1),
    "multi_grid must be None or three positive factors"
    if entry.multi_grid
    else f"multi_grid must be None for {backbone}",
    multi_grid,
  )
  _require(
    width_multiplier > 0, "width_multiplier must be positive", width_multiplier
  )
  _require(
    width_multiplier == 1 or entry.multi_grid is None,
    f"width_multiplier must be 1 for {backbone}: only MobileNets have one",
    width_multiplier,
  )
  _require(
    all(r >= 1 and r * 16 % output_stride == 0 for r in atrous_rates),
    "atrous_rates (given at output stride 16) must be positive and whole when"
    f" scaled by 16 / {output_stride}",
    atrous_rates,
  )
  _check_decoder(
    decoder, decoder_low_level_channels, decoder_convs, output_stride
  )
  _require(
    0 <= dropout_rate < 1, "dropout_rate must be in [0, 1)", dropout_rate
  )


def _check_decoder(decoder, channels, convs, output_stride):
  order = [name for name in LOW_LEVEL_FEATURES if name in decoder]
  _require(
    not isinstance(decoder, str) and list(decoder) == order,
    "decoder must name low-level features from coarse to fine, of"
    f" {LOW_LEVEL_FEATURES}",
    decoder,
  )
  _require(
    all(_LOW_LEVEL_STRIDES[name] < output_stride for name in decoder),
    f"decoder features must be finer than output_stride {output_stride}",
    decoder,
  )
  _require(
    channels >= 1, "decoder_low_level_channels must be at least 1", channels
  )
  _require(
    all(len(c) == 2 and c[0] % 2 == 1 and c[1] >= 1 for c in convs)
    and (not decoder or len(convs) > 0),
    "decoder_convs must be (odd kernel size, channels) pairs, one or more",
    convs,
  )


def _require(holds, rule, got):
  if not holds:
    raise ValueError(f"{rule}; got {got!r}")
