"""State dicts of torch's DeepLabs, whole: what network they are, its arrays.

`torch_heads` knows the networks by their heads, `torch_encoders` the encoders.
Here the two are put together. In what order maps are joined is a question of
the order of weights; all else that such a network does otherwise is an argument
of `DeepLab`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_jax.import_weights import encoders, pytorch, states
from deeplab_jax.import_weights.averages import SUFFIX, raw_name
from deeplab_jax.import_weights.names import backbone_scope, official_name
from deeplab_jax.import_weights.torch_encoders import (
  Encoder,
  plain_name,
  read_encoder,
)
from deeplab_jax.import_weights.torch_heads import (
  BESIDE,
  HEADS,
  TRANSFORMERS,
  UNUSED,
  Found,
  Head,
  find_head,
  read_head,
)

# How names of encoders and of heads begin in segmentation networks.
_ENCODERS = ("backbone.", "encoder.")
_HEADS = (
  "decoder.",
  "segmentation_head.",
  "decode_head.",
  "classifier.",
  "aspp.",
  "cls_conv.",
)
_HALVES = ("depthwise", "pointwise")
# Of the module of a network whose weights are averages of another's.
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|avg)[._]")


@dataclasses.dataclass(frozen=True)
class TorchDeepLab:
  """A network of torch, as its state dict tells it.

  Attributes:
    head: which kind it is.
    found: what its names and shapes tell of the head.
    encoder: the same of the encoder.
  """

  head: Head
  found: Found
  encoder: Encoder

  @property
  def arguments(self) -> dict[str, Any]:
    """Those of `DeepLab` that the weights tell, and who made them."""
    own = {"backbone": self.encoder.backbone, "rates_from": "next_unit"}
    return self.found.arguments | own | self.encoder.arguments

  def usual(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that leave no trace: those that it is trained with usually.

    Args:
      given: arguments of `DeepLab` that are known.

    Raises:
      ValueError: the rates are not `given` and not usual in number; one line.
    """
    head, stride = self.head, self.head.output_stride
    if self.encoder.backbone == "mobilenet_v3_large_torch":
      stride = 16  # of torchvision, whatever the head
    usual = {"output_stride": stride, "dropout_rate": head.dropout_rate}
    if self.arguments.get("head") == "lraspp_torch":
      return usual
    if head.rates_stay:
      stride = given.get("output_stride", stride)
    rates = tuple(rate * stride // 16 for rate in head.rates)
    if self.found.branches != len(given.get("atrous_rates", rates)):
      raise ValueError(
        f"the state dict is a {head.title} of {self.found.branches} atrous "
        f"branches, not {len(rates)}: give atrous_rates, those at output "
        "stride 16"
      )
    return usual | {"atrous_rates": rates}

  def differences(self, arguments: Mapping[str, Any]) -> list[str]:
    """Arguments of `DeepLab` that are not those of this network, in words."""
    return [
      f"{name} {arguments[name]!r}, there {value!r}"
      for name, value in sorted(self.arguments.items())
      if name != "num_classes" and arguments.get(name, value) != value
    ]

  def notes(self, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines on what was taken for granted, arguments that are `given` aside."""
    usual = ", ".join(
      f"{name} {value!r}"
      for name, value in sorted(self.usual(given).items())
      if name not in given
    )
    lines = [f"recognised: {self}"]
    if usual:
      lines.append(f"usual there, as the weights do not tell: {usual}")
    if (channels := self.arguments["channels"]) != 3:
      lines.append(
        f"images of {channels} channels: each is normalised by the mean of the "
        "published figures of red, green and blue, as the weights tell none"
      )
    return tuple(lines)

  def check_depth(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError for an ASPP that reads other features than the last.

    Args:
      shapes: of the arrays that are wanted, by official name.
    """
    reads, wanted = self.found.reads, shapes["aspp0/weights"][2]
    if reads not in (0, wanted):
      raise ValueError(
        f"the state dict is a {self} whose ASPP reads {reads} channels, where "
        f"the last features of the encoder have {wanted}: an encoder_depth "
        "below 5 is not built here"
      )

  def __str__(self) -> str:
    """What it is, in a line."""
    return f"{self.head.title}, encoder {self.encoder.backbone}"

  def to_official(self, state: Mapping[str, Any]) -> pytorch.Arrays:
    """Its `state`, flattened, by official names; one of `UNUSED` by its own.

    Raises:
      ValueError: gives names that no such network has.
    """
    arrays, rest = self._split(state)
    unknown = []
    for name, array in rest.items():
      suffix = SUFFIX if name.endswith(SUFFIX) else ""
      module, _, leaf = raw_name(name).rpartition(".")
      if leaf == "num_batches_tracked" or self._is_double(module, state):
        continue
      if module.startswith(self.head.unused):
        module = f"{BESIDE}.{module}"
      if module.split(".")[0] in UNUSED:
        arrays[f"{module.replace('.', '/')}/{leaf}{suffix}"] = array
        continue
      layer = self._layer(module)
      if layer is None:
        unknown.append(name)
        continue
      norm = any(
        f"{module}.running_mean{ending}" in state for ending in ("", SUFFIX)
      )
      official, array = pytorch.convert(layer, leaf, np.asarray(array), norm)
      arrays[f"{official}{suffix}"] = self._in_our_order(official, array)
    if unknown:
      raise encoders.unexpected(str(self), unknown)
    return arrays

  def _split(
    self, state: Mapping[str, Any]
  ) -> tuple[pytorch.Arrays, Mapping[str, Any]]:
    """What the encoder's family knows, by official names, and all else."""
    if self.encoder.family is None:
      return {}, state
    prefix, own, rest = self.head.prefix, {}, {}
    for name, array in state.items():
      if name.startswith(prefix):
        own[plain_name(name.removeprefix(prefix))] = array
      else:
        rest[name] = array
    return encoders.translate(own, self.encoder.family), rest

  def _layer(self, module: str) -> str | None:
    """The official layer of one of torch's modules, if it is known."""
    backbone = self.encoder.backbone
    if module in self.found.modules:
      path = self.found.modules[module].split("/")
      return official_name((*path, "kernel"), backbone).rpartition("/")[0]
    if not module.startswith(self.head.prefix):
      return None
    # A dot, as of an array's name.
    below = plain_name(f"{module.removeprefix(self.head.prefix)}.")[:-1]
    layer = pytorch.translate(below, self.encoder.rules)
    return layer and f"{backbone_scope(backbone)}/{layer}"

  def _is_double(self, module: str, state: Mapping[str, Any]) -> bool:
    """Whether the module stands under another name, too."""
    prefix = self.head.prefix
    return (
      module.startswith((f"{prefix}low_level_", f"{prefix}high_level_"))
      and f"{prefix}features.0.0.weight" in state
    )

  def _in_our_order(self, official: str, array: np.ndarray) -> np.ndarray:
    """Kernels of joined maps: pooled first, low-level features last."""
    layer = official.rpartition("/")[0]
    if layer == "concat_projection" and self.head.owner != TRANSFORMERS:
      return np.roll(array, self.arguments["aspp_channels"], axis=2)
    reads = ("decoder/decoder_conv0/decoder_conv0_1",)
    reads += tuple(f"decoder/decoder_conv0_{x}" for x in _HALVES)
    if self.head.low_level_first and layer in reads and array.ndim == 4:
      channels = self.arguments["decoder_low_level_channels"]
      return np.roll(array, -channels, axis=2)
    return array


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
  """As `states.flatten`, and out of what else may be around a DeepLab.

  A module that holds the network as `model`, as with Lightning, has its name
  before all of the network's; what it holds beside is put below `BESIDE`. A
  second network whose name says so is that of moving averages.

  Raises:
    ValueError: there are several networks.
  """
  state = states.flatten(content)
  outers = _outers(state)
  averages = [outer for outer in outers if _AVERAGE.search(outer)]
  if averages == outers:  # nothing but those
    averages = []
  networks = [outer for outer in outers if outer not in averages]
  if max(len(networks), len(averages)) > 1:
    several = " and ".join(repr(outer.rstrip(".")) for outer in outers)
    raise ValueError(
      f"the state dict holds several networks, as {several}: save the "
      "state_dict() of one of them"
    )
  if not outers or outers == [""]:
    return state
  return dict(
    _placed(name, array, networks[0], averages) for name, array in state.items()
  )


def _outers(state: Mapping[str, Any]) -> list[str]:
  """What stands before the names of each DeepLab."""
  found = [""] if find_head(state) else []
  for head in HEADS:
    for name in state:
      outer, is_there, _ = name.partition(f"{head.telltale}.")
      is_new = is_there and outer.endswith(".") and outer not in found
      if is_new and any(n.startswith(f"{outer}{head.prefix}") for n in state):
        found.append(outer)
  return found


def _placed(
  name: str, array: Any, network: str, averages: list[str]
) -> tuple[str, Any]:
  """A name without what stands before it, and its array."""
  for outer in averages:
    if name.startswith(outer):
      return f"{raw_name(name.removeprefix(outer))}{SUFFIX}", array
  if name.startswith(network):
    return name.removeprefix(network), array
  return f"{BESIDE}.{name}", array


def recognise(state: Mapping[str, Any]) -> TorchDeepLab | None:
  """The network of a state dict, None if it is a classifier.

  Args:
    state: by torch's names, as `flatten` gives it.

  Raises:
    ValueError: it is a segmentation network that is not built here; one line.
  """
  shapes = {raw_name(name): np.shape(array) for name, array in state.items()}
  head = find_head(shapes)
  if head is None:
    _refuse_segmenters(shapes)
    return None
  found = read_head(head, shapes)
  encoder = read_encoder(
    head,
    {
      name.removeprefix(head.prefix): shape
      for name, shape in shapes.items()
      if name.startswith(head.prefix)
    },
  )
  return TorchDeepLab(head, found, encoder)


def _refuse_segmenters(shapes: Mapping[str, Any]) -> None:
  """Raises ValueError for an encoder with a head that is none of `HEADS`."""
  heads = [n for n in shapes if n.startswith(_HEADS)]
  if heads and any(name.startswith(_ENCODERS) for name in shapes):
    found = dict.fromkeys(".".join(name.split(".")[:2]) for name in heads)
    known = ", ".join(f"{head.title} ({head.telltale})" for head in HEADS)
    raise ValueError(
      "the state dict is of another network than those that come along: its "
      f"head is {', '.join(found)}; theirs are {known}"
    )


def to_official(state: Mapping[str, Any]) -> pytorch.Arrays:
  """As `pytorch.to_official`, of whole DeepLabs, too."""
  flat = flatten(state)
  network = recognise(flat)
  if network is None:
    return pytorch.to_official(state)
  return network.to_official(flat)
