"""What a run that is continued may find changed since it was begun.

A run is continued by the same command. Other settings and other data are told
before the first step, and `config.json` keeps the settings under "history".
What gives the weights another meaning is refused, unless the user insists.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from deeplab_jax import atomic, remote
from deeplab_jax.checkpoints import wholeness
from deeplab_jax.config import base_config
from deeplab_jax.data.changes import Changes, Record, changes
from deeplab_jax.models.arguments import TRAINING_ARGUMENTS

_CONFIG, _DATA = "config.json", "data.json"
_HISTORY = "history"
_WITHOUT = "--allow_changes goes on without it"
# All else tells how to train and evaluate, not what the weights are; these fit
# other rates and strides without an error, or other images.
_MEANING = frozenset(
  {
    *("task", "data.name", "data.train_split"),
    *(
      f"model.{name}"
      for name in base_config().model
      if name not in TRAINING_ARGUMENTS
    ),
  }
)


# What the figures of an evaluation depend on beside the weights and the data.
_SCORING = (
  *("data.eval_limit", "data.eval_size", "eval.output_stride", "eval.dtype"),
  *("eval.scales", "eval.flip", "eval.max_pixels", "eval.tile"),
  *("task", "eval.threshold"),
)


class Change(NamedTuple):
  """Something that is not as it was when the run last trained.

  Attributes:
    name: of a field such as "data.crop_size", or what else has changed.
    before: its value then, as JSON holds it.
    after: its value now.
    alters: whether the weights would mean something else.
  """

  name: str
  before: Any
  after: Any
  alters: bool

  def __str__(self) -> str:
    return f"{self.name}: {_text(self.before)} -> {_text(self.after)}"


def config_changes(
  workdir: remote.AnyPath, config: ConfigDict, allow_changes: bool
) -> list[Change]:
  """How `config` differs from the one that `workdir` was last trained with.

  Raises:
    ValueError: `config.json` is damaged, and `allow_changes` is not given; or
      `config` asks for what the checkpoints have not, whatever is allowed.
  """
  try:
    before = _read(workdir / _CONFIG) if has_begun(workdir) else None
  except ValueError as error:
    if not allow_changes:
      raise ValueError(f"{error}; {_WITHOUT}") from None
    return []
  if before is None:
    return []
  # A field that older versions did not have was as its default is.
  before = _flatten(_plain(base_config())) | _flatten(before)
  _require_same_state(workdir, before, config)
  return [
    Change(name, before.get(name), after, name in _MEANING)
    for name, after in _flatten(_plain(config)).items()
    if before.get(name) != after
  ]


def _require_same_state(
  workdir: remote.AnyPath, before: dict[str, Any], config: ConfigDict
) -> None:
  """Refuses another optimizer, or an average that is not, or not used."""
  optimizer, averaged = before["optimizer"], before["ema_decay"] > 0
  if config.optimizer != optimizer:
    name, wanted = "optimizer", f"{optimizer!r}, whose state was saved"
  elif averaged != (config.ema_decay > 0):
    name = "ema_decay"
    wanted = "above 0, as weights and their average were saved"
    if not averaged:
      wanted = "0, as no average of its weights was saved"
  else:
    return
  raise ValueError(
    f"config.{name} must be {wanted} in {workdir}, got {config[name]!r}; undo "
    "this, or begin another --workdir from the weights of this one with "
    f"--config.init_from={workdir}"
  )


def scored_on(workdir: remote.AnyPath) -> dict[str, Any]:
  """What the scores of a run are of, by name; what is not known is left out.

  Raises:
    ValueError: a description in `workdir` is damaged.
  """
  data = _stored(workdir)
  evaluated = data.get("eval") or {}
  facts = {
    "data set": data.get("name"),
    "classes": data.get("class_names"),
    "split": evaluated.get("split"),
    "pictures": evaluated.get("images"),
    # That they are others, and not which, is told.
    "their content": evaluated.get("examples"),
  }
  config = _flatten(_read(workdir / _CONFIG) or {})
  facts |= {name: config.get(name) for name in _SCORING}
  return {name: value for name, value in facts.items() if value is not None}


def told(config: Sequence[Change], data: Changes | None = None) -> Changes:
  """Changes of the config, and of the data, as lines for `settle`."""
  found = Changes([], [])
  for change in config:
    (found.breaking if change.alters else found.other).append(str(change))
  if data is not None:
    found = Changes(found.breaking + data.breaking, found.other + data.other)
  return found


def data_changes(
  workdir: remote.AnyPath, data: Record, allow_changes: bool
) -> Changes:
  """What differs in the data from that which `workdir` was trained on so far.

  Args:
    workdir: of the run; where nothing is trained yet, nothing has changed.
    data: what `describe` says of the data set that is open.
    allow_changes: go on where nothing is known.

  Raises:
    ValueError: `data.json` is damaged, and `allow_changes` is not given.
  """
  if not has_begun(workdir):
    return Changes([], [])
  try:
    stored = _stored(workdir)
  except ValueError as error:
    if not allow_changes:
      raise ValueError(f"{error}; {_WITHOUT}") from None
    return Changes([], [])
  return changes(stored, data)


def _stored(workdir: remote.AnyPath) -> Record:
  """What is known of a run's data; older runs tell of the classes only."""
  stored = _read(workdir / _DATA)
  if stored is None:
    stored = (_read(workdir / "model.json") or {}).get("dataset", {})
  if not all(isinstance(stored.get(s, {}), dict) for s in ("train", "eval")):
    raise ValueError(_damaged(workdir / _DATA))
  return stored


