"""What the DeepLabs that people train with torch have behind their encoders.

Those of torchvision, of segmentation_models_pytorch and of transformers, and
the two DeepLabv3+ repositories from which most others were forked:
VainF/DeepLabV3Plus-Pytorch and jfzhang95/pytorch-deeplab-xception. A head says
which torch module is which of ours, and what it does that its weights do not
tell.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Modules = dict[str, str]

TORCHVISION, SMP = "torchvision", "segmentation_models_pytorch"
VAINF = "VainF/DeepLabV3Plus-Pytorch"
JFZHANG = "jfzhang95/pytorch-deeplab-xception"
TRANSFORMERS = "transformers"
BESIDE = "beside_the_network"
UNUSED = ("aux_classifier", "classification_head", BESIDE)
"""Parts of a state dict that serve its training alone."""
_COMMON = {
  "head": "aspp",
  "half_pixel": False,
  "pad_input": False,
  "aspp_separable": False,
  "head_convs": (),
}
_NO_DECODER = {"decoder": ()}
_DECODER = {"decoder": ("stage2",)}


@dataclasses.dataclass(frozen=True)
class Head:
  """One kind of network but its encoder.

  Attributes:
    name: what the network is called there.
    owner: where it is from.
    telltale: a module that no other has.
    prefix: of the names of the encoder's modules.
    logits: module of the logits.
    modules: others, as pairs of convolution and normalisation (or nothing), to
      the path of ours.
    aspp: module that holds `convs` and `project`; "" for none.
    unused: modules of the encoder that the network does not compute.
    arguments: of `DeepLab`, whatever the weights.
    output_stride: that it is trained with, unless said otherwise.
    rates: atrous rates, at the stride that it is trained with.
    rates_stay: whether they are the same at another stride.
    dropout_rate: in training.
    low_level_first: whether the decoder joins the low-level features in front.
  """

  name: str
  owner: str
  telltale: str
  logits: str
  modules: Mapping[tuple[str, str], str]
  arguments: Mapping[str, Any]
  prefix: str = "backbone."
  aspp: str = ""
  unused: tuple[str, ...] = ()
  output_stride: int = 16
  rates: tuple[int, ...] = (6, 12, 18)
  rates_stay: bool = False
  dropout_rate: float = 0.5
  low_level_first: bool = False

  @property
  def title(self) -> str:
    """Such as "DeepLabV3 of torchvision"."""
    return f"{self.name} of {self.owner}"


HEADS = (
  Head(
    "DeepLabV3",
    TORCHVISION,
    telltale="classifier.0.convs",
    logits="classifier.4",
    modules={("classifier.1", "classifier.2"): "head_conv0"},
    aspp="classifier.0",
    arguments=_COMMON
    | _NO_DECODER
    | {"half_pixel": True, "decoder_separable": False},
    output_stride=8,
    rates=(12, 24, 36),
  ),
  Head(
    "LRASPP",
    TORCHVISION,
    telltale="classifier.cbr",
    logits="classifier.high_classifier",
    modules={
      ("classifier.cbr.0", "classifier.cbr.1"): "lraspp/aspp0",
      ("classifier.scale.1", ""): "lraspp/image_pooling",
      ("classifier.low_classifier", ""): "lraspp/feature_projection0",
      ("classifier.high_classifier", ""): "lraspp/decoder_conv0",
    },
    arguments={
      "head": "lraspp_torch",
      "decoder": ("conv3",),
      "half_pixel": True,
      "pad_input": False,
    },
  ),
  Head(
    "DeepLabV3Plus",
    SMP,
    telltale="decoder.aspp.0.convs",
    prefix="encoder.",
    logits="segmentation_head.0",
    modules={
      ("decoder.aspp.1", "decoder.aspp.2"): "head_conv0",
      ("decoder.block1.0", "decoder.block1.1"): "decoder/feature_projection0",
      ("decoder.block2.0", "decoder.block2.1"): "decoder/decoder_conv0",
    },
    aspp="decoder.aspp.0",
    arguments=_COMMON | _DECODER | {"decoder_separable": True},
    rates=(12, 24, 36),
    rates_stay=True,
  ),
  *(
    Head(
      "DeepLabV3",
      SMP,
      telltale=f"{aspp}.convs",
      prefix="encoder.",
      logits="segmentation_head.0",
      modules={conv: "head_conv0"},
      aspp=aspp,
      arguments=_COMMON | _NO_DECODER | {"decoder_separable": False},
      output_stride=8,
      rates=(12, 24, 36),
      rates_stay=True,
    )
    for aspp, conv in (
      ("decoder.aspp", ("decoder.conv", "decoder.bn")),
      ("decoder.0", ("decoder.1", "decoder.2")),  # of its older versions
    )
  ),
  Head(
    "DeepLabV3+",
    VAINF,
    telltale="classifier.aspp.convs",
    logits="classifier.classifier.3",
    modules={
      ("classifier.project.0", "classifier.project.1"): (
        "decoder/feature_projection0"
      ),
      ("classifier.classifier.0", "classifier.classifier.1"): (
        "decoder/decoder_conv0"
      ),
    },
    aspp="classifier.aspp",
    arguments=_COMMON
    | _DECODER
    | {"half_pixel": True, "decoder_separable": False},
    dropout_rate=0.1,
    low_level_first=True,
  ),
  Head(
    "DeepLabV3",
    VAINF,
    telltale="classifier.classifier.0.convs",
    logits="classifier.classifier.4",
    modules={
      ("classifier.classifier.1", "classifier.classifier.2"): "head_conv0"
    },
    aspp="classifier.classifier.0",
    arguments=_COMMON
    | _NO_DECODER
    | {"half_pixel": True, "decoder_separable": False},
    dropout_rate=0.1,
  ),
  Head(
    "DeepLab",
    JFZHANG,
    telltale="aspp.aspp1.atrous_conv",
    logits="decoder.last_conv.8",
    modules={
      **{
        (f"aspp.aspp{i + 1}.atrous_conv", f"aspp.aspp{i + 1}.bn"): (
          f"aspp/aspp{i}"
        )
        for i in range(4)
      },
      ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2"): (
        "aspp/image_pooling"
      ),
      ("aspp.conv1", "aspp.bn1"): "aspp/concat_projection",
      ("decoder.conv1", "decoder.bn1"): "decoder/feature_projection0",
      ("decoder.last_conv.0", "decoder.last_conv.1"): "decoder/decoder_conv0",
      ("decoder.last_conv.4", "decoder.last_conv.5"): "decoder/decoder_conv1",
    },
    arguments=_COMMON | _DECODER | {"decoder_separable": False},
  ),
  Head(
    "MobileNetV2ForSemanticSegmentation",
    TRANSFORMERS,
    telltale="segmentation_head.conv_pool",
    prefix="mobilenet_v2.",
    logits="segmentation_head.classifier.convolution",
    modules={
      (
        f"segmentation_head.{theirs}.convolution",
        f"segmentation_head.{theirs}.normalization",
      ): f"aspp/{ours}"
      for theirs, ours in (
        ("conv_pool", "image_pooling"),
        ("conv_aspp", "aspp0"),
        ("conv_projection", "concat_projection"),
      )
    },
    arguments=_COMMON | {"half_pixel": True, "decoder": ()},
    unused=("mobilenet_v2.conv_1x1.",),
    output_stride=8,
    rates=(),
    dropout_rate=0.8,
  ),
)


def find_head(shapes: Shapes) -> Head | None:
  """The head of the network that the arrays of `shapes` belong to, if any."""
  names = "\n" + "\n".join(shapes)
  return next((x for x in HEADS if f"\n{x.telltale}." in names), None)


@dataclasses.dataclass(frozen=True)
class Found:
  """What names and shapes tell of a head.

  Attributes:
    modules: by the names of torch's modules the paths of ours.
    arguments: of `DeepLab`.
    branches: how many atrous branches ASPP has.
    reads: channels of the features that ASPP reads; 0 if it is not there.
  """

  modules: Modules
  arguments: dict[str, Any]
  branches: int
  reads: int


def read_head(head: Head, shapes: Shapes) -> Found:
  """Reads the names and `shapes` of a network's arrays.

  Raises:
    ValueError: the parts of its ASPP have several numbers of channels.
  """
  modules, branches = dict(head.modules), len(head.rates)
  if head.aspp:
    aspp, branches = _aspp(head.aspp, shapes)
    modules |= aspp
  found, separable = {}, {}
  for (conv, norm), path in modules.items():
    halves = _halves(conv, shapes)
    separable[path] = len(halves) == 2
    if separable[path]:
      depthwise, conv = halves
      found[depthwise] = f"{path}/depthwise"
      path = f"{path}/pointwise"
    found[conv] = path
    if norm:
      found[norm] = path
  if head.logits not in found:
    found[head.logits] = "logits"
  told = _told(head, shapes, separable)
  first = next((m for m, path in found.items() if path == "aspp/aspp0"), "")
  reads = tuple(shapes.get(f"{first}.weight", (0, 0)))[1]
  return Found(found, told | _widths(found, shapes), branches, reads)


def _aspp(
  module: str, shapes: Shapes
) -> tuple[dict[tuple[str, str], str], int]:
  """Its modules, and the number of atrous branches."""
  start = f"{module}.convs."
  last = max(
    int(name.removeprefix(start).split(".")[0])
    for name in shapes
    if name.startswith(start)
  )
  found = {
    (f"{start}{i}.0", f"{start}{i}.1"): f"aspp/aspp{i}" for i in range(last)
  }
  found[f"{start}{last}.1", f"{start}{last}.2"] = "aspp/image_pooling"
  found[f"{module}.project.0", f"{module}.project.1"] = "aspp/concat_projection"
  return found, last - 1


def _halves(conv: str, shapes: Shapes) -> tuple[str, ...]:
  """Depthwise and pointwise convolution, or the one that it is."""
  for body in (conv, f"{conv}.body"):
    if f"{body}.0.weight" in shapes and f"{body}.1.weight" in shapes:
      return f"{body}.0", f"{body}.1"
  return (conv,)


def _widths(found: Modules, shapes: Shapes) -> dict[str, Any]:
  """Channels of ASPP; kernel sizes and channels of what is behind it.

  Raises:
    ValueError: ASPP has several numbers of channels.
  """
  kernels, names = {}, {}
  for module, path in found.items():
    shape = tuple(shapes.get(f"{module}.weight", ()))
    if len(shape) == 4:  # of a separable one the depthwise half comes first
      path = path.removesuffix("/depthwise").removesuffix("/pointwise")
      size = max(shape[-1], kernels.get(path, (0,))[0])
      kernels[path] = size, shape[0]
      names[path] = f"{module}.weight {shape}"
  told = {
    argument: tuple(pair for path, pair in kernels.items() if part in path)
    for argument, part in (
      ("head_convs", "head_conv"),
      ("decoder_convs", "decoder/decoder_conv"),
    )
  }
  told = {argument: pairs for argument, pairs in told.items() if pairs}
  aspp = {p: n for p, (_, n) in kernels.items() if p.startswith("aspp/")}
  if len(set(aspp.values())) > 1:
    first, *others = aspp
    other = next(path for path in others if aspp[path] != aspp[first])
    raise ValueError(
      "the state dict has several numbers of channels in ASPP, where DeepLab "
      f"has one, aspp_channels: {names[first]}, {names[other]}"
    )
  return told | ({"aspp_channels": max(aspp.values())} if aspp else {})


def _told(head, shapes, separable) -> dict[str, Any]:
  arguments = dict(head.arguments)
  if f"{head.logits}.weight" in shapes:
    arguments["num_classes"] = shapes[f"{head.logits}.weight"][0]
  if separable.get("aspp/aspp1"):
    arguments["aspp_separable"] = True
  for conv in ("decoder/decoder_conv0", "head_conv0"):
    if conv in separable:
      arguments["decoder_separable"] = separable[conv]
  if any(separable.values()):
    arguments["separable_norm"] = False
  for (conv, _), path in head.modules.items():
    if path == "decoder/feature_projection0" and f"{conv}.weight" in shapes:
      channels = shapes[f"{conv}.weight"][0]
      arguments["decoder_low_level_channels"] = channels
  return arguments
