"""Published weights into our parameter tree."""

import re
from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.import_weights.names import official_name
from deeplab_jax.models import DeepLab

# What a training checkpoint holds beside the model's variables.
_BOOKKEEPING = re.compile(
  r"(^|/)(global_step|Momentum|Momentum_\d+|ExponentialMovingAverage"
  r"|RMSProp(_\d+)?|Adam(_\d+)?)$"
)


def from_tensorflow(arrays: Mapping[str, np.ndarray], model: DeepLab) -> dict:
  """The variables of `model` from official arrays.

  Args:
    arrays: by official variable name, kernels in TensorFlow's layout (height,
      width, in, out), depthwise ones (height, width, channels, 1). Steps,
      momentum slots and moving averages of weights are passed over.
    model: the network the arrays belong to.

  Returns:
    `{"params", "batch_stats"}`, float32.

  Raises:
    ValueError: one error that lists every missing, unexpected and wrongly
      shaped name.
  """
  expected = official_shapes(model)
  given = {n: a for n, a in arrays.items() if not _BOOKKEEPING.search(n)}
  _check_names(expected, given)
  tree = {
    path: _to_ours(path, given[name])
    for path, (name, _) in _leaves(model).items()
  }
  return flax.traverse_util.unflatten_dict(tree)


def official_shapes(model: DeepLab) -> dict[str, tuple[int, ...]]:
  """Official name to TensorFlow shape of every variable of `model`."""
  return dict(_leaves(model).values())


def _leaves(model):
  """Our path to official name and shape."""
  images = jnp.zeros((1, 65, 65, 3))
  tree = jax.eval_shape(lambda key: model.init(key, images), jax.random.key(0))
  flat = flax.traverse_util.flatten_dict(tree)
  return {
    path: (
      official_name(path[1:], model.backbone),
      _official_shape(path, leaf.shape),
    )
    for path, leaf in flat.items()
  }


def _official_shape(path, shape):
  if path[-1] == "depthwise_kernel":
    return (*shape[:2], shape[3], shape[2])
  return tuple(shape)


def _to_ours(path, array):
  array = np.asarray(array, np.float32)
  if path[-1] == "depthwise_kernel":
    array = array.transpose(0, 1, 3, 2)
  return jnp.asarray(array)


def _check_names(expected, given):
  missing = sorted(set(expected) - set(given))
  unexpected = sorted(set(given) - set(expected))
  wrong = [
    f"{name}: expected {expected[name]}, got {np.shape(given[name])}"
    for name in sorted(set(expected) & set(given))
    if expected[name] != np.shape(given[name])
  ]
  problems = {
    "missing": missing,
    "unexpected": unexpected,
    "wrong shape": wrong,
  }
  if any(problems.values()):
    lines = [
      f"{kind} ({len(names)}):\n  " + "\n  ".join(names)
      for kind, names in problems.items()
      if names
    ]
    raise ValueError(
      "the arrays do not fit the model; check backbone, num_classes,"
      " atrous_rates and decoder\n" + "\n".join(lines)
    )
