"""Moving averages of weights, which a checkpoint may hold beside them.

TensorFlow's `ExponentialMovingAverage` calls the average of a variable
`<variable>/ExponentialMovingAverage`. Averaged are the trainable variables, and
in slim's, MobileNetV3's and EfficientNet's scripts the statistics of batch norm
too. Averages of torch are read under such names.
"""

from collections.abc import Mapping
from typing import TypeVar

from deeplab_jax.import_weights.names import VARIABLES

SUFFIX = "/ExponentialMovingAverage"

Array = TypeVar("Array")


def raw_name(name: str) -> str:
  """The variable that an array belongs to, itself or as its average."""
  return name.removesuffix(SUFFIX)


def choose(
  arrays: Mapping[str, Array], moving_averages: bool
) -> tuple[dict[str, Array], frozenset[str]]:
  """An array for each variable, under the variable's name.

  Args:
    arrays: by official name.
    moving_averages: whether averages are taken where there is the variable
      itself too; where there is not, they are in any case.

  Returns:
    The arrays, in which averages that were not taken keep their names; and the
    variables whose average was taken.
  """
  taken = {
    raw_name(name): array
    for name, array in arrays.items()
    if _is_average(name) and (moving_averages or raw_name(name) not in arrays)
  }
  others = {n: a for n, a in arrays.items() if raw_name(n) not in taken}
  return others | taken, frozenset(taken)


def _is_average(name: str) -> bool:
  """Losses and steps may have averages too, which nothing here needs."""
  variable = raw_name(name)
  return variable != name and variable.rsplit("/", 1)[-1] in VARIABLES
