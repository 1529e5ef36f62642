"""Images of any size to labels, probabilities and overlays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deeplab_jax import visualize
from deeplab_jax.inference.programs import OUTPUTS, Programs
from deeplab_jax.inference.protocol import (
  Protocol,
  Size,
  Window,
  checked_thresholds,
  stored_class_names,
  stored_least_crop,
  stored_thresholds,
)
from deeplab_jax.models import DeepLab

Place = tuple[slice, slice]  # rows and columns


class Segmenter:
  """A network ready to label images.

  An image is padded and, if it is large, cut into windows as `Protocol` says,
  so that it has the labels here that evaluation scores. Programs are compiled
  when the first image needs them, and shared by many sizes (see `Programs`).

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
    self._programs = Programs(
      model,
      variables,
      self.protocol,
      thresholds=self.thresholds,
      fold_batch_norm=fold_batch_norm,
      mesh_height=mesh_height,
    )

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
    self._programs.compile(windows, (want,))
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
      found = self._programs.run(part, window, wanted)
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


def _check(model, class_names, colors) -> None:
  for name, given in (("class_names", class_names), ("colors", colors)):
    if len(given) != model.num_classes:
      raise ValueError(
        f"{name} must be {model.num_classes} as the model's classes, got "
        f"{len(given)}"
      )


def _check_wanted(argument: str, names: Sequence[str]) -> None:
  if not names or not set(names) <= OUTPUTS.keys():
    found = ", ".join(map(repr, names)) or "nothing"
    raise ValueError(f"{argument} must be of {', '.join(OUTPUTS)}, got {found}")
