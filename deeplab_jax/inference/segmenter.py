"""Images of any size to labels, probabilities and overlays."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from deeplab_jax import visualize
from deeplab_jax.inference import onednn
from deeplab_jax.inference.crops import can_confine
from deeplab_jax.inference.folding import fold, folded
from deeplab_jax.inference.fusion import predict_fn
from deeplab_jax.inference.tiles import ALIGNMENT, windows
from deeplab_jax.models import DeepLab

Size = tuple[int, int]

_SMALLEST_CANVAS = 257
# With scales in quarters, the stride of 32 divides what 4 * 32 divides.
_QUARTERS = 4


class Segmenter:
  """A network ready to label images.

  An image is evaluated as the official implementation does at the crop of its
  size: padded at the bottom and right to at least `evaluation_size`, and beyond
  that to the next multiple of 32 (128 if there are several scales) plus 1. The
  program that computes it is compiled for a larger canvas, shared by many
  sizes, which does not change the answer (see `crops`). Images of more than
  `max_pixels` are cut into overlapping tiles (see `tiles`).

  Attributes:
    model: the network.
    class_names: one per class.
    colors: (r, g, b) of 0..255 per class.
    evaluation_size: smallest crop, height and width.
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
        None folds where layers then are calls of `onednn`, on most CPUs.
      max_pixels: larger crops are cut into tiles.
      tile: side of a tile, a multiple of 32 (128 with several scales) plus 1.
    """
    _check(model, class_names, colors, scales, tile)
    self.model = model
    self.class_names = tuple(class_names)
    self.colors = tuple(map(tuple, colors))
    self.evaluation_size = tuple(evaluation_size)
    self._max_pixels, self._tile = max_pixels, tile
    self._grain = _grain(scales)
    if fold_batch_norm is None:
      fold_batch_norm = onednn.is_available()
    if fold_batch_norm:
      variables = fold(model, variables)
    self._variables = jax.device_put(variables)
    self._run = _jitted(predict_fn(model, scales, flip), fold_batch_norm)
    self._programs = {}

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
    numbers = [f"class {i}" for i in range(model.num_classes)]
    size = (facts.get("evaluation") or {}).get("crop_size") or (1, 1)
    settings = {
      "class_names": dataset.get("class_names") or numbers,
      "colors": dataset.get("colors")
      or visualize.voc_colormap(model.num_classes).tolist(),
      "evaluation_size": tuple(size),
    }
    return cls(model, variables, **(settings | options))

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
    if want not in _OUTPUTS:
      raise ValueError(
        f"want must be one of {', '.join(_OUTPUTS)}, got {want!r}"
      )
    if any(len(size) != 2 or min(size) < 1 for size in sizes):
      raise ValueError(f"sizes must be positive (height, width), got {sizes}")
    layouts = [self._layout(size) for size in sizes]
    needed = {(canvas, self._confines(crop)) for crop, canvas, _ in layouts}
    with futures.ThreadPoolExecutor() as pool:
      list(pool.map(lambda key: self._program(*key, want), needed))
    return self

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Labels of `image`, uint8 RGB (h, w, 3): uint8 or uint16 (h, w)."""
    return self._segment(image, "labels")

  def probabilities(self, image: np.ndarray) -> np.ndarray:
    """Class probabilities of `image`: float32 (h, w, num_classes)."""
    return self._segment(image, "probabilities")

  def uncertainty(self, image: np.ndarray) -> np.ndarray:
    """Entropy of the probabilities over its maximum: float32 (h, w), 0..1."""
    return self._segment(image, "uncertainty")

  def overlay(self, image: np.ndarray) -> np.ndarray:
    """The labels' colours over `image`: uint8 (h, w, 3)."""
    image = _checked(image)
    return visualize.overlay(image, self(image), self.colors)

  def _segment(self, image: np.ndarray, want: str) -> np.ndarray:
    image = _checked(image)
    size = image.shape[:2]
    crop, canvas, is_tiled = self._layout(size)
    if is_tiled:
      return self._segment_tiles(image, crop, canvas, want)
    limits = crop if self._confines(crop) else None
    result = self._run_canvas(image, canvas, limits, want)
    return result[: size[0], : size[1]]

  def _layout(self, size: Size) -> tuple[Size, Size, bool]:
    """The crop of an image, its program's canvas, and if that is a tile."""
    crop = tuple(
      max(least, _round_up(side, self._grain))
      for side, least in zip(size, self.evaluation_size)
    )
    if crop == self.evaluation_size:
      return crop, crop, False
    canvas = self._canvas(crop)
    if math.prod(crop) <= self._max_pixels:
      return crop, canvas, False
    return crop, tuple(min(side, self._tile) for side in canvas), True

  def _confines(self, crop: Size) -> bool:
    """Whether the program for `crop` is shared with others."""
    return crop != self.evaluation_size and can_confine(self.model)

  def _canvas(self, crop: Size) -> Size:
    """What the program for `crop` is compiled for."""
    if not can_confine(self.model):
      return crop
    # A given evaluation size need not be one of the buckets' multiples.
    height, width = (
      side if side == least > 1 else _bucket(side)
      for side, least in zip(crop, self.evaluation_size)
    )
    return height, width

  def _segment_tiles(
    self, image: np.ndarray, crop: Size, tile: Size, want: str
  ) -> np.ndarray:
    """Window by window; see `tiles`."""
    size = image.shape[:2]
    confines = self._confines(crop)
    result = None
    for rows, columns in windows(size, tile, margin=self._tile // 8):
      top, left = rows.start, columns.start
      window = image[top : top + tile[0], left : left + tile[1]]
      limits = (min(tile[0], crop[0] - top), min(tile[1], crop[1] - left))
      part = self._run_canvas(window, tile, limits if confines else None, want)
      if result is None:
        result = np.empty((*size, *part.shape[2:]), part.dtype)
      result[rows.first : rows.end, columns.first : columns.end] = part[
        rows.first - top : rows.end - top,
        columns.first - left : columns.end - left,
      ]
    return result

  def _run_canvas(
    self, image: np.ndarray, canvas: Size, crop: Size | None, want: str
  ) -> np.ndarray:
    """Runs on a canvas, confined to `crop`; the result has the canvas' size."""
    height, width = image.shape[:2]
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[:height, :width] = image
    size = np.array([height, width], np.int32)
    limits = None if crop is None else np.array(crop, np.int32)
    program = self._program(canvas, crop is not None, want)
    return np.asarray(program(self._variables, padded, size, limits))

  def _program(self, canvas: Size, is_confined: bool, want: str) -> Callable:
    key = (canvas, is_confined, want)
    if key not in self._programs:
      image = jax.ShapeDtypeStruct((*canvas, 3), np.uint8)
      pair = jax.ShapeDtypeStruct((2,), np.int32)
      limits = pair if is_confined else None
      traced = self._run.lower(self._variables, image, pair, limits, want)
      self._programs[key] = onednn.compiled(traced)
    return self._programs[key]


def _jitted(predict: Callable, is_folded: bool) -> Callable:
  """The program for one image; `want` is a key of `_OUTPUTS`."""

  @functools.partial(jax.jit, static_argnames="want")
  def run(variables, image, size, crop, want):
    crops = None if crop is None else crop[None]
    in_onednn = onednn.is_available()
    with folded(in_onednn) if is_folded else contextlib.nullcontext():
      labels, probabilities = predict(variables, image[None], size[None], crops)
    return _OUTPUTS[want](labels[0], probabilities[0])

  return run


def _uncertainty(labels, probabilities):
  del labels
  entropy = -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)
  return entropy / math.log(max(probabilities.shape[-1], 2))


