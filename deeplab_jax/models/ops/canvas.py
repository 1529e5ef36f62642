"""A network on a canvas of which an image takes only one corner.

The official evaluation pads an image at the bottom and right to a *crop* of
k * output stride + 1 pixels a side, and the padding takes part: it is averaged
by the image pooling and seen across the image's border. A program compiled for
one *canvas* serves every crop that fits into it, if no layer lets what lies
outside the crop into it. A layer that looks at single pixels does not; one that
looks around must read zeros there, as the padding of a smaller canvas would be,
and a mean must be taken over the crop alone. Then the answer within the crop is
that of the crop, whatever the canvas.

A layer that looks around says that it knows this by calling `enter` on what it
reads and `leave` on what it returns. `inference.crops` checks, in the traced
program, that everything else looks at single pixels; a network with a layer
that does not declare itself is compiled for every crop by itself.

Without a canvas, in training and on whole images, all of this does nothing.
"""

import contextlib
import contextvars
import dataclasses
import fractions
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from deeplab_jax.models.ops.whole import whole

Size = tuple[int, int]

ENTER = "enters a layer that knows the canvas"
LEAVE = "leaves a layer that knows the canvas"
"""Names, in a traced program, of what `enter` and `leave` were called on; the
first goes on with the settings of the layer."""


class NotConfinable(Exception):
  """A network that cannot be kept to a part of its canvas; says why."""


def inside(sizes: jax.Array, shape: Size) -> jax.Array:
  """Which pixels lie within the first `sizes` rows and columns.

  Args:
    sizes: int32 (b, 2), rows and columns of each example.
    shape: height and width of the maps.

  Returns:
    bool (b, *shape, 1).
  """
  rows = jnp.arange(shape[0]) < sizes[:, :1]
  columns = jnp.arange(shape[1]) < sizes[:, 1:]
  return (rows[:, :, None] & columns[:, None, :])[..., None]


@dataclasses.dataclass(frozen=True)
class Canvas:
  """What a network runs on.

  Attributes:
    crops: int32 (b, 2), height and width in pixels of what each example takes
      of the canvas, from the top left corner; None if a network is only read.
    size: height and width of the network's input.
    grain: crops are multiples of it plus 1, at least 1.
  """

  crops: jax.Array | None
  size: Size
  grain: int

  def extent(self, shape: Size) -> jax.Array:
    """Rows and columns, int32 (b, 2), that the crops take in maps of `shape`.

    Raises:
      NotConfinable: maps of that shape have no such corner: the strides that
        lead to them do not divide `grain`.
    """
    scale = self.scale(shape)
    return (self.crops - 1) * scale.numerator // scale.denominator + 1

  def scale(self, shape: Size) -> fractions.Fraction:
    """Steps of maps of `shape` for a step of a pixel; 0 of pooled maps.

    Raises:
      NotConfinable: as `extent`.
    """
    scales = {
      fractions.Fraction(new - 1, max(old - 1, 1))
      for new, old in zip(shape, self.size)
    }
    if len(scales) > 1 or self.grain * max(scales) % 1:
      raise NotConfinable(
        f"maps of {shape} on a canvas of {self.size}: crops of k * "
        f"{self.grain} + 1 pixels do not end on pixels of theirs"
      )
    return scales.pop()

  def inside(self, shape: Size) -> jax.Array:
    """Which pixels of maps of `shape` the crops take: bool (b, *shape, 1)."""
    return inside(self.extent(shape), shape)


_canvas: contextvars.ContextVar[Canvas | None] = contextvars.ContextVar(
  "canvas", default=None
)


@contextlib.contextmanager
def on(canvas: Canvas) -> Iterator[None]:
  """Within it, networks that are traced keep to the crops of `canvas`."""
  token = _canvas.set(canvas)
  try:
    yield
  finally:
    _canvas.reset(token)


def enter(
  x: jax.Array, outside: float | None = 0.0, *settings: object
) -> jax.Array:
  """What a layer that looks around reads.

  Args:
    x: `(b, h, w, c)`.
    outside: on a canvas, stands in the place of what lies outside the crops;
      None leaves it there, for a layer that looks at single pixels.
    *settings: what the layer does depends on, such as its stride and rate. They
      must not follow from the size of the map.
  """
  canvas = _canvas.get()
  if canvas is None:
    return x
  x = checkpoint_name(x, f"{ENTER} {settings}")
  if outside is None or canvas.crops is None:
    return x
  return jnp.where(
    canvas.inside(x.shape[1:3]), x, jnp.asarray(outside, x.dtype)
  )


def leave(x: jax.Array) -> jax.Array:
  """What a layer returns that began with `enter`."""
  return x if _canvas.get() is None else checkpoint_name(x, LEAVE)


@whole
def mean(x: jax.Array) -> jax.Array:
  """Means of the maps `x` (b, h, w, c), within the crops: (b, 1, 1, c)."""
  canvas = _canvas.get()
  if canvas is None:
    return x.mean((1, 2), keepdims=True)
  if canvas.crops is None:
    return leave(enter(x).mean((1, 2), keepdims=True))
  pixels = canvas.extent(x.shape[1:3]).prod(1)[:, None, None, None]
  return leave(enter(x).sum((1, 2), keepdims=True) / pixels.astype(x.dtype))
