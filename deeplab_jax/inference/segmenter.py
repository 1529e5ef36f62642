"""Images of any size to labels, probabilities and overlays."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from deeplab_jax import sharding, visualize
from deeplab_jax.inference import onednn
from deeplab_jax.inference.crops import why_not_confinable
from deeplab_jax.inference.folding import (
  fold,
  keeps_digits,
  layers_in_onednn,
)
from deeplab_jax.inference.fusion import predict_fn
from deeplab_jax.inference.protocol import (
  Protocol,
  Window,
  checked_thresholds,
  stored_class_names,
  stored_least_crop,
  stored_thresholds,
)
from deeplab_jax.models import DeepLab
from deeplab_jax.models.divided import by_rows
from deeplab_jax.models.ops.canvas import NotConfinable

Size = tuple[int, int]
Place = tuple[slice, slice]  # rows and columns


class Segmenter:
  """A network ready to label images.

  An image is padded and, if it is large, cut into windows as `Protocol` says,
  so that it has the labels here that evaluation scores. The program for the
  first size is compiled for its crop; those for others for a larger canvas that
  many sizes share, where that is proven not to change the answer (see `crops`).

  Attributes:
    model: the network.
    class_names: one per class.
    colors: (r, g, b) of 0..255 per class.
    protocol: how pictures are brought before the network.
    thresholds: where classes overlap, the probability of each from which on it
      is there; None where a pixel is of one class.
  """

  def __init__(
    self,
    model: DeepLab,
    variables: Any,
    *,
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    evaluation_size: Size = (1, 1),
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    fold_batch_norm: bool | None = None,
    max_pixels: int = 2049 * 2049,
    tile: int = 1025,
    thresholds: Sequence[float] | None = None,
    mesh_height: int = 1,
  ):
    """Prepares; an image, or `compile`, has a program compiled if need be.

    Args:
      model: the network.
      variables: its `{"params", "batch_stats"}`.
      class_names: one per class.
      colors: one per class.
      evaluation_size: height and width that the model is meant to be evaluated
        at, such as (513, 513).
      scales: multiples of 1/4 whose probabilities are averaged.
      flip: whether to average over the mirror images, too.
      fold_batch_norm: whether to fold batch norms into kernels, see `folding`;
        None folds where layers then are calls of `onednn`, on most CPUs, and
        in bfloat16, whose digits it keeps.
      max_pixels: larger crops are cut into windows.
      tile: side of a window, see `Protocol`.
      thresholds: see above.
      mesh_height: devices of this process, the first ones, that share each
        picture: every one computes a part of its rows. For pictures larger than
        one can hold, with `max_pixels` to match.

    Raises:
      ValueError: an argument does not fit the model, or the devices.
    """
    _check(model, class_names, colors)
    self.thresholds = checked_thresholds(thresholds, model.num_classes)
    self.model = model
    self.class_names = tuple(class_names)
    self.colors = tuple(map(tuple, colors))
    self.protocol = Protocol(
      scales=tuple(scales),
      flip=flip,
      least_crop=tuple(evaluation_size),
      max_pixels=max_pixels,
      tile=tile,
    )
    mesh = _sharing_mesh(mesh_height)
    alone = mesh_height == 1  # whose layers may be calls of onednn
    is_in_reach = alone and onednn.is_available(model.dtype)
    if fold_batch_norm is None:
      fold_batch_norm = is_in_reach or keeps_digits(model)
    if fold_batch_norm:
      variables = fold(model, variables)
    place = None if alone else sharding.replicated(mesh)
    self._variables = jax.device_put(variables, place)
    self._in_onednn = fold_batch_norm and is_in_reach
    predict = predict_fn(model, self.protocol.scales, flip, self.thresholds)
    predict = by_rows(predict, mesh, sharding.HEIGHT_AXIS)
    overlap = self.thresholds is not None
    self._run = _jitted(predict, self._in_onednn, overlap)
    self._programs = {}
    # The first crop is computed as it is: who labels pictures of one size is
    # spared a larger canvas, and the proof that one may be shared.
    self._lone_crop: Size | None = None

  @classmethod
  def from_model_json(
    cls,
    model: DeepLab,
    variables: Any,
    facts: Mapping[str, Any],
    **options: Any,
  ) -> "Segmenter":
    """A segmenter of a stored model.

    Args:
      model: the network.
      variables: its variables.
      facts: content of its `model.json`; without `dataset` the classes are
        numbered and coloured as in VOC.
      **options: further arguments of `Segmenter`.
    """
    dataset = facts.get("dataset") or {}
    drawn = visualize.voc_colormap(model.num_classes + 1).tolist()
    overlap = stored_thresholds(facts) is not None  # none of them is black
    settings = {
      "class_names": stored_class_names(facts, model.num_classes),
      "colors": dataset.get("colors") or drawn[overlap:][: model.num_classes],
      "evaluation_size": stored_least_crop(facts),
      "thresholds": stored_thresholds(facts),
    }
    if options.get("thresholds") is not None and not overlap:
      raise ValueError(
        "thresholds must be left out: a pixel is of one class of this model, "
        f"the most probable; got {options['thresholds']}"
      )
    return cls(model, variables, **(settings | options))

  @property
  def evaluation_size(self) -> Size:
    """Smallest crop, height and width."""
    return self.protocol.least_crop

  @property
  def num_compilations(self) -> int:
    """How many programs were compiled so far, ahead or for an image."""
    return len(self._programs)

  def compile(self, *sizes: Size, want: str = "labels") -> "Segmenter":
    """Compiles ahead, side by side, what images of these sizes will need.

    Args:
      *sizes: heights and widths; many may share a program.
      want: "labels", which overlays take, too, "probabilities", "uncertainty".

    Returns:
      this segmenter, as in `load(path).compile((480, 640))`.

    Raises:
      ValueError: `want` or a size is wrong.
    """
    _check_wanted("want", (want,))
    if any(len(size) != 2 or min(size) < 1 for size in sizes):
      raise ValueError(f"sizes must be positive (height, width), got {sizes}")
    windows = [window for size in sizes for window in self._windows(size)]
    if self._lone_crop is None and len({w.crop for w in windows}) > 1:
      self._lone_crop = self.protocol.least_crop
    needed = {self._place(window): window for window in windows}
    with futures.ThreadPoolExecutor() as pool:
      list(pool.map(lambda w: self._program_for(w, (want,)), needed.values()))
    if not needed.keys() <= {self._place(window) for window in windows}:
      self.compile(*sizes, want=want)  # They turned out not to share any.
    return self

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Labels of `image`, uint8 or uint16 (h, w); see `outputs`.

    Where classes overlap: uint8 (h, w, num_classes), 1 where a class is.
    """
    return self.outputs(image, "labels")["labels"]

  def probabilities(self, image: np.ndarray) -> np.ndarray:
    """Class probabilities of `image`: float32 (h, w, num_classes)."""
    return self.outputs(image, "probabilities")["probabilities"]

  def uncertainty(self, image: np.ndarray) -> np.ndarray:
    """Entropy of the probabilities over its maximum: float32 (h, w), 0..1.

    Where classes overlap: of yes and no, of the class that is least sure.
    """
    return self.outputs(image, "uncertainty")["uncertainty"]

  def overlay(self, image: np.ndarray) -> np.ndarray:
    """The labels' colours over `image`: uint8 (h, w, 3)."""
    image = self._checked(image)
    shown = visualize.viewable(image, self.model.value_range)
    return visualize.overlay(shown, self(image), self.colors)

  def outputs(self, image: np.ndarray, *wanted: str) -> dict[str, np.ndarray]:
    """Several of the above from one pass through the network.

    Args:
      image: uint8 RGB (h, w, 3); of a model for other images (h, w, channels),
        of its `image_dtype`, with the values that files have. NaN is where
        nothing is known.
      *wanted: "labels", "probabilities", "uncertainty".

    Returns:
      each by its name, of the shapes and types given above.

    Raises:
      ValueError: nothing is wanted or something unknown, or a wrong image.
    """
    _check_wanted("wanted", wanted)
    image = self._checked(image)
    size, results = image.shape[:2], {}
    for there, found in self.in_windows(size, image.__getitem__, *wanted):
      for name, part in found.items():
        if name not in results:
          results[name] = np.empty((*size, *part.shape[2:]), part.dtype)
        results[name][there] = part
    return results

  def in_windows(
    self, size: Size, read: Callable[[Place], np.ndarray], *wanted: str
  ) -> Iterator[tuple[Place, dict[str, np.ndarray]]]:
    """`outputs` of an image that need not be in memory as a whole.

    Args:
      size: its height and width.
      read: gives the pixels at a place, as `outputs` takes them.
      *wanted: as of `outputs`.

    Yields:
      a place, and what is wanted there. The places cover the image once, row
      after row; what is there is what `outputs` gives of the whole image.
    """
    _check_wanted("wanted", wanted)
    for window in self._windows(size):
      rows, columns, crop = window[:3]
      top, left = rows.start, columns.start
      bottom, right = top + crop[0], left + crop[1]
      part = self._checked(
        read(
          (slice(top, min(bottom, size[0])), slice(left, min(right, size[1])))
        )
      )
      decided = (
        slice(rows.first - top, rows.end - top),
        slice(columns.first - left, columns.end - left),
      )
      there = slice(rows.first, rows.end), slice(columns.first, columns.end)
      found = self._run_window(part, window, wanted)
      yield there, {name: array[decided] for name, array in found.items()}

  def _checked(self, image: Any) -> np.ndarray:
    """`image`, which may be anything that NumPy turns into such an array."""
    image = np.asarray(image)
    channels, dtype = self.model.channels, self.model.image_dtype
    if image.ndim == 2 and channels == 1:
      image = image[..., None]
    is_fine = image.ndim == 3 and image.shape[2] == channels
    if image.dtype != dtype or not is_fine:
      is_rgb = (channels, dtype) == (3, "uint8")
      kind = "uint8 RGB" if is_rgb else dtype
      reader = "read_image(path)" if is_rgb else "read_for(model, path)"
      raise ValueError(
        f"image must be {kind} of shape (h, w, {channels}), got {image.dtype} "
        f"{image.shape}; deeplab_jax.predict.{reader} reads any file so"
      )
    if not image.size:
      raise ValueError(f"image must have pixels, got shape {image.shape}")
    return image

  def _windows(self, size: Size) -> list[Window]:
    return self.protocol.windows(size, self.model.crop_stride)

  def _place(self, window: Window) -> tuple[Size, bool]:
    """The canvas that a window is computed on, and if others share it."""
    crop = window.crop
    if self._lone_crop is None:
      self._lone_crop = crop
    alone = crop in (self._lone_crop, self.protocol.least_crop)
    shared = not alone and self._fits_a_canvas(crop)
    return (window.canvas if shared else crop), shared

  def _fits_a_canvas(self, crop: Size) -> bool:
    stride = self.model.crop_stride
    return self.protocol.fits_a_canvas(crop, stride) and self._may_share

  @functools.cached_property
  def _may_share(self) -> bool:
    return why_not_confinable(self.model, self._variables) is None

  def _run_window(
    self, part: np.ndarray, window: Window, wanted: tuple[str, ...]
  ) -> dict[str, np.ndarray]:
    """What is wanted of `part`, each of the size of the canvas."""
    canvas, shared, program = self._program_for(window, wanted)
    height, width = part.shape[:2]
    padded = np.zeros((*canvas, part.shape[2]), part.dtype)
    padded[:height, :width] = part
    size = np.array([height, width], np.int32)
    limits = np.array(window.crop, np.int32) if shared else None
    return jax.device_get(program(self._variables, padded, size, limits))

  def _program_for(
    self, window: Window, wanted: tuple[str, ...]
  ) -> tuple[Size, bool, Callable]:
    """The place of a window, and the program for it."""
    place = self._place(window)
    try:
      return *place, self._program(*place, wanted)
    except NotConfinable:  # The network does something else at this size.
      self._may_share = False
      return self._program_for(window, wanted)

  def _program(
    self, canvas: Size, is_confined: bool, wanted: tuple[str, ...]
  ) -> Callable:
    key = (canvas, is_confined, wanted)
    if key not in self._programs:
      shape, dtype = (*canvas, self.model.channels), self.model.image_dtype
      image = jax.ShapeDtypeStruct(shape, np.dtype(dtype))
      pair = jax.ShapeDtypeStruct((2,), np.int32)
      limits = pair if is_confined else None
      traced = self._run.lower(self._variables, image, pair, limits, wanted)
      self._programs[key] = onednn.compiled(traced)
    return self._programs[key]


