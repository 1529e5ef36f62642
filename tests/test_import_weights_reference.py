"""DeepLabs of torchvision, segmentation_models_pytorch and transformers, of
random weights.

The networks themselves, where torch is (requirements-reference.txt).
"""

import jax
import numpy as np
import pytest

from deeplab_jax import import_weights
from deeplab_jax.models import resize_bilinear

_REASON = "SKIPPED FOR LACK OF {}: pip install -r requirements-reference.txt"
torch = pytest.importorskip("torch", reason=_REASON.format("torch"))
segmentation = pytest.importorskip(
  "torchvision.models.segmentation", reason=_REASON.format("torchvision")
)
smp = pytest.importorskip(
  "segmentation_models_pytorch",
  reason=_REASON.format("segmentation-models-pytorch"),
)

pytestmark = pytest.mark.slow
CLASSES = 5
TORCHVISION = (
  "deeplabv3_resnet50",
  "deeplabv3_resnet101",
  "deeplabv3_mobilenet_v3_large",
  "lraspp_mobilenet_v3_large",
)
# Network, encoder, other arguments there, arguments that are not usual here.
SMP = (
  ("DeepLabV3Plus", "resnet50", {}, {}),
  ("DeepLabV3Plus", "resnet101", {}, {}),
  ("DeepLabV3Plus", "mobilenet_v2", {}, {}),
  ("DeepLabV3Plus", "tu-mobilenetv2_100", {}, {}),
  ("DeepLabV3Plus", "tu-resnet50", {}, {}),
  ("DeepLabV3Plus", "tu-xception41", {}, {}),
  ("DeepLabV3Plus", "tu-xception65", {}, {}),
  ("DeepLabV3Plus", "tu-xception71", {}, {}),
  ("DeepLabV3Plus", "tu-convnext_tiny", {}, {}),
  ("DeepLabV3Plus", "tu-mobilenetv4_conv_small", {}, {}),
  ("DeepLabV3Plus", "tu-tf_efficientnetv2_b0", {}, {}),
  ("DeepLabV3Plus", "tu-mobilenetv2_140", {}, {}),
  (
    "DeepLabV3Plus",
    "tu-convnext_atto",
    {"encoder_output_stride": 8, "in_channels": 4},
    {"output_stride": 8},
  ),
  ("DeepLabV3", "tu-mobilenetv4_conv_small", {"in_channels": 1}, {}),
  (
    "DeepLabV3Plus",
    "resnet50",
    {"encoder_output_stride": 8, "decoder_aspp_separable": False},
    {"output_stride": 8},
  ),
  ("DeepLabV3Plus", "mobilenet_v2", {"decoder_channels": 128}, {}),
  ("DeepLabV3", "mobilenet_v2", {"decoder_channels": 64}, {}),
  ("DeepLabV3", "resnet50", {}, {}),
  ("DeepLabV3", "mobilenet_v2", {"decoder_aspp_separable": True}, {}),
  (
    "DeepLabV3",
    "tu-mobilenetv2_100",
    {"encoder_output_stride": 16, "decoder_atrous_rates": (2, 4, 6)},
    {"output_stride": 16, "atrous_rates": (2, 4, 6)},
  ),
)


def _draw(network) -> None:
  """Random weights that keep activations near one, and random statistics."""
  generator = torch.Generator().manual_seed(0)

  def normal(tensor, centre, spread):
    noise = torch.randn(tensor.shape, generator=generator)
    tensor.data = centre + spread * noise

  for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      normal(module.weight, 1, 0.1)
      normal(module.bias, 0, 0.1)
      normal(module.running_mean, 0, 0.1)
      normal(module.running_var, 0, 0.2)
      module.running_var.data.exp_()
    elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
      normal(module.weight, 0, (2 / module.weight[0].numel()) ** 0.5)
      if module.bias is not None:
        normal(module.bias, 0, 0.1)


def _compare(name, network, sizes, exactness, **given):
  """At three sizes, the logits of pictures."""
  _draw(network.eval())
  state = network.state_dict()
  model = import_weights.torch_deeplab(state, **given)
  variables = import_weights.from_torch(state, model)

  @jax.jit
  def apply(variables, images):
    logits = model.apply(variables, images)
    return resize_bilinear(logits, images.shape[1:3], model.half_pixel)

  for size in sizes:
    random = np.random.default_rng(0)
    images = random.standard_normal((1, *size, model.channels))
    images = images.astype(np.float32)
    with torch.no_grad():
      wanted = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    wanted = wanted["out"] if isinstance(wanted, dict) else wanted
    wanted = wanted.numpy().transpose(0, 2, 3, 1)
    found = apply(variables, images)
    assert found.shape == wanted.shape
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    exactness.check(name, "logits", error, 1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, exactness):
  options = {"weights": None, "weights_backbone": None}
  if name.startswith("deeplab"):
    options["aux_loss"] = True
  network = getattr(segmentation, name)(num_classes=CLASSES, **options)
  sizes = (65, 97), (64, 80), (33, 50)
  _compare(f"torchvision {name}", network, sizes, exactness)


@pytest.mark.parametrize("name, encoder, options, given", SMP)
def test_segmentation_models_pytorch(name, encoder, options, given, exactness):
  network = getattr(smp, name)(
    encoder, encoder_weights=None, classes=CLASSES, **options
  )
  # Others than multiples of the stride are refused there.
  sizes = (64, 96), (80, 48), (48, 48)
  words = [f"segmentation_models_pytorch {name}, {encoder}"]
  words += [f"{key} {value}" for key, value in options.items()]
  _compare(", ".join(words), network, sizes, exactness, **given)


class _Resized(torch.nn.Module):
  """transformers' network, whose logits are resized as its processor does."""

  def __init__(self, network):
    super().__init__()
    self.network = network

  def state_dict(self):
    return self.network.state_dict()

  def forward(self, images):
    logits = self.network(images).logits
    return torch.nn.functional.interpolate(
      logits, images.shape[2:], mode="bilinear", align_corners=False
    )


@pytest.mark.parametrize("output_stride", [8, 16])
def test_transformers(output_stride, exactness):
  transformers = pytest.importorskip(
    "transformers", reason=_REASON.format("transformers")
  )
  config = transformers.MobileNetV2Config(
    output_stride=output_stride, num_labels=CLASSES
  )
  network = _Resized(transformers.MobileNetV2ForSemanticSegmentation(config))
  title = f"transformers MobileNetV2, output stride {output_stride}"
  sizes = (65, 97), (64, 80), (33, 50)
  _compare(title, network, sizes, exactness, output_stride=output_stride)
