"""Official arrays into the variables of a model, every name accounted for."""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from deeplab_jax.import_weights.averages import SUFFIX, choose
from deeplab_jax.import_weights.folded import dequantize, unfold
from deeplab_jax.import_weights.names import backbone_scope, official_name
from deeplab_jax.import_weights.torch_heads import BESIDE, UNUSED
from deeplab_jax.models import Classifier, DeepLab
from deeplab_jax.models.trace import shapes_of

Path = tuple[str, ...]
Parts = Literal["all", "backbone"]

# What a training checkpoint holds beside the model's variables: steps, slots
# named after the variable that they belong to, heads that only train.
_BOOKKEEPING = re.compile(
  rf"(^|/)(global_step|beta[12]_power)$|^({'|'.join(UNUSED)})/"
  r"|/(Momentum|ExponentialMovingAverage|RMSProp|Adam|Adagrad)(_\d+)?$"
)
# The layers of an ImageNet classifier behind the backbone, below its scope.
_CLASSIFIER = re.compile(
  r"^(Conv_1|Logits|logits|predictions|pooled_norm|conv_1)/"
)


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of each official name.

  Attributes:
    loaded: variables that hold an array of the source.
    skipped: arrays of the source that the model has no use for.
    reinitialized: variables drawn anew.
    averaged: loaded variables whose array is a moving average.
    notes: lines on the source, such as what it was taken for.
  """

  loaded: tuple[str, ...]
  skipped: tuple[str, ...]
  reinitialized: tuple[str, ...]
  averaged: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()

  def __str__(self) -> str:
    """A table of counts by scope, and lines on what else is to be known."""
    lines = [self._table(), *self._averages(), *self._unused(), *self.notes]
    return "\n".join(lines)

  def _unused(self) -> list[str]:
    skipped = {}
    for name in self.skipped:
      part, below, *_ = [*name.split("/"), ""]
      skipped.setdefault(part, set()).add(below)
    beside = f" ({', '.join(sorted(skipped.get(BESIDE, ())))})"
    return [
      f"{part}{beside if part == BESIDE else ''}: passed over, as it serves "
      "training alone"
      for part in UNUSED
      if part in skipped
    ]

  def _averages(self) -> list[str]:
    if self.averaged:
      raw = len(self.loaded) - len(self.averaged)
      return [
        f"moving averages: taken for {len(self.averaged)} variables; raw values"
        f" for {raw}"
      ]
    count = sum(name.endswith(SUFFIX) for name in self.skipped)
    if not count:
      return []
    return [
      f"moving averages: there for {count} variables, not taken;"
      " --moving_averages takes them"
    ]

  def _table(self) -> str:
    counts = [
      Counter(name.split("/")[0] for name in names)
      for names in (self.loaded, self.skipped, self.reinitialized)
    ]
    scopes = sorted(set().union(*counts))
    rows = [("variables of", "loaded", "skipped", "re-initialised")]
    rows += [(s, *(count[s] for count in counts)) for s in scopes]
    rows += [("total", *(count.total() for count in counts))]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
      f"{row[0]:<{width}}{row[1]:>8}{row[2]:>9}{row[3]:>16}" for row in rows
    )


def fit(
  arrays: Mapping[str, np.ndarray],
  model: DeepLab | Classifier,
  *,
  parts: Parts = "all",
  reinitialize_logits: bool = False,
  moving_averages: bool = False,
  seed: int = 0,
) -> tuple[dict, Report]:
  """As `from_tensorflow`, with a report of what went where."""
  if parts not in ("all", "backbone"):
    raise ValueError(f"parts must be 'all' or 'backbone'; got {parts!r}")
  leaves = _leaves(model)
  drawn = {
    path
    for path in leaves
    if (parts == "backbone" and path[1] != "backbone")
    or (reinitialize_logits and _is_logits(path))
  }
  drawn_names = {leaves[path][0] for path in drawn}
  wanted = {path: leaf for path, leaf in leaves.items() if path not in drawn}
  expected = dict(wanted.values())
  chosen, averaged = choose(arrays, moving_averages)
  replaced = averaged & set(arrays)
  arrays = unfold(dequantize(chosen), expected, model.backbone)
  skipped = {
    name
    for name in set(arrays) - set(expected)
    if _BOOKKEEPING.search(name)
    or name in drawn_names
    or (parts == "backbone" and _behind_backbone(name, model.backbone))
  }
  offered = {n: array for n, array in arrays.items() if n not in skipped}
  _check_names(expected, offered)
  _check_finite(offered)
  averaged = averaged & set(offered)
  if moving_averages and not averaged:
    raise ValueError(
      "moving_averages (--moving_averages) was given, but of what is loaded"
      f" nothing is a moving average, whose name ends in {SUFFIX}; leave it out"
    )
  loaded = {p: _to_ours(p, offered[name]) for p, (name, _) in wanted.items()}
  tree = {**loaded, **_draw(model, drawn, seed)}
  skipped |= replaced
  report = Report(*map(_sorted, (offered, skipped, drawn_names, averaged)))
  return flax.traverse_util.unflatten_dict(tree), report


def official_shapes(model: DeepLab | Classifier) -> dict[str, tuple[int, ...]]:
  """Official name to TensorFlow shape of every variable of `model`."""
  return dict(_leaves(model).values())


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
  return tuple(sorted(names))


def _flat_init(model) -> Callable[[jax.Array], dict[Path, jax.Array]]:
  def init(key):
    variables = model.init(key, jnp.zeros((1, 65, 65, model.channels)))
    return flax.traverse_util.flatten_dict(variables)

  return init


@functools.lru_cache(maxsize=8)  # tracing takes seconds, and several ask
def _leaves(model) -> dict[Path, tuple[str, tuple[int, ...]]]:
  """Our path to official name and shape."""
  classifier = isinstance(model, Classifier)
  flat = shapes_of(_flat_init(model), jax.random.key(0))
  return {
    path: (
      official_name(path[1:], model.backbone, classifier=classifier),
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


def _is_logits(path: Path) -> bool:
  """Whether the leaf's shape depends on the number of classes."""
  return path[1] == "logits" or (
    path[1] == "lraspp" and path[2] in ("decoder_conv0", "feature_projection0")
  )