def _jitted(predict: Callable, in_onednn: bool, overlap: bool) -> Callable:
  """The program for one image; `wanted` are keys of `_OUTPUTS`."""
  makers = _OUTPUTS | ({"uncertainty": _doubt} if overlap else {})

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


_OUTPUTS = {
  "labels": lambda labels, _: labels,
  "probabilities": lambda _, probabilities: probabilities,
  "uncertainty": _uncertainty,
}


def _sharing_mesh(height: int) -> Mesh:
  devices = jax.local_devices()
  if not 1 <= height <= len(devices):
    raise ValueError(
      f"mesh_height must be from 1 to {len(devices)}, the devices here, got "
      f"{height}"
    )
  return sharding.make_mesh(height, devices[:height])


def _check(model, class_names, colors) -> None:
  for name, given in (("class_names", class_names), ("colors", colors)):
    if len(given) != model.num_classes:
      raise ValueError(
        f"{name} must be {model.num_classes} as the model's classes, got "
        f"{len(given)}"
      )


def _check_wanted(argument: str, names: Sequence[str]) -> None:
  if not names or not set(names) <= _OUTPUTS.keys():
    found = ", ".join(map(repr, names)) or "nothing"
    raise ValueError(
      f"{argument} must be of {', '.join(_OUTPUTS)}, got {found}"
    )