def write_data(workdir: remote.AnyPath, data: Record) -> None:
  """Stores what `describe` says, for whoever continues the run."""
  if jax.process_index() == 0:
    _write_if_new(workdir / _DATA, json.loads(json.dumps(data)))


def settle(workdir: remote.AnyPath, found: Changes, allowed: bool) -> str:
  """Lines that tell of changes; "" if there are none.

  Raises:
    ValueError: one changes the meaning of the run, and that is not `allowed`.
  """
  if found.breaking and not allowed:
    raise ValueError(
      f"{workdir} was begun with something else: {'; '.join(found.breaking)}; "
      "undo this, give another --workdir, or go on with --allow_changes"
    )
  lines = [f"\n  {line}" for line in found.breaking + found.other]
  return f"changed since this run was begun:{''.join(lines)}" if lines else ""


def write_config(
  workdir: remote.AnyPath,
  config: ConfigDict,
  changes: Sequence[Change],
  step: int,
) -> None:
  """Writes `config.json`, with what was changed at `step` and before.

  "history" is a list of {"step", "changes": {name: [before, after]}}.
  """
  try:
    before = _read(workdir / _CONFIG) or {}
  except ValueError:
    before = {}
  history = before.get(_HISTORY) if has_begun(workdir) else None
  history = history if isinstance(history, list) else []
  values = {c.name: [c.before, c.after] for c in changes}
  entry = {"step": step, "changes": values}
  if changes and entry not in history[-1:]:  # Called again, it is there.
    history = [*history, entry]
  content = _plain(config) | ({_HISTORY: history} if history else {})
  _write_if_new(workdir / _CONFIG, content)


def _read(path: remote.AnyPath) -> dict[str, Any] | None:
  """The content of one of a run's JSON files, None without it.

  Raises:
    ValueError: it is damaged.
  """
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise ValueError(_damaged(path))
  return content


def _damaged(path: remote.AnyPath) -> str:
  return f"{path} is damaged: restore it from a copy"


def _write_if_new(path: remote.AnyPath, content: dict[str, Any]) -> None:
  try:
    before = _read(path)
  except ValueError:
    before = None
  # As texts: the order of examples counts, which a dict's equality ignores.
  if json.dumps(content) != json.dumps(before):
    atomic.write_json(path, content)


def has_begun(workdir: remote.AnyPath) -> bool:
  """Whether the run has saved a step, and so goes on with its own weights."""
  return bool(wholeness.steps(workdir / "checkpoints"))


def _plain(config: ConfigDict) -> dict[str, Any]:
  return json.loads(config.to_json_best_effort())


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Dotted names -> values."""
  fields = {}
  for name, value in content.items():
    if isinstance(value, dict):
      fields |= _flatten(value, f"{prefix}{name}.")
    else:
      fields[prefix + name] = value
  return fields


def _text(value: Any) -> str:
  return value if isinstance(value, str) and value else json.dumps(value)