def _behind_backbone(name: str, backbone: str) -> bool:
  """Whether the variable is of some head, or of a classifier's last layers."""
  scope, _, rest = name.partition("/")
  return scope != backbone_scope(backbone) or bool(_CLASSIFIER.match(rest))


def _draw(model, paths, seed) -> dict[Path, jax.Array]:
  """Fresh values of some leaves; the rest of the network is never computed."""
  if not paths:
    return {}
  init = _flat_init(model)

  @jax.jit
  def draw(key):
    flat = init(key)
    return {path: flat[path] for path in paths}

  return draw(jax.random.key(seed))


def _check_finite(arrays):
  wrong = [n for n, array in arrays.items() if not np.isfinite(array).all()]
  if wrong:
    raise ValueError(
      f"{len(wrong)} of {len(arrays)} arrays hold numbers that are not finite, "
      f"such as {min(wrong)}: the network that they are of gives none, either"
    )


def _check_names(expected, given):
  wrong = [
    f"{name}: expected {expected[name]}, got {np.shape(given[name])}"
    for name in sorted(set(expected) & set(given))
    if expected[name] != np.shape(given[name])
  ]
  problems = {
    "missing": _sorted(set(expected) - set(given)),
    "unexpected": _sorted(set(given) - set(expected)),
    "wrong shape": wrong,
  }
  if any(problems.values()):
    lines = [
      f"{kind} ({len(names)}):\n  " + "\n  ".join(names)
      for kind, names in problems.items()
      if names
    ]
    raise ValueError(
      "the arrays do not fit the model; check its backbone, width_multiplier,"
      " head, atrous_rates, decoder and separable switches. Weights of another"
      " num_classes need reinitialize_logits=True, ImageNet weights"
      " parts='backbone'\n" + "\n".join(lines)
    )
