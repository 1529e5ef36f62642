"""The units of a backbone: its parts from the image on, with their strides."""

from deeplab_jax.models.classifier import Classifier
from deeplab_jax.models.trace import visit

_SIDE = 449  # of the image that is traced: 448 is a multiple of every stride


def backbone_units(backbone: str, width_multiplier: float) -> dict[str, int]:
  """The modules right inside a backbone that have parameters, and strides.

  Args:
    backbone: a key of `BACKBONES`.
    width_multiplier: as `DeepLab` takes it.

  Returns:
    Image pixels per feature that the unit gives, at output stride 32, by its
    name, in the order in which an image goes through them. A unit that gives
    other than a map has the stride of the one before it.
  """
  found: dict[str, int] = {}
  latest = 1

  def note(module, inputs, y):
    nonlocal latest
    path = module.path
    if len(path) != 2 or path[0] != "backbone":
      return
    if module.variables.get("params"):
      if y.ndim == 4:
        latest = (_SIDE - 1) // max(y.shape[1] - 1, 1)
      found.setdefault(path[1], latest)

  # A backbone is named alike in a classifier, where it has no atrous rates.
  model = Classifier(
    1, backbone, width_multiplier=width_multiplier, output_stride=32
  )
  visit(model, (_SIDE, _SIDE), note)
  return found
