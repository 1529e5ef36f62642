"""Variables for tests that need numbers but no training and no files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.models.trace import shapes_of

_SPREAD = {"scale": (1, 0.1), "bias": (0, 0.1), "mean": (0, 0.1)}


def random_variables(module, images, *arguments, seed: int = 0) -> dict:
  """What `module.init` would give, drawn so that activations stay near one.

  Batch-norm statistics are random too: at their initial values a zero stays a
  zero, which hides mistakes at the borders.
  """
  shapes = abstract_variables(module, images.shape, *arguments)
  generator = np.random.default_rng(seed)
  # Activations grow from block to block, to 10,000 in a deep EfficientNetV2.
  # Gates of squeeze and excitation that jump between 0 and 1 there make a tenth
  # of the logits of a rounding error of 1e-7, so many gates are gentle ones.
  paths = [
    jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shapes)
  ]
  kernels = sum("squeeze_excite" in x and "kernel" in x for x in paths)
  gentle = min(0.1, (5 / max(1, kernels)) ** 2)

  def draw(path, leaf):
    name = path[-1].key
    if name == "var":
      value = np.exp(0.2 * generator.standard_normal(leaf.shape))
    elif name in _SPREAD:
      centre, spread = _SPREAD[name]
      value = centre + spread * generator.standard_normal(leaf.shape)
    else:
      fan_in = np.prod(leaf.shape[:3])
      value = generator.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5
      if "squeeze_excite" in jax.tree_util.keystr(path):
        value *= gentle
    # NumPy converts: a jax program for it would be compiled for every shape.
    return jnp.asarray(np.asarray(value, leaf.dtype))

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def abstract_variables(module, shape: tuple[int, ...], *arguments) -> dict:
  """What `module.init` would give for images of `shape`, without numbers.

  Tracing a network takes a second or two: here once for all tests of a process.
  """
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  return shapes_of(
    lambda key, images: module.init(key, images, *arguments),
    jax.random.key(0),
    images,
  )
