"""The compiled programs of a segmenter, and what they give of a window."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax import sharding
from deeplab_jax.inference import onednn
from deeplab_jax.inference.crops import why_not_confinable
from deeplab_jax.inference.folding import (
  fold,
  keeps_digits,
  layers_in_onednn,
)
from deeplab_jax.inference.fusion import predict_fn
from deeplab_jax.inference.protocol import Protocol, Size, Window
from deeplab_jax.models import DeepLab
from deeplab_jax.models.divided import by_rows
from deeplab_jax.models.ops.canvas import NotConfinable

Wanted = tuple[str, ...]  # of `OUTPUTS`


class Programs:
  """A network's programs, each compiled when a window first needs it.

  The program for the first size is compiled for its crop; those for others for
  a larger canvas that many sizes share, where that is proven not to change the
  answer (see `crops`).
  """

  def __init__(
    self,
    model: DeepLab,
    variables: Any,
    protocol: Protocol,
    *,
    thresholds: Sequence[float] | None,
    fold_batch_norm: bool | None,
    mesh_height: int,
  ):
    """See `Segmenter`, whose arguments these are.

    Raises:
      ValueError: there are not as many devices as `mesh_height` says.
    """
    mesh = _sharing_mesh(mesh_height)
    alone = mesh_height == 1  # whose layers may be calls of onednn
    is_in_reach = alone and onednn.is_available(model.dtype)
    if fold_batch_norm is None:
      fold_batch_norm = is_in_reach or keeps_digits(model)
    if fold_batch_norm:
      variables = fold(model, variables)
    place = None if alone else sharding.replicated(mesh)
    self._model, self._protocol = model, protocol
    self._variables = jax.device_put(variables, place)
    predict = predict_fn(model, protocol.scales, protocol.flip, thresholds)
    predict = by_rows(predict, mesh, sharding.HEIGHT_AXIS)
    in_onednn = fold_batch_norm and is_in_reach
    self._run = _jitted(predict, in_onednn, thresholds is not None)
    self._compiled = {}
    # The first crop is computed as it is: who labels pictures of one size is
    # spared a larger canvas, and the proof that one may be shared.
    self._lone_crop: Size | None = None

  def __len__(self) -> int:
    """How many were compiled so far."""
    return len(self._compiled)

  def compile(self, windows: Sequence[Window], wanted: Wanted) -> None:
    """Compiles ahead, side by side, what these windows will need."""
    if self._lone_crop is None and len({w.crop for w in windows}) > 1:
      self._lone_crop = self._protocol.least_crop
    needed = {self._place(window): window for window in windows}
    with futures.ThreadPoolExecutor() as pool:
      list(pool.map(lambda w: self._program_for(w, wanted), needed.values()))
    if not needed.keys() <= {self._place(window) for window in windows}:
      self.compile(windows, wanted)  # They turned out not to share any.

  def run(
    self, part: np.ndarray, window: Window, wanted: Wanted
  ) -> dict[str, np.ndarray]:
    """What is wanted of a part of an image.

    Args:
      part: the pixels of `window`, (h, w, channels).
      window: its crop is at least as large.
      wanted: of `OUTPUTS`.

    Returns:
      each by its name, of the canvas's size.
    """
    canvas, shared, program = self._program_for(window, wanted)
    height, width = part.shape[:2]
    padded = np.zeros((*canvas, part.shape[2]), part.dtype)
    padded[:height, :width] = part
    size = np.array([height, width], np.int32)
    limits = np.array(window.crop, np.int32) if shared else None
    return jax.device_get(program(self._variables, padded, size, limits))

  def _place(self, window: Window) -> tuple[Size, bool]:
    """The canvas that a window is computed on, and if others share it."""
    crop = window.crop
    if self._lone_crop is None:
      self._lone_crop = crop
    alone = crop in (self._lone_crop, self._protocol.least_crop)
    shared = not alone and self._fits_a_canvas(crop)
    return (window.canvas if shared else crop), shared

  def _fits_a_canvas(self, crop: Size) -> bool:
    stride = self._model.crop_stride
    return self._protocol.fits_a_canvas(crop, stride) and self._may_share

  @functools.cached_property
  def _may_share(self) -> bool:
    return why_not_confinable(self._model, self._variables) is None

  def _program_for(
    self, window: Window, wanted: Wanted
  ) -> tuple[Size, bool, Callable]:
    """The place of a window, and the program for it."""
    place = self._place(window)
    try:
      return *place, self._program(*place, wanted)
    except NotConfinable:  # The network does something else at this size.
      self._may_share = False
      return self._program_for(window, wanted)

  def _program(
    self, canvas: Size, is_confined: bool, wanted: Wanted
  ) -> Callable:
    key = (canvas, is_confined, wanted)
    if key not in self._compiled:
      shape, dtype = (*canvas, self._model.channels), self._model.image_dtype
      image = jax.ShapeDtypeStruct(shape, np.dtype(dtype))
      pair = jax.ShapeDtypeStruct((2,), np.int32)
      limits = pair if is_confined else None
      traced = self._run.lower(self._variables, image, pair, limits, wanted)
      self._compiled[key] = onednn.compiled(traced)
    return self._compiled[key]


def _sharing_mesh(height: int) -> jax.sharding.Mesh:
  devices = jax.local_devices()
  if not 1 <= height <= len(devices):
    raise ValueError(
      f"mesh_height must be from 1 to {len(devices)}, the devices here, got "
      f"{height}"
    )
  return sharding.make_mesh(height, devices[:height])


def _jitted(predict: Callable, in_onednn: bool, overlap: bool) -> Callable:
  """The program for one image; `wanted` are keys of `OUTPUTS`."""
  makers = OUTPUTS | ({"uncertainty": _doubt} if overlap else {})

  @functools.partial(jax.jit, static_argnames="wanted")
  def run(variables, image, size, crop, wanted):
    crops = None if crop is None else crop[None]
    with _layers(in_onednn):
      labels, probabilities = predict(variables, image[None], size[None], crops)
    return {name: makers[name](labels[0], probabilities[0]) for name in wanted}

  return run


def _layers(in_onednn: bool) -> contextlib.AbstractContextManager:
  return layers_in_onednn() if in_onednn else contextlib.nullcontext()


def _uncertainty(labels, probabilities):
  del labels
  entropy = -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)
  return entropy / math.log(max(probabilities.shape[-1], 2))


def _doubt(labels, probabilities):
  del labels
  shares = jnp.stack([probabilities, 1 - probabilities], -1)
  return _uncertainty(None, shares).max(-1)


OUTPUTS = {
  "labels": lambda labels, _: labels,
  "probabilities": lambda _, probabilities: probabilities,
  "uncertainty": _uncertainty,
}
"""What a program can give, made of the labels and probabilities of an image."""
