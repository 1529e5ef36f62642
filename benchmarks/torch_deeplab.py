"""DeepLabv3+ written plainly in torch.nn, as a good user of torch would.

The computation, and the names of modules, of `deeplab_jax.models.DeepLab`.
Takes uint8 images (b, h, w, 3) as they are decoded. Knows nothing of jax.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks import BACKBONES, ConvNorm, SeparableConv

_HEAD = (0.0003, 1e-5)
# Mean (0..255) and factor of the input.
INPUTS = {
  "xception_65": ((127.5, 127.5, 127.5), 2 / 255),
  "resnet_101": ((123.15, 115.90, 103.06), 1.0),
  "mobilenet_v2": ((127.5, 127.5, 127.5), 2 / 255),
}


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling of separable convolutions."""

  def __init__(self, inputs, rates=(6, 12, 18)):
    super().__init__()
    self.image_pooling = ConvNorm(inputs, 256, _HEAD)
    self.aspp0 = ConvNorm(inputs, 256, _HEAD)
    self.aspp1, self.aspp2, self.aspp3 = (
      SeparableConv(inputs, 256, _HEAD, rate=rate) for rate in rates
    )
    self.concat_projection = ConvNorm(5 * 256, 256, _HEAD)

  def forward(self, x):
    pooled = self.image_pooling(x.mean((2, 3), keepdim=True))
    branches = [pooled.expand(-1, -1, *x.shape[2:]), self.aspp0(x)]
    branches += [self.aspp1(x), self.aspp2(x), self.aspp3(x)]
    return self.concat_projection(torch.cat(branches, 1))


class Decoder(nn.Module):
  """Joins the encoder's features with the low-level ones."""

  def __init__(self, low_channels):
    super().__init__()
    self.feature_projection0 = ConvNorm(low_channels, 48, _HEAD)
    self.decoder_conv0 = SeparableConv(256 + 48, 256, _HEAD)
    self.decoder_conv1 = SeparableConv(256, 256, _HEAD)

  def forward(self, x, low_level):
    x = upsample(x, low_level.shape[2:])
    x = torch.cat([x, self.feature_projection0(low_level)], 1)
    return self.decoder_conv1(self.decoder_conv0(x))


class DeepLab(nn.Module):
  """From uint8 images (b, h, w, 3) to logits (b, classes, h / 4, w / 4).

  Attributes:
    layout: memory format of the features.
  """

  def __init__(self, backbone, num_classes=21, layout=torch.channels_last):
    super().__init__()
    self.backbone = BACKBONES[backbone]()
    self.aspp = ASPP(self.backbone.channels)
    self.decoder = Decoder(self.backbone.low_channels)
    self.logits = nn.Conv2d(256, num_classes, 1)
    mean, self.scale = INPUTS[backbone]
    self.register_buffer("offset", torch.tensor(mean) * self.scale, False)
    self.layout = layout
    self.to(memory_format=layout)

  def forward(self, images):
    x = images.float() * self.scale - self.offset
    dtype = next(self.backbone.parameters()).dtype
    x = x.permute(0, 3, 1, 2).to(dtype, memory_format=self.layout)
    x, low_level = self.backbone(x)
    return self.logits(self.decoder(self.aspp(x), low_level).float())

  def prepare(self, dtype=torch.float32):
    """Folds all batch norms and casts all but the logits, for inference."""
    self.eval()
    for module in self.modules():
      if isinstance(module, ConvNorm):
        module.fuse()
    for part in (self.backbone, self.aspp, self.decoder):
      part.to(dtype)
    return self.to(memory_format=self.layout)


class Labels(nn.Module):
  """From images to label maps, uint8 (b, h, w), of their size."""

  def __init__(self, network):
    super().__init__()
    self.network = network

  def forward(self, images):
    logits = upsample(self.network(images), images.shape[1:3])
    return logits.argmax(1).to(torch.uint8)


class Loss(nn.Module):
  """From images and labels (b, h, w), 255 ignored, to the mean loss."""

  def __init__(self, network):
    super().__init__()
    self.network = network

  def forward(self, images, labels):
    logits = upsample(self.network(images), labels.shape[1:])
    return F.cross_entropy(logits, labels.long(), ignore_index=255)


def upsample(x, size):
  """Bilinear with aligned corners."""
  return F.interpolate(x, size, mode="bilinear", align_corners=True)
