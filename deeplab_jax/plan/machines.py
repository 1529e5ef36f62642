"""Machines to plan for: the local devices, or TPU slices that are elsewhere."""

import dataclasses
import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

_GIB = 2**30
_TERA = 10**12
_GIGA = 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
  """The published peak figures of an accelerator.

  Attributes:
    flops: per second, dense, bfloat16 with float32 sums.
    memory: bytes of HBM.
    memory_bandwidth: bytes per second of HBM.
    link_bandwidth: bytes per second to other chips, one way, over all links.
  """

  flops: float
  memory: int
  memory_bandwidth: float
  link_bandwidth: float


# TPU: cloud.google.com/tpu/docs/v5e, v5p and v6e, which give links both ways
# (v5p: 4800 Gbit/s one way). GPU: NVIDIA's data sheets, SXM boards, NVLink.
CHIPS = {
  "TPU v5 lite": Chip(197 * _TERA, 16 * _GIB, 819 * _GIGA, 200 * _GIGA),
  "TPU v5": Chip(459 * _TERA, 95 * _GIB, 2765 * _GIGA, 600 * _GIGA),
  "TPU v6 lite": Chip(918 * _TERA, 32 * _GIB, 1600 * _GIGA, 400 * _GIGA),
  "NVIDIA A100-SXM4-80GB": Chip(
    312 * _TERA, 80 * _GIB, 2039 * _GIGA, 300 * _GIGA
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    989 * _TERA, 80 * _GIB, 3350 * _GIGA, 450 * _GIGA
  ),
  "NVIDIA H200": Chip(989 * _TERA, 141 * _GIB, 4800 * _GIGA, 450 * _GIGA),
}
"""By the `device_kind` that jax gives."""

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
TOPOLOGIES = (
  *(f"v5e:{shape}" for shape in _FLAT),
  *(f"v5p:{shape}" for shape in (*_DEEP, "8x8x8", "8x8x16", "8x16x16")),
  *(f"v6e:{shape}" for shape in _FLAT),
)
"""Slices with one device per chip; v5e and v6e up to a whole pod."""


@dataclasses.dataclass(frozen=True)
class Machine:
  """Devices of one kind that a program is compiled for.

  Attributes:
    name: a topology's, or "local".
    devices: in the order of the mesh.
    memory: bytes that a device has, by its driver or by `CHIPS`; None if
      unknown, as for a CPU.
  """

  name: str
  devices: tuple[Any, ...]
  memory: int | None

  @property
  def kind(self) -> str:
    """What jax calls a device, such as "TPU v5 lite"."""
    return self.devices[0].device_kind

  @property
  def chip(self) -> Chip | None:
    """The published figures of a device, if known."""
    return CHIPS.get(self.kind)


def local_machine() -> Machine:
  """All devices that jax finds here."""
  devices = tuple(jax.devices())
  statistics = devices[0].memory_stats() or {}
  return Machine("local", devices, statistics.get("bytes_limit"))


def tpu_machine(topology: str) -> Machine:
  """A TPU slice that need not exist, such as "v5e:4x4".

  Raises:
    ValueError: an unknown slice, or libtpu, which compiles for it, is missing.
  """
  if topology not in TOPOLOGIES:
    raise ValueError(
      f"topology must be one of {', '.join(TOPOLOGIES)}, got {topology!r}"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"topology {topology} needs the TPU compiler, libtpu, which is not "
      'installed: pip install "deeplab_jax[tpu]"'
    )
  _describe_absent_host()
  devices = tuple(topologies.get_topology_desc(topology, "tpu").devices)
  return Machine(topology, devices, CHIPS[devices[0].device_kind].memory)


def _describe_absent_host() -> None:
  """Keeps libtpu from looking for a TPU host, and from locking others out."""
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
