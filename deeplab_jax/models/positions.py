"""Where a patch of an image is, for a vision transformer.

DINOv2 learned a vector for each patch of a 37 x 37 grid and resizes these to
the grid of an image; DINOv3 turns queries and keys by angles that follow from
the place between the image's edges (Su et al., "RoFormer", 2021). Who published
the networks anew does not compute the same: see `PositionsOf`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

PositionsOf = Literal["timm", "transformers", "authors"]
"""Whose code tells where patches are.

Learned positions are resized with cubic splines. timm smooths them where they
shrink, and takes Keys' coefficient -0.5; transformers does not smooth, and
takes -0.75; so do the authors, who besides reckon with a grid that is a tenth
of a patch larger, but for a square image of just the learned patches. Networks
with registers are resized alike by all three: as timm does it.

Angles of the authors' files follow from periods that were rounded to bfloat16;
those of timm and transformers were not.
"""

_TENTH = 0.1  # of a patch, "to avoid floating point error"
_BASE = 100.0  # the longest period, exclusively


def resized(
  positions: jax.Array, size: tuple[int, int], rule: str, is_square: bool
) -> jax.Array:
  """Learned positions for a grid of another size.

  Args:
    positions: float32 (rows, columns, c).
    size: of the grid.
    rule: a value of `PositionsOf`.
    is_square: whether the image has as many rows as columns.

  Returns:
    float32 (*size, c).
  """
  old = positions.shape[:2]
  if tuple(size) == old and (rule != "authors" or is_square):
    return positions
  rows, columns = (_splines(n, new, rule) for n, new in zip(old, size))
  # Not in the fewer bits that TPUs multiply with: this is done once.
  return jnp.einsum(
    "yi,xj,ijc->yxc", rows, columns, positions, precision="highest"
  )


def _splines(old: int, new: int, rule: str) -> np.ndarray:
  """The matrix (new, old) that resizes a line, as torch makes it."""
  scale = np.float32(old) / np.float32(new)
  if rule == "authors":
    scale = np.float32(1 / ((new + _TENTH) / old))
  centres = scale * (np.arange(new, dtype=np.float32) + np.float32(0.5))
  taps = np.arange(old)
  if rule != "timm":
    places = centres - np.float32(0.5)
    floor = np.floor(places)
    matrix = np.zeros((new, old), np.float32)
    for tap in range(-1, 3):  # beyond the edge stands the edge
      weights = _keys(np.abs(places - floor - tap), -0.75)
      reached = np.clip(floor + tap, 0, old - 1).astype(int)
      np.add.at(matrix, (np.arange(new), reached), weights)
    return matrix
  width = max(scale, np.float32(1))
  distances = (taps + np.float32(0.5) - centres[:, None]) / width
  weights = _keys(np.abs(distances), -0.5)
  return weights / weights.sum(1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic of distances `x`, 0 from 2 on."""
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x < 1, near, np.where(x < 2, far, 0)).astype(np.float32)


def periods(features: int, rule: str) -> np.ndarray:
  """Lengths of waves along rows, or columns: float32 (features / 4,).

  Args:
    features: channels of a head.
    rule: a value of `PositionsOf`.
  """
  exponents = 2 * np.arange(features // 4, dtype=np.float32) / (features // 2)
  lengths = np.float32(_BASE) ** exponents
  if rule == "authors":
    lengths = lengths.astype(ml_dtypes.bfloat16)
  return lengths.astype(np.float32)


def rotary(
  size: tuple[int, int], before: int, features: int, rule: str
) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and sines of the angles that tokens are turned by.

  Args:
    size: rows and columns of patches.
    before: tokens before the patches, which are not turned.
    features: channels of a head.
    rule: a value of `PositionsOf`.

  Returns:
    Two of float32 (tokens, 1, features): the second half repeats the first.
  """
  places = [
    2 * (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n) - 1
    for n in size
  ]
  grid = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, 2, 1)
  angles = np.float32(2 * math.pi) * grid / periods(features, rule)
  angles = angles.reshape(len(angles), 1, features // 2)
  angles = np.pad(angles, ((before, 0), (0, 0), (0, 0)))
  return tuple(
    np.tile(wave, 2).astype(np.float32)
    for wave in (np.cos(angles), np.sin(angles))
  )


def turned(x: jax.Array, waves: tuple[np.ndarray, np.ndarray]) -> jax.Array:
  """`x` (b, tokens, heads, features) turned by `rotary`'s angles."""
  cosines, sines = waves
  first, second = jnp.split(x, 2, axis=-1)
  y = x * cosines + jnp.concatenate([-second, first], axis=-1) * sines
  return y.astype(x.dtype)