_OUTPUTS = {
  "labels": lambda labels, _: labels,
  "probabilities": lambda _, probabilities: probabilities,
  "uncertainty": _uncertainty,
}


def _grain(scales: Sequence[float]) -> int:
  """Sides of crops are multiples of this plus 1."""
  return ALIGNMENT * (1 if tuple(scales) == (1.0,) else _QUARTERS)


def _round_up(side: int, step: int) -> int:
  """The next multiple of `step` plus 1."""
  return -(-(side - 1) // step) * step + 1


def _bucket(side: int) -> int:
  """The next of the canvas sides 257, 385, 513, 769, 1025, 1537, ..."""
  length = _SMALLEST_CANVAS - 1
  while length < side - 1:
    is_power = length & (length - 1) == 0
    length = length * 3 // 2 if is_power else length * 4 // 3
  return length + 1


def _check(model, class_names, colors, scales, tile) -> None:
  for name, given in (("class_names", class_names), ("colors", colors)):
    if len(given) != model.num_classes:
      raise ValueError(
        f"{name} must be {model.num_classes} as the model's classes, got "
        f"{len(given)}"
      )
  if not scales or any(scale <= 0 or scale * 4 % 1 for scale in scales):
    raise ValueError(
      f"scales must be positive multiples of 1/4, got {tuple(scales)}"
    )
  grain = _grain(scales)
  if tile <= grain or (tile - 1) % grain:
    raise ValueError(f"tile must be a multiple of {grain} plus 1, got {tile}")


def _checked(image: Any) -> np.ndarray:
  """`image`, which may be anything that NumPy turns into such an array."""
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"image must be uint8 RGB of shape (h, w, 3), got {image.dtype} "
      f"{image.shape}; deeplab_jax.predict.read_image(path) reads any file so"
    )
  if not image.size:
    raise ValueError(f"image must have pixels, got shape {image.shape}")
  return image
